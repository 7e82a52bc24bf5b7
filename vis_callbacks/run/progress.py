"""Where a Trainer stands: the stage, the epoch and the step."""

from dataclasses import dataclass

from vis_callbacks._lightning import Trainer, has_validation, metric_step, stage_of
from vis_callbacks.event import Moment


@dataclass(frozen=True)
class Progress:
    """Where a Trainer stands.

    Attributes:
        stage: What the user called: ``"fit"``, ``"validate"`` or ``"test"``.
        epoch: In a fit the number of the epoch that is running, from 1; otherwise the number of completed epochs.
        step: The x-axis value of the metrics that are logged now.
        sample_stage: The stage whose batches samples are taken from: validation where there is any.
    """

    stage: str
    epoch: int
    step: int
    sample_stage: str

    @classmethod
    def of(cls, trainer: Trainer) -> "Progress":
        """Read where a Trainer stands."""
        stage = stage_of(trainer)
        if stage == "fit":
            sample_stage = "validation" if has_validation(trainer) else "train"
        else:
            sample_stage = "test" if stage == "test" else "validation"
        return cls(stage, trainer.current_epoch + (1 if stage == "fit" else 0), metric_step(trainer), sample_stage)

    def end_of(self, stage: str) -> Moment:
        """Return the moment at which training, validation or test ends: that of the metrics logged there."""
        return Moment(self.epoch, max(self.step - (1 if stage == "train" else 0), 0), self.stage)
