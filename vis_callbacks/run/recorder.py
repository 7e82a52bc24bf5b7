"""Writes a run down: its output is opened once, and gets the events, the metadata and the metrics."""

from collections.abc import Callable, Iterable

from vis_callbacks._lightning import LightningModule, Trainer, is_fitting, log_dir
from vis_callbacks.output.writer import Output
from vis_callbacks.run.budget import Budget
from vis_callbacks.run.coverage import Coverage
from vis_callbacks.run.members import Members
from vis_callbacks.run.metadata import RunMetadata, subject_text
from vis_callbacks.run.metrics import MetricReader
from vis_callbacks.run.progress import Progress
from vis_callbacks.run.selection import Ready
from vis_callbacks.run.timer import Timer
from vis_callbacks.run.warn_once import WarnOnce
from vis_callbacks.run.watchers import Watchers

DRAIN_SECONDS = 120.0


class Recorder:
    """Holds the output of a run, in the one process that writes.

    Args:
        members: The callbacks of the run.
        coverage: What they have shown.
        watchers: Those that find what is wrong with a training.
        timer: What everything took.
        budget: What it may take.
        warnings: Where it is reported what cannot be written.

    Attributes:
        output: Where pictures go. None: nothing was opened, or this process does not write.
        metadata: What is known about the run as a whole.
    """

    def __init__(
        self,
        members: Members,
        coverage: Coverage,
        watchers: Watchers,
        timer: Timer,
        budget: Budget,
        warnings: WarnOnce,
    ) -> None:
        self.output: Output | None = None
        self._coverage = coverage
        self._watchers = watchers
        self._warnings = warnings
        self.metadata = RunMetadata(members.names, timer, budget)
        self._metrics = MetricReader()
        self._log_dir: str | None = None
        self._at_end: list[Callable[[Output], object]] = []
        self._described = False

    def call_at_end(self, task: Callable[[Output], object]) -> None:
        """Call a function with the output, in the writing thread, when everything else is written."""
        if task not in self._at_end:
            self._at_end.append(task)

    def start(self, trainer: Trainer) -> None:
        """Learn the folder of the run. All processes must call this: it is broadcast."""
        self._log_dir = log_dir(trainer)

    def open(self, trainer: Trainer, module: LightningModule, *, fresh: bool) -> None:
        """Open the output of a run that is new or, unless `fresh`, goes on."""
        # One process writes; a fast development run leaves nothing behind.
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False) or self._log_dir is None:
            return
        if self.output is None:
            self.output = Output(self._log_dir, list(trainer.loggers))
        if fresh:
            self.output.begin()
        known = self.output.has_facts
        self.metadata.mark_running(module, fitting=is_fitting(trainer), max_epochs=trainer.max_epochs, known=known)

    def describe(self, ready: Iterable[Ready]) -> None:
        """Write down, and once where the user looks, what the pictures of an event are about."""
        self.metadata.describe(ready)
        if self.output is None or self._described:
            return
        subjects = self.metadata.subjects
        if subjects.get("subject", {}).get("targets"):
            self._described = self.output.add_text("visualizations/subject", subject_text(subjects))

    def end_event(self, trainer: Trainer) -> None:
        """Write an event to disk, with what is known of the run by now."""
        if self.output is None:
            return
        nothing = self._coverage.placeholders(trainer)
        epochs, seconds = trainer.current_epoch, self.output.thread_seconds
        if (found := self._watchers.findings()) is not None:
            self.output.tell(found)
        self.output.end_event(self.metadata.current(epochs=epochs, thread_seconds=seconds, nothing=nothing))

    def end_without_pictures(self, trainer: Trainer) -> None:
        """Let the report say why it holds nothing, where there is a report and nothing was shown."""
        if self._at_end and self._coverage.empty:
            self.end_event(trainer)

    def read_metrics(self, trainer: Trainer, moment: str) -> None:
        """Write down the metrics that are complete now. All processes must call this: reading may synchronise them."""
        if trainer.sanity_checking:
            return
        values = self._metrics.read(trainer.callback_metrics, moment)
        if values and self.output is not None:
            end = Progress.of(trainer).end_of(moment)
            # Training metrics are read when the next epoch starts, or when training has ended.
            self.output.add_metrics(end.epoch - (1 if moment == "train" else 0), end.step, values)

    def finalize(self, trainer: Trainer, error: BaseException | None) -> None:
        """Write everything to disk. Never raises, runs no pass, and waits for no other process. Idempotent."""
        output = self.output
        if output is None or not output.unfinished:
            return
        try:
            self.metadata.mark_ended(trainer.current_epoch + 1, error)
            self.end_event(trainer)
            for task in self._at_end:
                output.at_end(task)
            done = output.drain(DRAIN_SECONDS)
            self._warnings.warn_unwritten(output.problems())
            if not done:
                late = TimeoutError(f"after {DRAIN_SECONDS:.0f} s")
                self._warnings.warn("The callbacks", "are still writing pictures", late, "do not end the process yet")
        except Exception as problem:
            # Anything raised while the Trainer handles an exception would hide the user's own error.
            print(f"vis_callbacks could not finish its pictures: {type(problem).__name__}: {problem}")
