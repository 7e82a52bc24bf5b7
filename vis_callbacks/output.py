"""Draws panels and brings pictures to their places, off the training thread."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vis_callbacks.destinations import Destinations, Picture, to_picture, to_tensor
from vis_callbacks.panel import Panel
from vis_callbacks.render import render
from vis_callbacks.sinks.record import Record
from vis_callbacks.sinks.store import PictureStore
from vis_callbacks.sinks.tensorboard import TensorBoardSink, tensorboard_sinks
from vis_callbacks.sinks.worker import Worker

Transform = Callable[[Tensor], Tensor]


class Output:
    """The store, the loggers and the thread that serves them, of one run.

    Args:
        log_dir: Folder of the run.
        loggers: The Trainer's loggers.
        fresh: Whether a new run begins in the folder.
    """

    def __init__(self, log_dir: str | Path, loggers: list[Any], *, fresh: bool) -> None:
        self._worker = Worker()
        self._loggers = loggers
        self._store = PictureStore(log_dir, fresh=fresh)
        self._tensorboard: list[TensorBoardSink] | None = None

    @property
    def directory(self) -> Path:
        """The folder of the picture store."""
        return self._store.directory

    @property
    def thread_seconds(self) -> float:
        """Time spent on drawing and writing, beside training."""
        return self._worker.seconds

    def put(
        self, index: int, record: Record, panel: Panel, destinations: Destinations, transform: Transform | None
    ) -> None:
        """Draw a panel and write it wherever it should go. A picture that is in the store already is not made again."""
        sinks = self._writers() if destinations.tensorboard else []
        if destinations.on_training_thread:
            destinations.hand_over(record, index, _draw(panel, transform, text=False))

        def task() -> None:
            if record in self._store:
                return
            stamped = dataclasses.replace(record, time=time.time())
            plain = _draw(panel, transform, text=False)
            self._store.add(stamped, plain)
            destinations.write_files(stamped, index, plain)
            captioned = _draw(_dated(panel, record), transform, text=True) if sinks else plain
            for sink in sinks:
                sink.add(stamped, captioned)

        self._worker.submit(task)

    def note(self, record: Record) -> None:
        """Write down that a picture could not be made."""
        stamped = dataclasses.replace(record, time=time.time())
        self._worker.submit(lambda: self._store.note(stamped))

    def add_metrics(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Write down what the run logged."""
        self._worker.submit(lambda: self._store.add_metrics(epoch, step, values))

    def end_event(self, facts: Mapping[str, Any]) -> None:
        """Bring to the disk what an event made, with what is known about the run."""
        sinks = self._tensorboard or []

        def task() -> None:
            self._store.write_facts(facts)
            for sink in sinks:
                sink.flush()

        self._worker.submit(task)

    def at_end(self, task: Callable[[Output], object]) -> None:
        """Do something, in the writing thread, after all that was put before."""
        self._worker.submit(lambda: task(self))

    @property
    def unfinished(self) -> bool:
        """Whether anything was handed over since the last `drain`."""
        return self._worker.running

    def drain(self, timeout: float) -> bool:
        """Wait until everything is written, at most so many seconds; say whether it is."""
        return self._worker.drain(timeout)

    def errors(self) -> list[Exception]:
        """Return what went wrong in the thread since this was last asked."""
        return self._worker.errors()

    def _writers(self) -> list[TensorBoardSink]:
        # Asked for on the training thread: a logger makes its writer when it is first touched.
        if self._tensorboard is None:
            self._tensorboard = tensorboard_sinks(self._loggers)
        return self._tensorboard


def _draw(panel: Panel, transform: Transform | None, *, text: bool) -> Picture:
    picture = render(panel, text=text)
    return picture if transform is None else to_picture(transform(to_tensor(picture)))


def _dated(panel: Panel, record: Record) -> Panel:
    # TensorBoard tells the step alone.
    moment = f"epoch {record.epoch} · step {record.step}" if record.epoch else "before training"
    return dataclasses.replace(panel, caption=f"{panel.caption} · {moment}" if panel.caption else moment)
