"""The callbacks that also look at the batches and steps of a training as they pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from vis_callbacks.model.subject import Forward, Subject
from vis_callbacks.run.technique import Finder, Watcher
from vis_callbacks.run.timer import Timer
from vis_callbacks.run.warn_once import WarnOnce


class Watchers:
    """Lets callbacks look, counts their seconds, and goes on without one that fails.

    Args:
        timer: Where the seconds are counted.
        warnings: Where failures are reported.

    Attributes:
        active: Whether this process tells what they find; else they do not look.
    """

    def __init__(self, timer: Timer, warnings: WarnOnce) -> None:
        self.active = False
        self._timer = timer
        self._warnings = warnings
        self._all: dict[str, tuple[Watcher, Forward]] = {}
        self._finders: dict[str, Finder] = {}
        self._failed: set[str] = set()

    def add(self, name: str, watcher: Watcher, forward: Forward) -> None:
        """Add a callback, and the option that says which network it looks at."""
        self._all[name] = watcher, forward
        if isinstance(watcher, Finder):
            self._finders[name] = watcher

    def training_starts(self, module: nn.Module, optimized: frozenset[int]) -> None:
        """Let them look at the module before the first step."""
        for name, watcher, _ in self._looking():
            with self._guarded(name, watcher):
                watcher.training_starts(module, optimized)

    def batch_starts(
        self,
        stage: str,
        epoch: int,
        part: int,
        module: nn.Module,
        batch: Any,
        subject_of: Callable[[Forward], Subject | None],
    ) -> None:
        """Let them look at a batch, see `Watcher`."""
        for name, watcher, forward in self._looking():
            with self._guarded(name, watcher):
                watcher.batch_starts(stage, epoch, part, module, batch, subject_of(forward))

    def loss_computed(self, loss: Tensor) -> None:
        """Let those that look for faults look at the loss of a step, before its backward."""
        for name, finder in self._finding():
            with self._guarded(name, finder):
                finder.loss_computed(loss)

    def batch_ends(self, stage: str, module: nn.Module, outputs: Any, optimized: Callable[[], frozenset[int]]) -> None:
        """Let them look at what a step returned."""
        for name, watcher, _ in self._looking():
            with self._guarded(name, watcher):
                watcher.batch_ends(stage, module, outputs, optimized)

    def training_ends(self, epoch: int) -> None:
        """Let them say what is left to say."""
        for name, watcher, _ in self._looking():
            with self._guarded(name, watcher):
                watcher.training_ends(epoch)

    def stop(self) -> None:
        """Leave the module alone. Idempotent."""
        for name, watcher, _ in self._looking():
            self._leave(name, watcher)

    def findings(self) -> dict[str, Any] | None:
        """Return what all have found, as plain values; None if nobody looks for faults."""
        found = [finder.findings_document(name) for name, finder in self._finding()]
        if not found:
            return None
        return {key: [item for one in found for item in one[key]] for key in ("checked", "findings")}

    def _looking(self) -> list[tuple[str, Watcher, Forward]]:
        if not self.active:
            return []
        return [(name, *one) for name, one in self._all.items() if name not in self._failed]

    def _finding(self) -> list[tuple[str, Finder]]:
        return [(name, self._finders[name]) for name, *_ in self._looking() if name in self._finders]

    @contextmanager
    def _guarded(self, name: str, watcher: Watcher) -> Iterator[None]:
        with self._timer.time(name):
            try:
                yield
            except Exception as error:
                self._warnings.warn(name, "cannot watch this training", error, "report it")
                self._leave(name, watcher)
                self._failed.add(name)

    def _leave(self, name: str, watcher: Watcher) -> None:
        try:
            watcher.stop_watching()
        except Exception as error:
            self._failed.add(name)
            self._warnings.warn(name, "cannot stop watching", error, "report it")
