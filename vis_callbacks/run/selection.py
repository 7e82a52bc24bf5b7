"""Decides which callbacks make pictures at a moment: whose time it is, who has samples, and whom the budget allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from vis_callbacks._lightning import Trainer, is_fitting
from vis_callbacks.data.samples import Samples
from vis_callbacks.event import Moment
from vis_callbacks.output.writer import Output
from vis_callbacks.run.budget import Budget
from vis_callbacks.run.distributed import Sharing
from vis_callbacks.run.timer import Timer
from vis_callbacks.run.warn_once import WarnOnce

if TYPE_CHECKING:
    from vis_callbacks.callback import VisualizationCallback


class Due:
    """Who is due, as the process that writes decides for all.

    Args:
        names: The callbacks that make pictures, each with its name; more may join.
        sharing: How the other processes hear of it.
        timer: Where the seconds of pictures are counted.
        budget: What they may cost.
        complaints: Where it is said that a callback cannot be reckoned with.
    """

    def __init__(
        self,
        names: Mapping[VisualizationCallback, str],
        sharing: Sharing,
        timer: Timer,
        budget: Budget,
        complaints: WarnOnce,
    ) -> None:
        self._names = names
        self._sharing = sharing
        self._timer = timer
        self._budget = budget
        self._complaints = complaints

    def among(
        self,
        asked: Sequence[VisualizationCallback],
        trainer: Trainer,
        output: Output | None,
        samples: Callable[[VisualizationCallback], Samples | None],
        moment: Moment,
    ) -> list[VisualizationCallback]:
        """Return which callbacks make pictures now; to be made right away, so that the budget sees what they cost.

        Args:
            asked: Those whose schedules say that it is time; the same in all processes.
            trainer: Where the run stands.
            output: That of the process that writes; None in the others.
            samples: Returns those of a callback, or None while there are none.
            moment: When they would be made. Pictures of the initial weights come before any budget.
        """
        if not asked:
            return []
        due: list[VisualizationCallback] = []
        passes: dict[str, int] = {}
        if output is not None:
            # All callbacks, also those not asked: samples are chosen at the first chance.
            able = [callback for callback in self._names if _has_samples(callback, samples)]
            due = [callback for callback in asked if callback in able]
            passes = {self._names[callback]: self._passes(callback, moment, samples) for callback in due}
            if is_fitting(trainer) and moment.epoch > 0:
                due = self._affordable(due, passes, trainer, output)
        due = self._sharing.agree(list(self._names), asked, due)
        if output is not None:
            names = [self._names[callback] for callback in due]
            self._budget.begin({name: passes.get(name, 0) for name in names}, self._spent(output))
        return due

    def _affordable(
        self, due: list[VisualizationCallback], passes: Mapping[str, int], trainer: Trainer, output: Output
    ) -> list[VisualizationCallback]:
        """Return whose pictures the training can pay for; the others try again the next time that it is theirs."""
        if not any(self._budget.bounds(callback.budget) for callback in due):
            return due
        spent = self._spent(output)
        chosen = self._budget.affordable(
            {self._names[callback]: callback.budget for callback in due},
            self._budget.costs(passes, spent, pass_seconds=self._timer.pass_seconds),
            spent,
            training=self._timer.training,
            everything=self._timer.total + sum(output.drawing_seconds.values()),
        )
        for callback in due:
            if self._names[callback] not in chosen:
                callback.schedule.mark_done(step=trainer.global_step)
                callback.left_out = sorted({*callback.left_out, trainer.current_epoch + 1})
        return [callback for callback in due if self._names[callback] in chosen]

    def _passes(
        self,
        callback: VisualizationCallback,
        moment: Moment,
        samples: Callable[[VisualizationCallback], Samples | None],
    ) -> int:
        if not callback.uses_samples or not self._budget.bounds(callback.budget):
            return 0
        try:
            found = samples(callback)
        except Exception:
            return 0  # said when the picture is made
        try:
            return callback.passes(moment, found) if found is not None else 0
        except Exception as error:
            what = "cannot say how many passes it takes"
            self._complaints.say(self._names[callback], what, error, "its budget goes by what it cost last")
            return 0

    def _spent(self, output: Output) -> dict[str, float]:
        """Return the seconds that each callback has taken, with its part of the passes that it shared."""
        drawing = output.drawing_seconds
        return {name: self._timer.spent(name) + drawing.get(name, 0.0) for name in self._names.values()}


def _has_samples(callback: VisualizationCallback, samples: Callable[[VisualizationCallback], Samples | None]) -> bool:
    """Whether a callback can make pictures now: that no samples have passed by yet is no fault."""
    if not callback.uses_samples:
        return True
    try:
        return samples(callback) is not None
    except Exception:
        return True  # it is asked again when the picture is made, and said there
