"""A callback as a member of its Trainer's run: the hooks that the run acts on."""

from __future__ import annotations

from typing import Any

from vis_callbacks._lightning import LightningCallback, LightningModule, Trainer, is_fitting
from vis_callbacks.run.run import Run


class RunHooks(LightningCallback):
    """A callback that hands its hooks on to the `Run` of its Trainer, if it leads that run."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Join the run."""
        Run.of(trainer).join(self)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand on."""
        if run := self._led(trainer):
            run.begin(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand on."""
        if run := self._led(trainer):
            run.train_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand on: the metrics of the epoch before are complete now."""
        if run := self._led(trainer):
            run.read_metrics(trainer, "train")
            run.pass_start(trainer, "train")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Hand on."""
        if run := self._led(trainer):
            run.offer(trainer, pl_module, "train", batch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Hand on."""
        if run := self._led(trainer):
            run.step_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand on."""
        if run := self._led(trainer):
            run.stage_end(trainer, pl_module, "train")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand on: the metrics of the last epoch are complete now."""
        if run := self._led(trainer):
            run.read_metrics(trainer, "train")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand on."""
        if run := self._led(trainer):
            if not is_fitting(trainer):
                run.begin(trainer, pl_module)
            run.read_metrics(trainer, "validation starts")
            run.pass_start(trainer, "validation")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Hand on."""
        if run := self._led(trainer):
            run.offer(trainer, pl_module, "validation", batch, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand on."""
        if run := self._led(trainer):
            run.stage_end(trainer, pl_module, "validation")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand on."""
        if run := self._led(trainer):
            run.read_metrics(trainer, "validation")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand on."""
        if run := self._led(trainer):
            run.begin(trainer, pl_module)
            run.pass_start(trainer, "test")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Hand on."""
        if run := self._led(trainer):
            run.offer(trainer, pl_module, "test", batch, dataloader_idx)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand on."""
        if run := self._led(trainer):
            run.stage_end(trainer, pl_module, "test")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand on."""
        if run := self._led(trainer):
            run.finalize(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Hand on."""
        if run := self._led(trainer):
            run.finalize(trainer, exception)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hand on."""
        if run := self._led(trainer):
            run.finalize(trainer)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to one run in one process: the run, and the methods that Lightning lends."""
        return {name: value for name, value in vars(self).items() if name not in ("_run", "log", "log_dict")}

    def _led(self, trainer: Trainer) -> Run | None:
        run = Run.of(trainer)
        return run if run.led_by(self) else None
