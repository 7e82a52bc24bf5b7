"""A line on stderr for work that takes longer than a few seconds."""

from __future__ import annotations

import sys
import time

from torch import distributed

PATIENCE = 3.0
"""Seconds of silence before the first line."""


class Progress:
    """Tells how far a loop is, once it has taken longer than `PATIENCE`.

    A terminal gets one line that is rewritten, a log file a new line every ten seconds. Of several processes the first
    one speaks.

    Args:
        what: What is being made.
        steps: Number of steps of the whole.
        shown: Whether to show anything at all.
    """

    def __init__(self, what: str, steps: int, *, shown: bool = True) -> None:
        first = not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0
        self._what, self._steps, self._shown = what, steps, shown and first
        self._start = time.monotonic()
        self._due = self._start + PATIENCE
        self._width = 0

    def update(self, step: int) -> None:
        """Say that so many steps are done."""
        now = time.monotonic()
        if not self._shown or now < self._due:
            return
        terminal = sys.stderr.isatty()
        self._due = now + (0.2 if terminal else 10.0)
        left = (now - self._start) / step * (self._steps - step)
        line = f"{self._what}: step {step} of {self._steps}, about {left:.0f} s left"
        if terminal:
            sys.stderr.write("\r" + line.ljust(self._width))
            sys.stderr.flush()
            self._width = len(line)
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Clear the line."""
        if self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()
            self._width = 0
