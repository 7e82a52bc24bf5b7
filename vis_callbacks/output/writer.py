"""Draws panels and writes the pictures to their destinations, on a thread of its own."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from vis_callbacks.output.destinations import Destinations, to_picture, to_tensor
from vis_callbacks.output.encoding import Picture, encode
from vis_callbacks.output.loggers import LoggerSink, logger_sinks
from vis_callbacks.output.record import Record
from vis_callbacks.output.render import assemble, draw_tiles, is_enlarged, render
from vis_callbacks.output.store import PictureStore
from vis_callbacks.output.worker import MOST_WAITING, Worker
from vis_callbacks.panel import Panel

Transform = Callable[[Tensor], Tensor]


class Output:
    """The picture store and loggers of one run, and the thread that writes to them.

    Args:
        log_dir: Folder of the run.
        loggers: The Trainer's loggers.

    Attributes:
        drawing_seconds: CPU seconds of the thread, by callback.
    """

    def __init__(self, log_dir: str | Path, loggers: list[Any]) -> None:
        self._worker = Worker()
        self._loggers = loggers
        self._store = PictureStore(log_dir)
        self._sinks: list[LoggerSink] | None = None
        self._gaps: list[Record] = []
        self._problems: list[tuple[str, Exception]] = []
        self._told: Mapping[str, Any] | None = None
        self.drawing_seconds: dict[str, float] = {}

    def begin(self) -> None:
        """Start a new run: an earlier run's store in the folder is moved to a new name."""
        self._submit("", self._store.begin)

    @property
    def directory(self) -> Path:
        """The folder of the picture store."""
        return self._store.directory

    @property
    def thread_seconds(self) -> float:
        """Seconds spent on drawing and writing while training went on."""
        return self._worker.seconds

    def put(
        self,
        index: int,
        record: Record,
        panel: Panel,
        destinations: Destinations,
        transform: Transform | None,
        numbers: Mapping[str, float],
    ) -> None:
        """Draw a panel and write it to the store and the callback's destinations.

        A resumed run makes some pictures again; one that is identical to the stored picture is not written again.

        Args:
            index: Number of the panel among those of the event.
            record: The facts about it.
            panel: What to draw.
            destinations: Where it goes besides the store.
            transform: Applied to the picture ``(3, H, W)`` in [0, 1] before it is written.
            numbers: Logged beside the picture, by tag.
        """
        sinks = self._writers() if destinations.tensorboard else []

        def task() -> None:
            stamped = dataclasses.replace(record, time=time.time())
            tiles: list[Picture] = []
            plain = None
            # Photographs and maps over them look the same as JPEG; a kernel or digit of a few enlarged pixels does not.
            exact = is_enlarged(panel)
            try:
                tiles = draw_tiles(panel)
                plain = _transformed(assemble(panel, tiles, text=False), transform)
                if record.stage == "fit" and self._store.holds(record, plain, exact=exact):
                    plain = None
                    return
                self._store.add(stamped, plain, exact=exact)
            except Exception as error:
                self._gaps.append(dataclasses.replace(stamped, error=f"{type(error).__name__}: {error}"))
                raise
            finally:
                # A full disk does not keep pictures from TensorBoard, which may be on another, nor one failed logger
                # from the next logger.
                if plain is not None:
                    tasks = [partial(destinations.write_files, stamped, index, plain)]
                    if sinks:
                        captioned = _transformed(assemble(_dated(panel, record), tiles), transform)
                        encoded = encode(captioned, exact=exact)
                        tasks = [*(partial(sink.add, stamped, encoded, numbers) for sink in sinks), *tasks]
                    self._do_all(record.callback, tasks)

        self._submit(record.callback, task)
        if destinations.on_training_thread:
            destinations.hand_over(record, index, _transformed(render(panel, text=False), transform))

    def note(self, record: Record) -> None:
        """Record that a picture could not be made."""
        stamped = dataclasses.replace(record, time=time.time())
        self._submit("", lambda: self._gaps.append(stamped))

    def add_text(self, tag: str, text: str) -> bool:
        """Write a text to the loggers that pictures go to; return whether there are any."""
        sinks = self._sinks or []
        for sink in sinks:
            self._submit("", partial(sink.add_text, tag, text))
        return bool(sinks)

    def tell(self, found: Mapping[str, Any]) -> None:
        """Store what stands out, and give it to the loggers when something new does."""
        if found == self._told:
            return
        known = {(one["check"], one["severity"]) for one in (self._told or {}).get("findings", ())}
        self._told = found
        self._submit("", lambda: self._store.write_findings(found))
        # The numbers in a sentence change from epoch to epoch.
        fresh = [one for one in found["findings"] if (one["check"], one["severity"]) not in known]
        if fresh:
            lines = [f"* **{one['check']}** ({one['severity']}): {one['sentence']}" for one in found["findings"]]
            self.add_text("visualizations/findings", "\n".join(lines))
            for sink in self._sinks or []:
                for one in fresh:
                    self._submit("", partial(sink.alert, f"{one['severity']}: {one['check']}", one["sentence"]))

    def add_metrics(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Store the metrics that the run logged at one step."""
        self._submit("", lambda: self._store.add_metrics(epoch, step, values))

    @property
    def has_facts(self) -> bool:
        """Whether the store has facts about a run already."""
        return self._store.has_facts

    def end_event(self, facts: Mapping[str, Any] | None) -> None:
        """Write everything of an event to disk, and the facts about the run if given."""
        sinks = self._sinks or []

        def write_down() -> None:
            # Records that a full disk refused are tried again.
            while self._gaps:
                self._store.note(self._gaps[0])
                del self._gaps[0]
            self._store.drop_replaced()
            if facts is not None:
                self._store.write_facts(facts)

        self._submit("", lambda: self._do_all("", [write_down, *(sink.flush for sink in sinks)]))

    def at_end(self, task: Callable[["Output"], object]) -> None:
        """Call a function with this output, on the writing thread, after everything queued before it."""
        self._submit("The report", lambda: task(self))

    def held(self) -> AbstractContextManager[None]:
        """Draw nothing inside, unless it takes long; see `Worker.held`."""
        return self._worker.held()

    @property
    def unfinished(self) -> bool:
        """Whether anything was queued since the last `drain`."""
        return self._worker.running

    def drain(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until everything is written; return whether it is."""
        return self._worker.drain(timeout)

    def problems(self) -> list[tuple[str, Exception]]:
        """Return the errors on the thread since the last call, each with the callback's name, or an empty string."""
        problems, self._problems = self._problems, []
        return problems

    def _submit(self, callback: str, task: Callable[[], object]) -> None:
        def guarded() -> None:
            # CPU time, not wall time: this thread stands still while training holds the interpreter lock.
            start = time.thread_time()
            try:
                task()
            except Exception as error:  # kept for the training thread, which warns
                self._problems.append((callback, error))
            spent = time.thread_time() - start
            self.drawing_seconds[callback] = self.drawing_seconds.get(callback, 0.0) + spent

        if not self._worker.submit(guarded):
            stuck = TimeoutError(f"{MOST_WAITING} pictures wait to be drawn and none gets done: a disk or logger hangs")
            self._problems.append((callback, stuck))

    def _do_all(self, callback: str, tasks: Iterable[Callable[[], object]]) -> None:
        """Do all tasks on the thread, and keep the error of each that fails: none of them hides another."""
        for task in tasks:
            try:
                task()
            except Exception as error:
                self._problems.append((callback, error))

    def _writers(self) -> list[LoggerSink]:
        # Called on the training thread: a logger creates its writer on first access.
        if self._sinks is None:
            self._sinks = logger_sinks(self._loggers)
        return self._sinks


def record_of(panel: Panel, *, callback: str, epoch: int, step: int, stage: str, seconds: float = 0.0) -> Record:
    """Return the facts about a panel.

    Args:
        panel: What is shown.
        callback: Name of its callback in this run.
        epoch: See `Record`.
        step: See `Record`.
        stage: See `Record`.
        seconds: What it took.
    """
    return Record(
        tag=f"{callback}/{panel.name}",
        callback=callback,
        epoch=epoch,
        step=step,
        stage=stage,
        sample=panel.sample,
        label=panel.label,
        predicted=panel.predicted,
        probability=panel.probability,
        seconds=round(seconds, 4),
        caption=panel.caption,
        captions=tuple(tile.caption for tile in panel.all_tiles),
        captions_inside=panel.captions_inside,
        scalars=dict(panel.scalars),
        right=panel.right,
        content=panel.content,
    )


def _transformed(picture: Picture, transform: Transform | None) -> Picture:
    return picture if transform is None else to_picture(transform(to_tensor(picture)))


def _dated(panel: Panel, record: Record) -> Panel:
    # TensorBoard shows only the step.
    moment = f"epoch {record.epoch} · step {record.step}" if record.epoch else "before training"
    return dataclasses.replace(panel, caption=f"{panel.caption} · {moment}" if panel.caption else moment)
