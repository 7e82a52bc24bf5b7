"""Drawing and writing, off the training thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

Task = Callable[[], object]

MOST_WAITING = 1024


class Worker:
    """Runs tasks one after the other on a daemon thread, which starts with the first task.

    A task must not raise.

    Example:
        >>> worker, done = Worker(), []
        >>> worker.submit(lambda: done.append(1))
        >>> worker.drain(timeout=5), done
        (True, [1])
    """

    def __init__(self) -> None:
        self._tasks: queue.Queue[Task | None] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self.seconds = 0.0

    def submit(self, task: Task) -> None:
        """Run a task later. Waits only when very many are waiting already."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="vis-callbacks", daemon=True)
            self._thread.start()
        self._tasks.put(task)

    @property
    def running(self) -> bool:
        """Whether a task was submitted since the last `drain`."""
        return self._thread is not None

    def drain(self, timeout: float) -> bool:
        """Wait until all tasks are done, at most so many seconds, and end the thread; say whether they are."""
        thread = self._thread
        if thread is None:
            return True
        done = threading.Event()
        self._tasks.put(done.set)
        # Ctrl-C may end the waiting, but not the thread: the next `drain` waits for it again.
        done.wait(timeout)
        self._thread = None
        self._tasks.put(None)
        if done.is_set():
            thread.join()
        return done.is_set()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            start = time.perf_counter()
            task()
            self.seconds += time.perf_counter() - start
