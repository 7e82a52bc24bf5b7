"""Where the seconds go."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Ledger:
    """Seconds by part, and their sum.

    Example:
        >>> ledger = Ledger()
        >>> with ledger.time("drawing"):
        ...     pass
        >>> list(ledger.seconds)
        ['drawing']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = 0.0

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

    @property
    def total(self) -> float:
        """Seconds of all parts."""
        return sum(self.seconds.values())
