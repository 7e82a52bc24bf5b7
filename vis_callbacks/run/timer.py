"""Where the seconds go."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class Timer:
    """Seconds of pictures by part, their sum, and the seconds of the training beside them.

    Attributes:
        seconds: By part.
        pass_seconds: What one forward and backward of one image takes; 0 before there was a shared pass.

    Example:
        >>> timer = Timer()
        >>> with timer.time("drawing"):
        ...     pass
        >>> list(timer.seconds)
        ['drawing']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = 0.0
        self._divided: dict[str, float] = defaultdict(float)
        self.pass_seconds = 0.0
        self._training = 0.0
        self._training_since: float | None = None
        self._before = 0.0

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Count the time inside to a part; time that is counted to an inner part is not counted twice."""
        start, outer = time.perf_counter(), self._inner
        self._inner = 0.0
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[part] += elapsed - self._inner
            self._inner = outer + elapsed

    @contextmanager
    def divided(self, part: str, names: Sequence[str]) -> Iterator[None]:
        """Divide what a part takes inside equally among those who share it, see `spent`.

        Example:
            >>> timer = Timer()
            >>> with timer.divided("shared pass", ["GradCAM", "Saliency"]), timer.time_pass(8):
            ...     pass
            >>> timer.spent("GradCAM") == timer.seconds["shared pass"] / 2 > 0
            True
        """
        before = self.seconds[part]
        yield
        for name in names:
            self._divided[name] += (self.seconds[part] - before) / len(names)

    @contextmanager
    def time_pass(self, images: int) -> Iterator[None]:
        """Count the time inside to the shared pass of so many images."""
        start = time.perf_counter()
        with self.time("shared pass"):
            yield
        found = (time.perf_counter() - start) / images
        # A model's first passes take longer.
        self.pass_seconds = min(self.pass_seconds or found, found)

    def spent(self, name: str) -> float:
        """Seconds of the part of this name, with its share of divided ones."""
        return self.seconds.get(name, 0.0) + self._divided.get(name, 0.0)

    @property
    def total(self) -> float:
        """Seconds of all parts."""
        return sum(self.seconds.values())

    def training_starts(self) -> None:
        """The time from now on is the training's, but for what is counted to a part."""
        self.training_ends()
        self._training_since, self._before = time.perf_counter(), self.total

    def training_ends(self) -> None:
        """The time from now on is nobody's, until a training starts again. May be called twice."""
        self._training, self._training_since = self.training, None

    @property
    def training(self) -> float:
        """Seconds of all trainings up to now."""
        if self._training_since is None:
            return self._training
        elapsed = time.perf_counter() - self._training_since
        return self._training + max(elapsed - (self.total - self._before), 0.0)
