"""The hooks of one Trainer's callbacks, on which their run acts."""

from typing import Any

from torch import Tensor

from vis_callbacks._lightning import (
    LightningCallback,
    LightningModule,
    Trainer,
    callbacks_of,
    is_fitting,
    put_first,
)
from vis_callbacks.model.subject import Forward
from vis_callbacks.run.run import Run


class RunHooks(LightningCallback):
    """A callback that calls the `Run` of its Trainer in each hook, if it leads that run."""

    forward_for_all: Forward = None
    """What all callbacks of the Trainer show that say nothing else."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Join the run. These callbacks come before all others, which may swap weights when validation ends."""
        put_first(trainer, RunHooks)
        run = Run.of(trainer)
        run.members.join(self)
        ours = [callback for callback in callbacks_of(trainer) if isinstance(callback, RunHooks)]
        run.inputs.subjects.default = next(
            (one.forward_for_all for one in ours if one.forward_for_all is not None), None
        )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the options against the model, which is built now."""
        if run := self._led(trainer):
            run.start(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the pictures of the initial weights."""
        if run := self._led(trainer):
            run.train_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the metrics of the epoch before, which are complete now."""
        if run := self._led(trainer):
            run.recorder.read_metrics(trainer, "train")
            run.pass_start(trainer, "train")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Take samples from the batch, if there is no validation, and watch what the step does with it."""
        if run := self._led(trainer):
            run.observe_batch(trainer, "train", batch)
            run.batch_start(trainer, pl_module, "train", batch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Look at the graph of the loss, which the backward frees."""
        if run := self._led(trainer):
            run.loss_computed(loss)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Make the pictures that are due by steps."""
        if run := self._led(trainer):
            run.batch_end(trainer, pl_module, "train", outputs)
            run.step_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the pictures that are due at the end of a training epoch."""
        if run := self._led(trainer):
            run.stage_end(trainer, pl_module, "train")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the pictures that still wait, and read the metrics of the last epoch, which are complete now."""
        if run := self._led(trainer):
            run.train_end(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the metrics of training, to know those of validation afterwards."""
        if run := self._led(trainer):
            if not is_fitting(trainer):
                run.start(trainer, pl_module)
            run.recorder.read_metrics(trainer, "validation starts")
            run.pass_start(trainer, "validation")

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Watch what the step does with the batch."""
        if run := self._led(trainer):
            run.batch_start(trainer, pl_module, "validation", batch, dataloader_idx)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take samples from the batch."""
        if run := self._led(trainer):
            run.observe_batch(trainer, "validation", batch, dataloader_idx)
            run.batch_end(trainer, pl_module, "validation", outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the pictures that are due at the end of validation."""
        if run := self._led(trainer):
            run.stage_end(trainer, pl_module, "validation")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the metrics of validation, which are complete now."""
        if run := self._led(trainer):
            run.recorder.read_metrics(trainer, "validation")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start a test."""
        if run := self._led(trainer):
            run.start(trainer, pl_module)
            run.pass_start(trainer, "test")

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Watch what the step does with the batch."""
        if run := self._led(trainer):
            run.batch_start(trainer, pl_module, "test", batch)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take samples from the batch."""
        if run := self._led(trainer):
            run.observe_batch(trainer, "test", batch, dataloader_idx)
            run.batch_end(trainer, pl_module, "test", outputs)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the pictures that are due at the end of a test."""
        if run := self._led(trainer):
            run.stage_end(trainer, pl_module, "test")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write everything to disk."""
        if run := self._led(trainer):
            run.finalize(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write everything to disk, with the error that stopped the run."""
        if run := self._led(trainer):
            run.finalize(trainer, exception)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write everything to disk, after a validation or test too, and say why something is not shown."""
        if run := self._led(trainer):
            run.finalize(trainer)
            run.explain(trainer)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without what belongs to one run in one process: the run, and methods lent by Lightning."""
        return {name: value for name, value in vars(self).items() if name not in ("_run", "log", "log_dict")}

    def _led(self, trainer: Trainer) -> Run | None:
        run = Run.of(trainer)
        return run if run.members.led_by(self) else None
