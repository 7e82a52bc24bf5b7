"""The events of a run: which of the techniques that are due make pictures, and how all processes make them."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from vis_callbacks._lightning import LightningModule, Trainer, is_fitting, training_batch_size
from vis_callbacks.event import Moment
from vis_callbacks.model.batching import CPU_PIXELS, pixels_of
from vis_callbacks.model.nested import tensors_in
from vis_callbacks.output.writer import Output
from vis_callbacks.run.budget import Budget
from vis_callbacks.run.coverage import Coverage
from vis_callbacks.run.distributed import Processes
from vis_callbacks.run.event_runner import EventRunner
from vis_callbacks.run.freed_memory import return_freed_memory
from vis_callbacks.run.inputs import Inputs
from vis_callbacks.run.members import Members
from vis_callbacks.run.recorder import Recorder
from vis_callbacks.run.selection import Ready, Spent, select
from vis_callbacks.run.technique import Technique
from vis_callbacks.run.timer import Timer
from vis_callbacks.run.warn_once import WarnOnce


class Events:
    """Selects what is made at one moment, and makes it.

    All processes must call `select` and `make` at the same moments: they communicate there.

    Args:
        members: The callbacks of the run.
        inputs: Their subjects and samples.
        processes: The processes that share the work.
        recorder: Holds the output, in the process that writes.
        coverage: Where it is remembered what was shown.
        budget: What pictures may cost.
        timer: Where the seconds are counted.
        warnings: Where failures are reported.

    Attributes:
        chunk_size: Images that go through a model at once, whatever their size; None: as many as fit.
    """

    def __init__(
        self,
        members: Members,
        inputs: Inputs,
        processes: Processes,
        recorder: Recorder,
        coverage: Coverage,
        budget: Budget,
        timer: Timer,
        warnings: WarnOnce,
    ) -> None:
        self.chunk_size: int | None = None
        self._members = members
        self._inputs = inputs
        self._processes = processes
        self._recorder = recorder
        self._coverage = coverage
        self._budget = budget
        self._timer = timer
        self._warnings = warnings
        # The techniques that were due and not made.
        self._overdue: list[Technique] = []
        # The pixels of a training batch, whose graph fits into memory; None before the first.
        self._batch_pixels: int | None = None

    def start(self) -> None:
        """Start a fit, validation or test."""
        self._overdue, self._batch_pixels = [], None

    def measure(self, batch: Any) -> None:
        """Count the pixels of the first training batch: as many can go through a model at once."""
        if self._batch_pixels is None:
            self._batch_pixels = max(
                (len(images) * pixels_of(images) for images in tensors_in(batch) if images.ndim == 4), default=0
            )

    @property
    def mine(self) -> list[Technique]:
        """The techniques whose pictures this process makes, or takes part in."""
        writes = self._recorder.output is not None
        return [one for one in self._members.techniques if writes or self._processes.includes(one)]

    @property
    def overdue(self) -> list[Technique]:
        """Those of them that were due in this fit, and not made."""
        return [technique for technique in self.mine if technique in self._overdue]

    def select(
        self,
        due: Sequence[Technique],
        moment: Moment,
        trainer: Trainer,
        module: LightningModule,
        *,
        complete: bool = False,
        now: bool = False,
        last: bool = False,
    ) -> list[Ready]:
        """Return which of the techniques that are due make pictures now, as the process that writes decides for all.

        Args:
            due: The techniques that are due.
            moment: When they would be made.
            trainer: Its data may state class names and normalization.
            module: The user's module.
            complete: Whether all batches were seen, so that fewer samples than asked for must do.
            now: Whether a picture cannot be made later, so that samples of a few classes must do.
            last: Whether this is the last event of a fit, which is made whole.
        """
        if not due:
            return []
        ready: list[Ready] = []
        output = self._recorder.output
        if output is not None:
            # Of techniques that are not due too: samples are chosen as soon as anything is made.
            techniques = self._members.techniques
            found = [self._inputs.resolve(one, trainer, module, complete=complete, now=now) for one in techniques]
            found = [replace(one, passes=self._passes(one, moment)) for one in found]
            asked = [one for one in found if one.technique in due]
            later = [one for one in found if one not in asked and one.technique.schedule.before_training]
            spent = self._spent(output)
            ready = select(asked, self._budget, spent, moment, later=later, last=last)
            for one in asked:
                if not one.waits and one not in ready:
                    # Left out to keep to the budget: it is due again the next time.
                    one.technique.schedule.mark_done(step=trainer.global_step)
                    one.technique.left_out = sorted({*one.technique.left_out, moment.epoch})
        selected = self._processes.broadcast_selection(self._members.techniques, due, [one.technique for one in ready])
        if moment.stage == "fit" and moment.epoch > 0:
            missing = [one for one in (*self._overdue, *due) if one not in selected]
            self._overdue = list(dict.fromkeys(missing))
        if output is None:
            # The samples come with the other inputs.
            return [Ready(technique, self._members.names[technique]) for technique in selected]
        if ready:
            self._budget.record_start({one.name: one.passes for one in ready}, spent.by_name, spent.training)
        return ready

    def make(
        self, ready: Sequence[Ready], moment: Moment, trainer: Trainer, module: LightningModule, complete: bool = False
    ) -> None:
        """Make the pictures of one event; all processes that share its work call this.

        Args:
            ready: What `select` returned.
            moment: When.
            trainer: Its data may state class names and normalization.
            module: The user's module.
            complete: Whether all batches were seen.
        """
        if not ready:
            return
        techniques, output = [one.technique for one in ready], self._recorder.output
        if moment.stage != "fit" or moment.epoch > 0:
            self._coverage.mark_shown(techniques)
        inputs = self._inputs
        buffers = self._processes.broadcast_inputs(techniques, module, inputs.selector, inputs.subjects)
        if output is None:
            if not self._processes.connected:
                return
            ready = [inputs.resolve(one, trainer, module, complete=complete) for one in techniques]
        runner = EventRunner(
            ready,
            moment,
            share=self._processes.share,
            output=output,
            timer=self._timer,
            warnings=self._warnings,
            fitting=self._fitting(trainer, ready),
            chunk_size=self.chunk_size,
        )
        passed = self._timer.split_evenly("shared pass", [one.name for one in ready if one.technique.uses_samples])
        with passed, nullcontext() if output is None else output.held():
            parts = runner.make(module, buffers)
        if parts:
            with self._timer.time("waiting for other processes"):
                gathered = self._processes.gather(parts)
            if gathered:
                runner.merge(module, gathered)
        if output is not None:
            self._recorder.describe(ready)
            self._warnings.warn_unwritten(output.problems())
            self._recorder.end_event(trainer)
        if self._batch_pixels is None and is_fitting(trainer):
            # Later events use memory that training has used already.
            with self._timer.time("freed memory"):
                return_freed_memory()
        if runner.raised:
            raise runner.raised[0]

    def _passes(self, ready: Ready, moment: Moment) -> int:
        if ready.samples is None or not self._budget.bounds(ready.technique.budget):
            return 0
        try:
            return ready.technique.passes(moment, ready.samples)
        except Exception as error:
            what = "cannot say how many passes it takes"
            self._warnings.warn(ready.name, what, error, "its budget goes by what it cost last")
            return 0

    def _spent(self, output: Output) -> Spent:
        drawing = dict(output.drawing_seconds)
        names = self._members.names.values()
        return Spent(
            {name: self._timer.seconds_of(name) + drawing.get(name, 0.0) for name in names},
            pictures=self._timer.total + sum(drawing.values()),
            training=self._timer.training,
            per_pass=self._timer.pass_seconds,
        )

    def _fitting(self, trainer: Trainer, ready: Sequence[Ready]) -> int:
        """Return the pixels that go through a model at once: those of a training batch, whose graph is larger."""
        if not is_fitting(trainer):
            return CPU_PIXELS
        shown = next((one.samples.images for one in ready if one.samples is not None), None)
        if self._batch_pixels is not None or shown is None:
            return self._batch_pixels or 0
        return training_batch_size(trainer) * pixels_of(shown)
