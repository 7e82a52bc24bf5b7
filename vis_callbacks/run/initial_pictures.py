"""The pictures of the initial weights, which may have to wait for samples."""

from contextlib import nullcontext

from torch import Tensor

from vis_callbacks._lightning import LightningModule, Trainer
from vis_callbacks.event import Moment
from vis_callbacks.model.guard import copied_weights, swapped_weights
from vis_callbacks.run.budget import Budget
from vis_callbacks.run.events import Events
from vis_callbacks.run.selection import mark_done
from vis_callbacks.run.technique import Technique


class InitialPictures:
    """Makes each technique's first pictures; while some wait for samples, it keeps a copy of the initial weights.

    Args:
        events: Makes pictures.
        budget: What they may cost.
    """

    def __init__(self, events: Events, budget: Budget) -> None:
        self._events = events
        self._budget = budget
        self._waiting: list[Technique] = []
        # The initial weights, once training goes on.
        self._weights: dict[str, Tensor] | None = None

    def start(self, trainer: Trainer, module: LightningModule) -> None:
        """Make the first pictures of a new training, or keep the initial weights until there are samples for them."""
        # There is no training time yet that could pay for techniques of many passes.
        self._waiting = [
            technique
            for technique in self._events.mine
            if technique.schedule.before_training and not (technique.split and self._budget.bounds(technique.budget))
        ]
        self.make(trainer, module)
        if self._waiting:
            self._weights = copied_weights(module)

    def make(self, trainer: Trainer, module: LightningModule, *, complete: bool = False, now: bool = False) -> None:
        """Make the pictures of the techniques that wait and have samples now.

        For `complete` and `now` see `Events.select`; other pictures that are due now come after these.
        """
        if not self._waiting:
            return
        moment = Moment(0, 0)
        ready = self._events.select(self._waiting, moment, trainer, module, complete=complete, now=now)
        mark_done(ready, epoch=0)
        # A process that has lost the others makes none.
        made, mine = [one.technique for one in ready], self._events.mine
        self._waiting = [technique for technique in self._waiting if technique in mine and technique not in made]
        if ready:
            with nullcontext() if self._weights is None else swapped_weights(module, self._weights):
                self._events.make(ready, moment, trainer, module, complete)
        if not self._waiting:
            self._weights = None
