"""A thread that draws and writes while training goes on."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Task = Callable[[], object]

MOST_WAITING = 1024  # tasks
PATIENCE = 120.0
"""Seconds that `submit` waits, once, for a full queue to move."""
HELD = 2.0
"""Most seconds that `Worker.held` holds tasks back: what takes longer is shown while it goes on."""


class Worker:
    """Runs tasks in order on a daemon thread, which starts with the first task.

    A task must not raise.

    Attributes:
        seconds: Time spent on tasks so far.

    Example:
        >>> worker, done = Worker(), []
        >>> worker.submit(lambda: done.append(1))
        True
        >>> worker.drain(timeout=5), done
        (True, [1])
    """

    def __init__(self) -> None:
        self._tasks: queue.Queue[Task | None] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._stuck = False
        self._free = threading.Event()
        self._free.set()
        self._until = 0.0
        self.seconds = 0.0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Begin no task inside, for `HELD` seconds: it would take turns with the caller at each of its short steps."""
        self._until = time.monotonic() + HELD
        self._free.clear()
        try:
            yield
        finally:
            self._free.set()

    def submit(self, task: Task) -> bool:
        """Queue a task; return False if the queue is full and does not move within `PATIENCE` seconds."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, args=(self._tasks,), name="vis-callbacks", daemon=True)
            self._thread.start()
        try:
            self._tasks.put(task, timeout=0 if self._stuck else PATIENCE)
        except queue.Full:
            self._stuck = True
        else:
            self._stuck = False
        return not self._stuck

    @property
    def running(self) -> bool:
        """Whether a task was submitted since the last `drain`."""
        return self._thread is not None

    def drain(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until all tasks are done, then end the thread; return whether they are done."""
        thread = self._thread
        if thread is None:
            return True
        until = time.monotonic() + timeout
        done = threading.Event()
        with suppress(queue.Full):
            self._tasks.put(done.set, timeout=timeout)
            # Ctrl-C ends this wait but not the thread: the next `drain` waits for it again.
            done.wait(max(until - time.monotonic(), 0))
        self._thread = None
        if done.is_set():
            self._tasks.put(None)
            thread.join()
        else:
            # Later tasks do not wait behind one that never ends.
            self._tasks = queue.Queue(MOST_WAITING)
        return done.is_set()

    def _work(self, tasks: queue.Queue[Task | None]) -> None:
        # A thread that `drain` gave up on has an old queue, and ends when that is empty.
        with suppress(queue.Empty):
            while (task := tasks.get(block=tasks is self._tasks)) is not None:
                self._free.wait(max(self._until - time.monotonic(), 0))
                start = time.perf_counter()
                task()
                self.seconds += time.perf_counter() - start
