"""How long training and pictures take."""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class Timer:
    """Seconds of pictures by part, and of training without them.

    Attributes:
        seconds: By part.
        pass_seconds: Seconds of one forward and backward of one image; 0 before the first shared pass.

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
        self._split: dict[str, float] = defaultdict(float)
        self.pass_seconds = 0.0
        self._training = 0.0
        self._training_since: float | None = None
        self._before = 0.0

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Add the time inside to a part, without the time of nested parts."""
        start, outer = time.perf_counter(), self._inner
        self._inner = 0.0
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[part] += elapsed - self._inner
            self._inner = outer + elapsed

    @contextmanager
    def split_evenly(self, part: str, names: Sequence[str]) -> Iterator[None]:
        """Split the time of a part inside evenly among the names, see `seconds_of`.

        Example:
            >>> timer = Timer()
            >>> with timer.split_evenly("shared pass", ["GradCAM", "Saliency"]), timer.time_pass(8):
            ...     pass
            >>> timer.seconds_of("GradCAM") == timer.seconds["shared pass"] / 2 > 0
            True
        """
        before = self.seconds[part]
        yield
        for name in names:
            self._split[name] += (self.seconds[part] - before) / len(names)

    @contextmanager
    def time_pass(self, images: int) -> Iterator[None]:
        """Add the time inside to ``"shared pass"``, a pass of `images` images."""
        start = time.perf_counter()
        with self.time("shared pass"):
            yield
        seconds = (time.perf_counter() - start) / images
        # A model's first passes take longer.
        self.pass_seconds = min(self.pass_seconds or seconds, seconds)

    def seconds_of(self, name: str) -> float:
        """Return the seconds of the part of this name, with its share of those split evenly."""
        return self.seconds.get(name, 0.0) + self._split.get(name, 0.0)

    @property
    def total(self) -> float:
        """Seconds of all parts."""
        return sum(self.seconds.values())

    def training_starts(self) -> None:
        """Start counting training time. The time of parts is not counted."""
        self.training_ends()
        self._training_since, self._before = time.perf_counter(), self.total

    def training_ends(self) -> None:
        """Stop counting training time. Idempotent."""
        self._training, self._training_since = self.training, None

    @property
    def training(self) -> float:
        """Seconds of training up to now, in all fits."""
        if self._training_since is None:
            return self._training
        elapsed = time.perf_counter() - self._training_since
        return self._training + max(elapsed - (self.total - self._before), 0.0)
