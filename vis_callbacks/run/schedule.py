"""When a callback makes its pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from vis_callbacks import checks

Stage = Literal["train", "validation", "test"]


@dataclass
class Schedule:
    """Every n epochs at the end of given stages, every n optimizer steps, or both.

    Attributes:
        on: Stages at whose end pictures are made.
        every_n_epochs: Epochs between pictures. None: not by epochs.
        every_n_steps: Optimizer steps between pictures. None: not by steps.
        last_epoch: The last epoch at whose end pictures were made; 0: before training; -1: none were made yet.
        last_step: The last optimizer step after which pictures were due by steps.

    Raises:
        ConfigurationError: If a stage is unknown or a number is not positive.
    """

    on: Sequence[Stage] = ("validation",)
    every_n_epochs: int | None = 1
    every_n_steps: int | None = None
    last_epoch: int = -1
    last_step: int = 0

    @classmethod
    def of(cls, on: Stage | Sequence[Stage], every_n_epochs: int | None, every_n_steps: int | None) -> "Schedule":
        """Return the schedule for a callback's arguments: every epoch if both numbers are None."""
        if every_n_epochs is None and every_n_steps is None:
            every_n_epochs = 1
        return cls((on,) if isinstance(on, str) else on, every_n_epochs, every_n_steps)

    def __post_init__(self) -> None:
        self.on = checks.several("on", self.on, partial(checks.one_of, words=Stage), "'train', 'validation' or 'test'")
        self.every_n_epochs = checks.optional(checks.whole, "every_n_epochs", self.every_n_epochs)
        self.every_n_steps = checks.optional(checks.whole, "every_n_steps", self.every_n_steps)

    @property
    def before_training(self) -> bool:
        """Whether pictures of the initial weights are made too."""
        return self.on != ("test",)

    def due_epoch(self, epoch: int) -> bool:
        """Whether pictures are due at the end of an epoch, counted from 1.

        They are due at the first end at or after each multiple of `every_n_epochs`, so that a schedule also works if
        validation itself runs every few epochs. A second validation in the same epoch is due like the first.

        Example:
            >>> schedule = Schedule(every_n_epochs=2)
            >>> for epoch in range(1, 7):
            ...     if schedule.due_epoch(epoch):
            ...         schedule.mark_done(epoch=epoch)
            ...         print(epoch)
            2
            4
            6
        """
        every = self.every_n_epochs
        return every is not None and (epoch == self.last_epoch or epoch // every > max(self.last_epoch, 0) // every)

    def due_step(self, step: int) -> bool:
        """Whether pictures are due after an optimizer step."""
        every = self.every_n_steps
        return every is not None and step // every > self.last_step // every

    def mark_done(self, *, epoch: int | None = None, step: int | None = None) -> None:
        """Remember that the pictures of an epoch's end, or of a step, were made."""
        if epoch is not None:
            self.last_epoch = epoch
        if step is not None:
            self.last_step = step
