"""What goes wrong with pictures, said once."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable

from vis_callbacks.errors import NotFiniteError


class VisualizationWarning(UserWarning):
    """A picture could not be made or written; training goes on."""


class WarnOnce:
    """The warnings of one run, each of them given once.

    Example:
        >>> complaints = WarnOnce()
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     for _ in range(2):
        ...         complaints.say("Filters", "made no pictures", ValueError("no layer"), "name one")
        >>> [str(one.message) for one in caught]
        ['Filters made no pictures: ValueError: no layer. Training goes on, and it is tried again (name one).']
    """

    def __init__(self) -> None:
        self._said: set[Hashable] = set()

    def say(self, who: str, what: str, error: Exception, remedy: str) -> None:
        """Say what somebody failed to do, and why; not again for an error of the same type."""
        # What is wrong with the weights or the disk hinders all callbacks alike, and the run's other files too.
        common = isinstance(error, (NotFiniteError, OSError))
        text = f"{who} {what}: {type(error).__name__}: {error}. Training goes on, and it is tried again ({remedy})."
        self._say_once((type(error), "" if common else who), text)

    def say_unwritten(self, problems: Iterable[tuple[str, Exception]]) -> None:
        """Say what could not be written, see `Output.problems`."""
        for name, error in problems:
            remedy = "look at the disk's space and the folder's rights" if isinstance(error, OSError) else "report it"
            self.say(name or "The picture store", "could not be written", error, remedy)

    def say_sharded(self, strategy: str) -> None:
        """Say that there are no pictures with a strategy that gives each process a part of the weights alone."""
        self._say_once(
            strategy,
            f"Pictures are off: with {strategy} each process holds but a part of the weights, and a pass that one "
            "makes alone would wait for the others without end. Training goes on. For pictures train with "
            "strategy='ddp', or give a checkpoint to Trainer.validate on one device.",
        )

    def _say_once(self, key: Hashable, text: str) -> None:
        if key not in self._said:
            self._said.add(key)
            warnings.warn(text, VisualizationWarning, stacklevel=3)
