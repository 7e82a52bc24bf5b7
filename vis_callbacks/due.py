"""Decides which callbacks make pictures at a moment: whose time it is, who has samples, and whom the budget allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from vis_callbacks._lightning import Trainer, fits
from vis_callbacks.budget import Budget
from vis_callbacks.ledger import Ledger
from vis_callbacks.output import Output
from vis_callbacks.samples import Samples
from vis_callbacks.sharing import Sharing

if TYPE_CHECKING:
    from vis_callbacks.callback import VisualizationCallback


class Due:
    """Who is due, as the process that writes decides for all.

    Args:
        names: The callbacks that make pictures, each with its name; more may join.
        sharing: How the other processes hear of it.
        ledger: Where the seconds of pictures are counted.
        budget: What they may cost.
    """

    def __init__(
        self, names: Mapping[VisualizationCallback, str], sharing: Sharing, ledger: Ledger, budget: Budget
    ) -> None:
        self._names = names
        self._sharing = sharing
        self._ledger = ledger
        self._budget = budget

    def among(
        self,
        asked: Sequence[VisualizationCallback],
        trainer: Trainer,
        output: Output | None,
        samples: Callable[[VisualizationCallback], Samples | None],
        *,
        initial: bool = False,
    ) -> list[VisualizationCallback]:
        """Return which callbacks make pictures now; to be made right away, so that the budget sees what they cost.

        Args:
            asked: Those whose schedules say that it is time; the same in all processes.
            trainer: Where the run stands.
            output: That of the process that writes; None in the others.
            samples: Returns those of a callback, or None while there are none.
            initial: Whether these are the pictures of the initial weights, which come before any budget.
        """
        if not asked:
            return []
        due: list[VisualizationCallback] = []
        if output is not None:
            # All callbacks, also those not asked: samples are chosen at the first chance.
            able = [callback for callback in self._names if _has_samples(callback, samples)]
            due = [callback for callback in asked if callback in able]
            if not initial:
                due = self._affordable(due, trainer, output)
        due = self._sharing.agree(list(self._names), asked, due)
        if output is not None:
            self._budget.begin([self._names[callback] for callback in due], self._spent(output))
        return due

    def _affordable(
        self, due: list[VisualizationCallback], trainer: Trainer, output: Output
    ) -> list[VisualizationCallback]:
        """Return whose pictures the training can pay for; the others try again at the next end of an epoch."""
        if not fits(trainer) or not any(self._budget.bounds(callback.budget) for callback in due):
            return due
        chosen = self._budget.affordable(
            {self._names[callback]: callback.budget for callback in due},
            self._spent(output),
            training=self._ledger.training,
            everything=self._ledger.total + sum(output.drawing_seconds.values()),
        )
        for callback in due:
            if self._names[callback] not in chosen:
                callback.schedule.fired(step=trainer.global_step)
                callback.left_out = sorted({*callback.left_out, trainer.current_epoch + 1})
        return [callback for callback in due if self._names[callback] in chosen]

    def _spent(self, output: Output) -> dict[str, float]:
        """Return the seconds that each callback has taken, with its part of the passes that it shared."""
        drawing = output.drawing_seconds
        return {name: self._ledger.spent(name) + drawing.get(name, 0.0) for name in self._names.values()}


def _has_samples(callback: VisualizationCallback, samples: Callable[[VisualizationCallback], Samples | None]) -> bool:
    """Whether a callback can make pictures now: that no samples have passed by yet is no fault."""
    if not callback.uses_samples:
        return True
    try:
        return samples(callback) is not None
    except Exception:
        return True  # it is asked again when the picture is made, and said there
