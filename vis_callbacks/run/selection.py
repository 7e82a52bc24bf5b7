"""Which of the techniques that are due make pictures: those that have samples and that the budget can pay for."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from vis_callbacks.data.samples import Samples
from vis_callbacks.event import Moment
from vis_callbacks.model.subject import Subject
from vis_callbacks.run.budget import Budget
from vis_callbacks.run.technique import Technique


@dataclass(frozen=True, eq=False)
class Ready:
    """A technique with all that it needs to make its pictures at one event.

    Attributes:
        technique: The technique.
        name: Its name in this run.
        samples: What it looks at. None: there are none yet, or it needs none.
        error: Why there are no samples; the event reports it.
        passes: Passes of one image that the pictures take beyond the shared one; 0 if that is not known.
        subject: What its pictures are about. None: it is not known yet.
        model: The subject's network, from images to logits. None: the user's module.
    """

    technique: Technique
    name: str
    samples: Samples | None = None
    error: Exception | None = None
    passes: int = 0
    subject: Subject | None = field(default_factory=Subject)
    model: nn.Module | None = None

    @property
    def waits(self) -> bool:
        """Whether it has no subject or no samples yet, which is no fault."""
        missing = self.subject is None or (self.technique.uses_samples and self.samples is None)
        return missing and self.error is None


@dataclass(frozen=True)
class Spent:
    """Seconds up to now.

    Attributes:
        by_name: Of each technique of the run: what training waited for it, and the drawing beside training.
        pictures: Of all pictures, with what they share.
        training: Of training.
        per_pass: Of one forward and backward of one image; 0 before the first.
    """

    by_name: Mapping[str, float]
    pictures: float
    training: float
    per_pass: float


def select(
    due: Sequence[Ready],
    budget: Budget,
    spent: Spent,
    moment: Moment,
    *,
    later: Sequence[Ready] = (),
    last: bool = False,
) -> list[Ready]:
    """Return what is made now of what is due, in the same order.

    Whatever has samples, or an error to report, is made before training, outside of a fit and at the last event of a
    fit. At any other event of a fit, errors are reported, and pictures are made if the budget can pay for them.

    Args:
        due: The techniques that are due.
        budget: What pictures may cost.
        spent: What they have cost so far.
        moment: When they would be made.
        later: The techniques that are not due now, and may be at the last event.
        last: Whether this is the last event of a fit.
    """
    able = [one for one in due if not one.waits]
    paid = moment.stage == "fit" and moment.epoch > 0 and not last
    if not (paid and any(budget.bounds(one.technique.budget) for one in able)):
        return able
    costly = {one.name: one.passes for one in (*able, *later) if not one.waits and one.error is None}
    affordable = budget.affordable(
        {one.name: one.technique.budget for one in able if one.error is None},
        budget.costs(costly, spent.by_name, pass_seconds=spent.per_pass),
        spent.by_name,
        training=spent.training,
        everything=spent.pictures,
    )
    return [one for one in able if one.error is not None or one.name in affordable]


def mark_done(ready: Iterable[Ready], *, epoch: int | None = None, step: int | None = None) -> None:
    """Remember in the schedules that the pictures of an epoch's end, or of a step, are made."""
    for one in ready:
        one.technique.schedule.mark_done(epoch=epoch, step=step)
