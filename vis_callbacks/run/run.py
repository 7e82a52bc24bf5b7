"""What the callbacks of one Trainer share: one leader, fixed samples, one event per moment, one store, one timer."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from vis_callbacks._lightning import (
    LightningModule,
    Trainer,
    data_holders,
    has_validation,
    is_ending,
    is_fitting,
    log_dir,
    logger_of,
    metric_step,
    optimized_parameters,
    sharded_strategy,
    stage_of,
    training_batch_size,
    validation_intervals,
)
from vis_callbacks.data.class_names import find_class_names
from vis_callbacks.data.selector import SampleSelector
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.event import Moment
from vis_callbacks.model.batching import CPU_PIXELS, pixels_of
from vis_callbacks.model.evidence import Classes, stated_classes
from vis_callbacks.model.guard import copied_weights, swapped_weights
from vis_callbacks.model.nested import tensors_in
from vis_callbacks.model.subject import Forward
from vis_callbacks.output.writer import Output
from vis_callbacks.run.budget import Budget
from vis_callbacks.run.distributed import Processes
from vis_callbacks.run.event_runner import EventRunner
from vis_callbacks.run.freed_memory import return_freed_memory
from vis_callbacks.run.metadata import RunMetadata, subject_text
from vis_callbacks.run.metrics import MetricReader
from vis_callbacks.run.reasons import Outcome, by_reason, in_one_sentence, in_place, why_nothing
from vis_callbacks.run.selection import Ready, Spent, select
from vis_callbacks.run.subjects import Subjects
from vis_callbacks.run.technique import Technique, Watcher
from vis_callbacks.run.timer import Timer
from vis_callbacks.run.warn_once import WarnOnce
from vis_callbacks.run.watchers import Watchers

DRAIN_SECONDS = 120.0


@dataclass(frozen=True)
class Progress:
    """Where a Trainer stands.

    Attributes:
        stage: What the user called: ``"fit"``, ``"validate"`` or ``"test"``.
        epoch: In a fit the number of the epoch that is running, from 1; otherwise the number of completed epochs.
        step: The x-axis value of the metrics that are logged now.
        sample_stage: The stage whose batches samples are taken from: validation where there is any.
    """

    stage: str
    epoch: int
    step: int
    sample_stage: str

    @classmethod
    def of(cls, trainer: Trainer) -> "Progress":
        """Read where a Trainer stands."""
        stage = stage_of(trainer)
        if stage == "fit":
            sample_stage = "validation" if has_validation(trainer) else "train"
        else:
            sample_stage = "test" if stage == "test" else "validation"
        return cls(stage, trainer.current_epoch + (1 if stage == "fit" else 0), metric_step(trainer), sample_stage)

    def end_of(self, stage: str) -> Moment:
        """Return the moment at which training, validation or test ends: that of the metrics logged there."""
        return Moment(self.epoch, max(self.step - (1 if stage == "train" else 0), 0), self.stage)


class Run:
    """What the callbacks of one Trainer share. Get it with `Run.of`.

    Every callback hands its hooks on to the run. The first one leads: the run acts on its hooks alone, so that all
    techniques due at one moment share one guard, one pass and one event.
    """

    def __init__(self) -> None:
        self.timer = Timer()
        self.budget = Budget()
        self.chunk_size: int | None = None
        self.selector = SampleSelector()
        self.warnings = WarnOnce()
        self.subjects = Subjects()
        self.techniques: list[Technique] = []
        self._names: dict[Technique, str] = {}
        self._members: list[object] = []
        self._at_end: list[Callable[[Output], object]] = []
        self._log_dir: str | None = None
        self._output: Output | None = None
        self._metrics = MetricReader()
        self._processes = Processes(self.warnings)
        self._metadata = RunMetadata(self._names, self.timer, self.budget)
        # The techniques that wait for samples to show the initial weights, and those weights once training goes on.
        self._waiting: list[Technique] = []
        self._initial: dict[str, Tensor] | None = None
        self._batches = 0
        # The pixels of a training batch, whose graph fits into memory; None before the first.
        self._batch_pixels: int | None = None
        # The techniques that were due and not made, and those that have shown something of the trained network.
        self._overdue: list[Technique] = []
        self._shown: set[Technique] = set()
        self._trained = False
        self._validated = 0
        self._described = False
        self._watchers = Watchers(self.timer, self.warnings)

    @classmethod
    def of(cls, trainer: Trainer) -> "Run":
        """Return the run of a Trainer; the first call creates it."""
        run: Run = vars(trainer).setdefault("_vis_callbacks_run", cls())
        return run

    def join(self, member: object, *, at_end: Callable[[Output], object] | None = None) -> None:
        """Add a callback.

        Args:
            member: The callback; the first one leads.
            at_end: Called with the output, in the writing thread, when everything else is written.
        """
        if member not in self._members:
            self._members.append(member)
        if at_end is not None and at_end not in self._at_end:
            self._at_end.append(at_end)

    def allows_pictures(self, trainer: Trainer) -> bool:
        """Whether pictures can be made at all. If not, the first process warns once."""
        strategy = sharded_strategy(trainer)
        if strategy is not None and trainer.is_global_zero:
            self.warnings.warn_sharded(strategy)
        return strategy is None

    def add(self, technique: Technique) -> None:
        """Add a callback that makes pictures. The second one of a name gets the suffix ``_2``, and so on."""
        if technique not in self.techniques:
            self.techniques.append(technique)
            name, number = technique.name, 2
            while name in self._names.values():
                name, number = f"{technique.name}_{number}", number + 1
            self._names[technique] = name
            if isinstance(technique, Watcher):
                self._watchers.add(name, technique, technique.forward)
        self.subjects.request(technique.forward)
        if technique.uses_samples:
            self.selector.request(technique.sample_request)

    def check(self, technique: Technique, module: LightningModule) -> None:
        """Raise a `ConfigurationError` if an option fits nothing that may be the network of the pictures."""
        errors: list[Exception] = []
        for model in self.subjects.candidates(module, technique.forward):
            try:
                return technique.check(model)
            except ConfigurationError as error:
                errors.append(error)
        raise errors[0]

    def led_by(self, member: object) -> bool:
        """Whether a callback is the one on whose hooks the run acts."""
        return bool(self._members) and self._members[0] is member

    # The moments of a run, in the order in which a Trainer reaches them.

    def start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start a fit, validation or test; the model is built. All processes must call this."""
        self._log_dir = log_dir(trainer)
        # One process tells; a fast development run leaves nothing behind.
        self._watchers.active = trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False)
        self.subjects.start(module)
        self._trained, self._validated, self._overdue, self._batch_pixels = False, 0, [], None
        # A resumed run has shown something before.
        self._shown.update(one for one in self.techniques if max(one.schedule.last_epoch, one.schedule.last_step) > 0)
        for technique in self.techniques:
            if technique.restored_subject:
                self.subjects.restore(module, technique.forward, technique.restored_subject)
                technique.restored_subject = {}
            self.check(technique, module)
            if technique.restored_samples:
                self.selector.load_state_dict(technique.restored_samples)
                technique.restored_samples = {}
        # Always anew: the processes might not agree on whether an earlier group still works.
        self._processes.disconnect()
        # A fast development run makes no pictures.
        if any(technique.split for technique in self.techniques) and not getattr(trainer, "fast_dev_run", False):
            self._processes.connect(trainer.world_size, first=trainer.is_global_zero)
        if not is_fitting(trainer):
            self._check_classes(trainer, module)
            self._open_output(trainer, module, fresh=False)

    def train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Make the first pictures, or keep the initial weights until there are samples for them."""
        fresh = trainer.global_step == 0 and trainer.current_epoch == 0
        self._trained = True
        self._check_classes(trainer, module)
        self._open_output(trainer, module, fresh=fresh)
        self._watchers.training_starts(module, optimized_parameters(trainer))
        self.timer.training_starts()
        self._batches = 0
        if fresh:
            # There is no training time yet that could pay for techniques of many passes.
            self._waiting = [
                technique
                for technique in self._mine
                if technique.schedule.before_training and not (technique.split and self.budget.bounds(technique.budget))
            ]
            self._show_initial(trainer, module)
            if self._waiting:
                self._initial = copied_weights(module)

    def pass_start(self, trainer: Trainer, stage: str) -> None:
        """Start a pass through the data of a stage."""
        if stage == Progress.of(trainer).sample_stage:
            self.selector.pass_start()

    def batch_start(self, trainer: Trainer, module: LightningModule, stage: str, batch: Any, loader: int = 0) -> None:
        """Watch what the step does with a batch, until the subjects of all pictures are known."""
        if loader == 0 and is_fitting(trainer) and not trainer.sanity_checking:
            epoch = trainer.current_epoch + 1
            part = epoch if stage == "train" else trainer.global_step
            self._watchers.batch_starts(stage, epoch, part, module, batch, self.subjects.subject)
        if stage == "train" and self._batch_pixels is None:
            self._batch_pixels = max(
                (len(images) * pixels_of(images) for images in tensors_in(batch) if images.ndim == 4), default=0
            )
        if self.subjects.wanted:
            with self.timer.time("subject"):
                optimized = optimized_parameters(trainer)
                readers = [one.sample_request.batch_to_images for one in self.techniques if one.uses_samples]
                self.subjects.watch(
                    module,
                    batch,
                    optimized=optimized,
                    training=stage == "train",
                    readers=list(dict.fromkeys(filter(None, readers))),
                )

    def observe_batch(self, trainer: Trainer, stage: str, batch: Any, loader: int = 0) -> None:
        """Take samples from a batch, if it is of the stage that they come from, and of its first loader."""
        if stage == Progress.of(trainer).sample_stage and loader == 0:
            if trainer.is_global_zero and self.selector.wants_batches:
                with self.timer.time("samples"):
                    self.selector.observe(batch)
            self._batches += 1

    def batch_end(self, trainer: Trainer, module: LightningModule, stage: str, outputs: Any) -> None:
        """Learn from what the step did with a batch."""
        if is_fitting(trainer) and not trainer.sanity_checking:
            self._watchers.batch_ends(stage, module, outputs, partial(optimized_parameters, trainer))
        self._settle(trainer, module, final=False)
        # Connected processes must communicate to know whether there are enough samples: after 1, 2, 4, 8, ... batches.
        alone = not (self._processes.connected and self._batches & (self._batches - 1))
        if alone and stage == Progress.of(trainer).sample_stage == "train":
            self._show_initial(trainer, module)

    def stage_end(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Make the pictures that are due at the end of an epoch of training, validation or test."""
        self.subjects.stop_watching()
        if trainer.sanity_checking:
            return
        progress = Progress.of(trainer)
        complete = stage == progress.sample_stage
        if complete or not is_fitting(trainer):
            self._settle(trainer, module, final=True)
        if complete:
            self._show_initial(trainer, module, complete=True)
        # Without validation, the end of a training epoch stands in for it.
        ending = {stage, "validation"} if stage == progress.sample_stage == "train" else {stage}
        moment = progress.end_of(stage)
        if stage == "validation":
            self._validated = progress.epoch
        due = [
            technique
            for technique in self._mine
            if ending & set(technique.schedule.on)
            and (moment.stage != "fit" or technique.schedule.due_epoch(moment.epoch))
        ]
        if due and not complete:
            self._show_initial(trainer, module, now=True)
        last = moment.stage == "fit" and is_ending(trainer)
        ready = self._select(due, moment, trainer, module, complete=complete, now=True, last=last)
        _mark_done(ready, epoch=moment.epoch)
        self._make(ready, moment, trainer, module, complete)
        if moment.stage != "fit" and self._at_end and self._output is not None and not self._shown:
            # The report says why it holds nothing.
            self._end_event(self._output, trainer)

    def train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Make the pictures that still wait or were left out, so that the run ends with pictures of every technique."""
        # If validation has never ended, the samples seen must do. If none were, `explain` says why.
        self._show_initial(trainer, module, complete=self.selector.has_seen, now=True)
        overdue = [technique for technique in self._mine if technique in self._overdue]
        moment = Moment(max(trainer.current_epoch, 1), max(metric_step(trainer) - 1, 0))
        ready = self._select(overdue, moment, trainer, module, now=True, last=True)
        _mark_done(ready, epoch=moment.epoch)
        for one in ready:
            one.technique.left_out = [epoch for epoch in one.technique.left_out if epoch != moment.epoch]
        self._make(ready, moment, trainer, module)
        self._watchers.training_ends(moment.epoch)
        self.read_metrics(trainer, "train")

    def step_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Make the pictures that are due after an optimizer step."""
        step = trainer.global_step
        if due := [technique for technique in self._mine if technique.schedule.due_step(step)]:
            progress = Progress.of(trainer)
            moment = Moment(progress.epoch, progress.step)
            self._show_initial(trainer, module, now=True)
            ready = self._select(due, moment, trainer, module, now=True)
            _mark_done(ready, step=step)
            self._make(ready, moment, trainer, module)

    def read_metrics(self, trainer: Trainer, moment: str) -> None:
        """Write down the metrics that are complete now. All processes must call this: reading may synchronise them."""
        if trainer.sanity_checking:
            return
        values = self._metrics.read(trainer.callback_metrics, moment)
        if values and self._output is not None:
            end = Progress.of(trainer).end_of(moment)
            # Training metrics are read when the next epoch starts, or when training has ended.
            self._output.add_metrics(end.epoch - (1 if moment == "train" else 0), end.step, values)

    def explain(self, trainer: Trainer) -> None:
        """Say in the console what the budget left out, and why nothing is shown of some techniques."""
        if not trainer.is_global_zero:
            return
        method = stage_of(trainer)
        if method == "fit":
            for note in self._metadata.left_out:
                logger_of(trainer).info(note)
        reasons = {
            self._names[one]: why
            for one, why in self._reasons(trainer).items()
            if method != "fit" or one.schedule.before_training
        }
        for why, names in by_reason(reasons).items():
            self.warnings.warn_nothing(in_one_sentence(names, why, fit=method == "fit" and self._trained))

    def finalize(self, trainer: Trainer, error: BaseException | None = None) -> None:
        """Write everything to disk. Never raises, runs no pass, and waits for no other process. Idempotent."""
        self.subjects.stop_watching()
        self._watchers.stop()
        # Processes that still wait for this one fail at once.
        self._processes.disconnect()
        self.timer.training_ends()
        output = self._output
        if output is None or not output.unfinished:
            return
        try:
            self._metadata.mark_ended(trainer.current_epoch + 1, error)
            self._end_event(output, trainer)
            for task in self._at_end:
                output.at_end(task)
            done = output.drain(DRAIN_SECONDS)
            self.warnings.warn_unwritten(output.problems())
            if not done:
                late = TimeoutError(f"after {DRAIN_SECONDS:.0f} s")
                self.warnings.warn("The callbacks", "are still writing pictures", late, "do not end the process yet")
        except Exception as problem:
            # Anything raised while the Trainer handles an exception would hide the user's own error.
            print(f"vis_callbacks could not finish its pictures: {type(problem).__name__}: {problem}")

    # What these moments have in common.

    def _open_output(self, trainer: Trainer, module: LightningModule, *, fresh: bool) -> None:
        # One process writes; a fast development run leaves nothing behind.
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False) or self._log_dir is None:
            return
        if self._output is None:
            self._output = Output(self._log_dir, list(trainer.loggers))
        if fresh:
            self._output.begin()
        known = self._output.has_facts
        self._metadata.mark_running(module, fitting=is_fitting(trainer), max_epochs=trainer.max_epochs, known=known)

    def _describe(self, output: Output) -> None:
        """Write once, where the user looks, what the pictures are about."""
        if not self._described and self._metadata.subjects.get("subject", {}).get("targets"):
            self._described = output.add_text("visualizations/subject", subject_text(self._metadata.subjects))

    def _end_event(self, output: Output, trainer: Trainer) -> None:
        fit = is_fitting(trainer)
        nothing = {self._names[one]: in_place(why, fit=fit) for one, why in self._reasons(trainer).items()}
        epochs, seconds = trainer.current_epoch, output.thread_seconds
        if (found := self._watchers.findings()) is not None:
            output.tell(found)
        output.end_event(self._metadata.current(epochs=epochs, thread_seconds=seconds, nothing=nothing))

    def _reasons(self, trainer: Trainer) -> dict[Technique, str]:
        """Return why nothing is shown of techniques, as the rest of a sentence, where it can be explained."""
        method, fast = stage_of(trainer), bool(getattr(trainer, "fast_dev_run", False))
        outcome = Outcome(
            method,
            epochs=trainer.current_epoch,
            steps=trainer.global_step,
            trained=self._trained,
            validates=method == "fit" and not fast and has_validation(trainer),
            validated=self._validated,
            intervals=validation_intervals(trainer),
            development=fast,
        )
        # Those that watch show nothing where nothing is wrong.
        nothing = [one for one in self.techniques if one not in self._shown and not isinstance(one, Watcher)]
        found = {one: why_nothing(one.schedule, one.uses_samples, outcome) for one in nothing}
        return {one: why for one, why in found.items() if why}

    def _check_classes(self, trainer: Trainer, module: LightningModule) -> None:
        class_names, problem = self._class_names(trainer, module, None)
        if trainer.is_global_zero:
            self.warnings.warn_class_names(problem)
        for technique in self.techniques:
            technique.check_classes(class_names)
        if class_names:
            self.selector.set_class_count(len(class_names))

    def _class_names(self, trainer: Trainer, module: LightningModule, forward: Forward) -> tuple[tuple[str, ...], str]:
        """Return the class names of an option's network, and what is wrong with them."""
        model = self.subjects.candidates(module, forward)[0]
        return find_class_names(model, data_holders(trainer, module), labels=self.selector.labels)

    def _settle(self, trainer: Trainer, module: LightningModule, *, final: bool) -> None:
        """Find the subjects that can be told by now."""
        self.subjects.stop_watching()
        if not self.subjects.wanted:
            return

        def classes(forward: Forward) -> Classes:
            given = [one.sample_request.class_names for one in self.techniques if one.forward is forward]
            names = next(filter(None, given), ()) or self._class_names(trainer, module, forward)[0]
            return Classes(len(names), stated_classes(module))

        with self.timer.time("subject"):
            fitting = is_fitting(trainer)
            validates = fitting and has_validation(trainer)
            for subject in self.subjects.settle(module, classes, fitting=fitting, validates=validates, final=final):
                # Where no samples can be taken, that is said instead.
                blank = self.subjects.without_images and self.selector.wants_batches
                if subject.problem and trainer.is_global_zero and not blank:
                    self.warnings.warn_subject(subject.problem)

    @property
    def _mine(self) -> list[Technique]:
        """The techniques whose pictures this process makes, or takes part in."""
        return [one for one in self.techniques if self._output is not None or self._processes.includes(one)]

    def _show_initial(
        self, trainer: Trainer, module: LightningModule, *, complete: bool = False, now: bool = False
    ) -> None:
        """Make the pictures of the initial weights, of the techniques that wait for them and have samples now.

        For `complete` and `now` see `_select`; other pictures that are due now come after these.
        """
        if not self._waiting:
            return
        moment = Moment(0, 0)
        ready = self._select(self._waiting, moment, trainer, module, complete=complete, now=now)
        _mark_done(ready, epoch=0)
        # A process that has lost the others makes none.
        made, mine = [one.technique for one in ready], self._mine
        self._waiting = [technique for technique in self._waiting if technique in mine and technique not in made]
        if ready:
            with nullcontext() if self._initial is None else swapped_weights(module, self._initial):
                self._make(ready, moment, trainer, module, complete)
        if not self._waiting:
            self._initial = None

    def _select(
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

        If `complete`, all batches were seen, so that fewer samples than asked for must do. Where a picture cannot be
        made later than `now`, samples of a few classes must. The `last` event of a fit is made whole.
        """
        if not due:
            return []
        ready: list[Ready] = []
        if self._output is not None:
            # Of techniques that are not due too: samples are chosen as soon as anything is made.
            found = [self._resolve(one, trainer, module, complete, now) for one in self.techniques]
            found = [replace(one, passes=self._passes(one, moment)) for one in found]
            asked = [one for one in found if one.technique in due]
            later = [one for one in found if one not in asked and one.technique.schedule.before_training]
            spent = self._spent(self._output)
            ready = select(asked, self.budget, spent, moment, later=later, last=last)
            for one in asked:
                if not one.waits and one not in ready:
                    # Left out to keep to the budget: it is due again the next time.
                    one.technique.schedule.mark_done(step=trainer.global_step)
                    one.technique.left_out = sorted({*one.technique.left_out, moment.epoch})
        selected = self._processes.broadcast_selection(self.techniques, due, [one.technique for one in ready])
        if moment.stage == "fit" and moment.epoch > 0:
            missing = [one for one in (*self._overdue, *due) if one not in selected]
            self._overdue = list(dict.fromkeys(missing))
        if self._output is None:
            # The samples come with the other inputs.
            return [Ready(technique, self._names[technique]) for technique in selected]
        if ready:
            self.budget.record_start({one.name: one.passes for one in ready}, spent.by_name, spent.training)
        return ready

    def _resolve(
        self, technique: Technique, trainer: Trainer, module: LightningModule, complete: bool, now: bool = False
    ) -> Ready:
        """Return a technique with its samples, or with the reason why it has none."""
        name = self._names[technique]
        try:
            found = self.subjects.get(module, technique.forward)
            if found is None:
                return Ready(technique, name, subject=None)
            subject, model = found
            if not technique.uses_samples:
                return Ready(technique, name, subject=subject, model=model)
            holders, width = data_holders(trainer, module), subject.class_count
            samples = self.selector.samples(
                technique.sample_request, model, holders, enough=complete, now=now, width=width
            )
            if not subject.problem:
                self.warnings.warn_class_names(self.selector.name_problem)
            return Ready(technique, name, samples, subject=subject, model=model)
        except Exception as error:
            return Ready(technique, name, error=error)

    def _passes(self, ready: Ready, moment: Moment) -> int:
        if ready.samples is None or not self.budget.bounds(ready.technique.budget):
            return 0
        try:
            return ready.technique.passes(moment, ready.samples)
        except Exception as error:
            what = "cannot say how many passes it takes"
            self.warnings.warn(ready.name, what, error, "its budget goes by what it cost last")
            return 0

    def _spent(self, output: Output) -> Spent:
        drawing = dict(output.drawing_seconds)
        return Spent(
            {name: self.timer.seconds_of(name) + drawing.get(name, 0.0) for name in self._names.values()},
            pictures=self.timer.total + sum(drawing.values()),
            training=self.timer.training,
            per_pass=self.timer.pass_seconds,
        )

    def _make(
        self, ready: Sequence[Ready], moment: Moment, trainer: Trainer, module: LightningModule, complete: bool = False
    ) -> None:
        """Make the pictures of one event; all processes that share its work call this."""
        if not ready:
            return
        techniques, output = [one.technique for one in ready], self._output
        if moment.stage != "fit" or moment.epoch > 0:
            self._shown.update(techniques)
        buffers = self._processes.broadcast_inputs(techniques, module, self.selector, self.subjects)
        if output is None:
            if not self._processes.connected:
                return
            ready = [self._resolve(one, trainer, module, complete) for one in techniques]
        runner = EventRunner(
            ready,
            moment,
            share=self._processes.share,
            output=output,
            timer=self.timer,
            warnings=self.warnings,
            fitting=self._fitting(trainer, ready),
            chunk_size=self.chunk_size,
        )
        passed = self.timer.split_evenly("shared pass", [one.name for one in ready if one.technique.uses_samples])
        with passed, nullcontext() if output is None else output.held():
            parts = runner.make(module, buffers)
        if parts:
            with self.timer.time("waiting for other processes"):
                gathered = self._processes.gather(parts)
            if gathered:
                runner.merge(module, gathered)
        if output is not None:
            self._metadata.describe(ready)
            self._describe(output)
            self.warnings.warn_unwritten(output.problems())
            self._end_event(output, trainer)
        if self._batch_pixels is None and is_fitting(trainer):
            # Later events use memory that training has used already.
            with self.timer.time("freed memory"):
                return_freed_memory()
        if runner.raised:
            raise runner.raised[0]

    def _fitting(self, trainer: Trainer, ready: Sequence[Ready]) -> int:
        """Return the pixels that go through a model at once: those of a training batch, whose graph is larger."""
        if not is_fitting(trainer):
            return CPU_PIXELS
        shown = next((one.samples.images for one in ready if one.samples is not None), None)
        if self._batch_pixels is not None or shown is None:
            return self._batch_pixels or 0
        return training_batch_size(trainer) * pixels_of(shown)


def _mark_done(ready: Sequence[Ready], *, epoch: int | None = None, step: int | None = None) -> None:
    for one in ready:
        one.technique.schedule.mark_done(epoch=epoch, step=step)
