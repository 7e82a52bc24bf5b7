"""The thread that draws and writes: in order, and never a reason for the training to stop."""

from __future__ import annotations

import threading
import time

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


def test_held_tasks_begin_at_the_end_or_when_it_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    worker, done = Worker(), []
    with worker.held():
        worker.submit(lambda: done.append("after"))
        time.sleep(0.2)
        assert done == []
    assert worker.drain(10)
    monkeypatch.setattr(module, "HELD", 0.1)
    with worker.held():
        worker.submit(lambda: done.append("meanwhile"))
        until = time.monotonic() + 10
        while len(done) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        assert done == ["after", "meanwhile"]
    worker.submit(lambda: done.append("at once"))
    assert worker.drain(10)
    assert done[2:] == ["at once"]


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
