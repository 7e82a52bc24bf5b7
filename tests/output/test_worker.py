"""The thread that draws and writes: in order, and never a reason for the training to stop."""

from __future__ import annotations

import os
import sys
import threading
import time
from _thread import interrupt_main

import pytest

from vis_callbacks.output import worker as module
from vis_callbacks.output.worker import Worker


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_tasks_are_done_in_order_and_again_after_a_drain() -> None:
    worker, done = Worker(), []
    for part in (range(5), range(5, 9)):
        for number in part:
            assert worker.submit(lambda number=number: done.append(number))
        assert worker.drain(10)
        assert not worker.running
    assert done == list(range(9))


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_tasks_give_way_to_training_until_it_waits_for_them() -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    worker, seen, started, release = Worker(), [], threading.Event(), threading.Event()

    def first() -> None:
        seen.append(priority())
        started.set()
        release.wait(10)

    worker.submit(first)
    for _ in range(3):
        worker.submit(lambda: seen.append(priority()))
    assert started.wait(10)
    threading.Timer(0.3, release.set).start()
    assert worker.drain(10)
    assert seen == [19, *[priority()] * 3]
    # The next run draws aside again.
    worker.submit(lambda: seen.append(priority()))
    time.sleep(0.3)
    assert worker.drain(10)
    assert seen[4:] == [19]
    assert names().count("vis-callbacks") == 0


def test_a_wait_that_ctrl_c_ended_can_be_taken_up_again() -> None:
    worker, done = Worker(), []
    worker.submit(lambda: time.sleep(1))
    worker.submit(lambda: done.append(1))
    threading.Timer(0.3, interrupt_main).start()
    with pytest.raises(KeyboardInterrupt):
        worker.drain(10)
    assert worker.running
    assert worker.drain(10)
    assert done == [1]
    assert names().count("vis-callbacks") == 0


def test_a_task_that_never_ends_holds_nothing_up_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 2)
    monkeypatch.setattr(module, "PATIENCE", 0.5)
    worker, release, done = Worker(), threading.Event(), []
    start = time.monotonic()
    worker.submit(release.wait)
    taken = [worker.submit(lambda number=number: done.append(number)) for number in range(100)]
    assert not worker.drain(0.5)
    assert time.monotonic() - start < 5
    assert taken[-1] is False
    # What comes later has a thread of its own.
    assert worker.submit(lambda: done.append("later"))
    assert worker.drain(10)
    assert done == ["later"]
    release.set()
    until = time.monotonic() + 10
    while len(done) < 1 + sum(taken) and time.monotonic() < until:
        time.sleep(0.01)
    assert done == ["later", *range(sum(taken))]
    while (left := names().count("vis-callbacks")) and time.monotonic() < until:
        time.sleep(0.01)
    assert left == 0
