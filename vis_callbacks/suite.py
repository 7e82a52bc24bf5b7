"""A good set of callbacks to start with, as a list and as one callback."""

from typing import Any

from typing_extensions import Unpack

from vis_callbacks._lightning import LightningModule, Trainer
from vis_callbacks.attribution.fine_cam import FineCAM
from vis_callbacks.attribution.saliency import Saliency
from vis_callbacks.callback import InputOptions
from vis_callbacks.diagnostics.callback import Diagnostics
from vis_callbacks.inspection.activations import Activations
from vis_callbacks.inspection.filters import Filters
from vis_callbacks.model.subject import Forward
from vis_callbacks.report.callback import Report
from vis_callbacks.run.hooks import RunHooks
from vis_callbacks.synthesis.class_appearance import ClassAppearance


def default_suite(
    *,
    budget: float | None = 0.05,
    forward: Forward = None,
    chunk_size: int | None = None,
    **inputs: Unpack[InputOptions],
) -> list[RunHooks]:
    """Return callbacks that together show much in little time, with a report at the end.

    With the default budget they take at most 5 % of trainings of ten minutes and more, and at most twenty seconds
    below, unless the last event, which shows everything, takes more by itself.

    Args:
        budget: Share of the training time that all of them together may take, see `Report`. None: no bound.
        forward: What all of them show, see `VisualizationCallback`.
        chunk_size: Images in one pass, see `Report`. None: chosen.
        inputs: ``mean``, ``std``, ``class_names``, ``bands`` and ``batch_to_images`` of all, where they are not found;
            see `VisualizationCallback`.

    Example:
        >>> [type(callback).__name__ for callback in default_suite()]
        ['Diagnostics', 'Filters', 'Activations', 'Saliency', 'FineCAM', 'ClassAppearance', 'Report']
    """
    # All look at the same samples, so that one pass serves them.
    looking = [
        Activations(depth=2, max_channels=16, samples=4, **inputs),
        Saliency(samples=4, **inputs),
        FineCAM(samples=4, **inputs),
    ]
    return [
        # First, as what it finds out is told first.
        Diagnostics(samples=4, **inputs),
        Filters(**inputs),
        *looking,
        ClassAppearance(samples=4, **inputs),
        Report(budget=budget, forward=forward, chunk_size=chunk_size),
    ]


class DefaultSuite(RunHooks):
    """Stands for all callbacks of `default_suite`, where one class must be named: in LightningCLI and Hydra.

    They join the run, so that pictures, tags and report are those of the list. Other callbacks may stand beside it.

    Args:
        budget: Share of the training time that all of them together may take. None: no bound.
        forward: How the network is called, see `Report`. None: found.
        chunk_size: Images in one pass, see `Report`. None: chosen.
        inputs: How batches are read and shown, see `default_suite`.

    Attributes:
        callbacks: The callbacks; the last one is the `Report`.

    Example:
        In a YAML file of LightningCLI::

            trainer:
              callbacks:
                - class_path: vis_callbacks.DefaultSuite
                  init_args: {budget: 0.1}

        >>> [callback.name for callback in DefaultSuite().callbacks[:-1]]
        ['Diagnostics', 'Filters', 'Activations', 'Saliency', 'FineCAM', 'ClassAppearance']
    """

    def __init__(
        self,
        *,
        budget: float | None = 0.05,
        forward: Forward = None,
        chunk_size: int | None = None,
        **inputs: Unpack[InputOptions],
    ) -> None:
        super().__init__()
        self.callbacks = default_suite(budget=budget, forward=forward, chunk_size=chunk_size, **inputs)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Join the run, and let the callbacks join it."""
        super().setup(trainer, pl_module, stage)
        for callback in self.callbacks:
            callback.setup(trainer, pl_module, stage)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Let the callbacks look at the batch too: the run alone acts on all other hooks."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        for callback in self.callbacks:
            callback.on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def state_dict(self) -> dict[str, Any]:
        """Return the callbacks' states, each under the key that it has in a checkpoint of its own."""
        states = {callback.state_key: callback.state_dict() for callback in self.callbacks}
        return {key: state for key, state in states.items() if state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        for callback in self.callbacks:
            if callback.state_key in state_dict:
                callback.load_state_dict(state_dict[callback.state_key])

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Continue from a checkpoint of a Trainer that had the callbacks as a list."""
        self.load_state_dict(checkpoint.get("callbacks", {}))
