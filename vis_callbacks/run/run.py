"""What the callbacks of one Trainer share: one leader, fixed samples, one event per moment, one store, one timer."""

from functools import partial
from typing import Any

from torch import Tensor

from vis_callbacks._lightning import (
    LightningModule,
    Trainer,
    is_ending,
    is_fitting,
    logger_of,
    metric_step,
    optimized_parameters,
    sharded_strategy,
)
from vis_callbacks.event import Moment
from vis_callbacks.run.budget import Budget
from vis_callbacks.run.coverage import Coverage
from vis_callbacks.run.distributed import Processes
from vis_callbacks.run.events import Events
from vis_callbacks.run.initial_pictures import InitialPictures
from vis_callbacks.run.inputs import Inputs
from vis_callbacks.run.members import Members
from vis_callbacks.run.progress import Progress
from vis_callbacks.run.recorder import Recorder
from vis_callbacks.run.selection import mark_done
from vis_callbacks.run.technique import Technique, Watcher
from vis_callbacks.run.timer import Timer
from vis_callbacks.run.warn_once import WarnOnce
from vis_callbacks.run.watchers import Watchers


class Run:
    """What the callbacks of one Trainer share. Get it with `Run.of`.

    Every callback hands its hooks on to the run. The first one leads: the run acts on its hooks alone, so that all
    techniques due at one moment share one guard, one pass and one event.

    Attributes:
        timer: How long everything takes.
        budget: What the pictures may cost.
        warnings: The warnings, each given once.
        members: The callbacks.
        inputs: The subjects and samples of those that make pictures.
        recorder: The output, and what is written there.
        events: Selects and makes pictures.
    """

    def __init__(self) -> None:
        self.timer = Timer()
        self.budget = Budget()
        self.warnings = WarnOnce()
        self.members = Members()
        self.inputs = Inputs(self.members, self.timer, self.warnings)
        self._coverage = Coverage(self.members)
        self._watchers = Watchers(self.timer, self.warnings)
        self._processes = Processes(self.warnings)
        self.recorder = Recorder(self.members, self._coverage, self._watchers, self.timer, self.budget, self.warnings)
        self.events = Events(
            self.members,
            self.inputs,
            self._processes,
            self.recorder,
            self._coverage,
            self.budget,
            self.timer,
            self.warnings,
        )
        self._initial = InitialPictures(self.events, self.budget)
        # Batches of the stage that samples come from, since training started.
        self._batches = 0

    @classmethod
    def of(cls, trainer: Trainer) -> "Run":
        """Return the run of a Trainer; the first call creates it."""
        run: Run = vars(trainer).setdefault("_vis_callbacks_run", cls())
        return run

    def allows_pictures(self, trainer: Trainer) -> bool:
        """Whether pictures can be made at all. If not, the first process warns once."""
        strategy = sharded_strategy(trainer)
        if strategy is not None and trainer.is_global_zero:
            self.warnings.warn_sharded(strategy)
        return strategy is None

    def add(self, technique: Technique) -> None:
        """Add a callback that makes pictures."""
        if self.members.add_technique(technique) and isinstance(technique, Watcher):
            self._watchers.add(self.members.names[technique], technique, technique.forward)
        self.inputs.request(technique)

    # The moments of a run, in the order in which a Trainer reaches them.

    def start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start a fit, validation or test; the model is built. All processes must call this."""
        self.recorder.start(trainer)
        # One process tells; a fast development run leaves nothing behind.
        self._watchers.active = trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False)
        self.inputs.subjects.start(module)
        self.events.start()
        self._coverage.start()
        self.inputs.start(module)
        # Always anew: the processes might not agree on whether an earlier group still works.
        self._processes.disconnect()
        # A fast development run makes no pictures.
        if any(one.split for one in self.members.techniques) and not getattr(trainer, "fast_dev_run", False):
            self._processes.connect(trainer.world_size, first=trainer.is_global_zero)
        if not is_fitting(trainer):
            self.inputs.check_classes(trainer, module)
            self.recorder.open(trainer, module, fresh=False)

    def train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Make the first pictures, or keep the initial weights until there are samples for them."""
        fresh = trainer.global_step == 0 and trainer.current_epoch == 0
        self._coverage.trained = True
        self.inputs.check_classes(trainer, module)
        self.recorder.open(trainer, module, fresh=fresh)
        self._watchers.training_starts(module, optimized_parameters(trainer))
        self.timer.training_starts()
        self._batches = 0
        if fresh:
            self._initial.start(trainer, module)

    def pass_start(self, trainer: Trainer, stage: str) -> None:
        """Start a pass through the data of a stage."""
        if stage == Progress.of(trainer).sample_stage:
            self.inputs.selector.pass_start()

    def batch_start(self, trainer: Trainer, module: LightningModule, stage: str, batch: Any, loader: int = 0) -> None:
        """Watch what the step does with a batch, until the subjects of all pictures are known."""
        if loader == 0 and is_fitting(trainer) and not trainer.sanity_checking:
            epoch = trainer.current_epoch + 1
            part = epoch if stage == "train" else trainer.global_step
            self._watchers.batch_starts(stage, epoch, part, module, batch, self.inputs.subjects.subject)
        if stage == "train":
            self.events.measure(batch)
        self.inputs.watch(trainer, module, stage, batch)

    def loss_computed(self, loss: Tensor) -> None:
        """Let callbacks look at the loss of a step, before its backward."""
        self._watchers.loss_computed(loss)

    def observe_batch(self, trainer: Trainer, stage: str, batch: Any, loader: int = 0) -> None:
        """Take samples from a batch, if it is of the stage that they come from, and of its first loader."""
        if stage == Progress.of(trainer).sample_stage and loader == 0:
            if trainer.is_global_zero and self.inputs.selector.wants_batches:
                with self.timer.time("samples"):
                    self.inputs.selector.observe(batch)
            self._batches += 1

    def batch_end(self, trainer: Trainer, module: LightningModule, stage: str, outputs: Any) -> None:
        """Learn from what the step did with a batch."""
        if is_fitting(trainer) and not trainer.sanity_checking:
            self._watchers.batch_ends(stage, module, outputs, partial(optimized_parameters, trainer))
        self.inputs.settle(trainer, module, final=False)
        # Connected processes must communicate to know whether there are enough samples: after 1, 2, 4, 8, ... batches.
        alone = not (self._processes.connected and self._batches & (self._batches - 1))
        if alone and stage == Progress.of(trainer).sample_stage == "train":
            self._initial.make(trainer, module)

    def step_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Make the pictures that are due after an optimizer step."""
        step = trainer.global_step
        if due := [technique for technique in self.events.mine if technique.schedule.due_step(step)]:
            progress = Progress.of(trainer)
            moment = Moment(progress.epoch, progress.step)
            self._initial.make(trainer, module, now=True)
            ready = self.events.select(due, moment, trainer, module, now=True)
            mark_done(ready, step=step)
            self.events.make(ready, moment, trainer, module)

    def stage_end(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Make the pictures that are due at the end of an epoch of training, validation or test."""
        self.inputs.subjects.stop_watching()
        if trainer.sanity_checking:
            return
        progress = Progress.of(trainer)
        complete = stage == progress.sample_stage
        if complete or not is_fitting(trainer):
            self.inputs.settle(trainer, module, final=True)
        if complete:
            self._initial.make(trainer, module, complete=True)
        # Without validation, the end of a training epoch stands in for it.
        ending = {stage, "validation"} if stage == progress.sample_stage == "train" else {stage}
        moment = progress.end_of(stage)
        if stage == "validation":
            self._coverage.validated = progress.epoch
        due = [
            technique
            for technique in self.events.mine
            if ending & set(technique.schedule.on)
            and (moment.stage != "fit" or technique.schedule.due_epoch(moment.epoch))
        ]
        if due and not complete:
            self._initial.make(trainer, module, now=True)
        last = moment.stage == "fit" and is_ending(trainer)
        ready = self.events.select(due, moment, trainer, module, complete=complete, now=True, last=last)
        mark_done(ready, epoch=moment.epoch)
        self.events.make(ready, moment, trainer, module, complete)
        if moment.stage != "fit":
            self.recorder.end_without_pictures(trainer)

    def train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Make the pictures that still wait or were left out, so that the run ends with pictures of every technique."""
        # If validation has never ended, the samples seen must do. If none were, `explain` says why.
        self._initial.make(trainer, module, complete=self.inputs.selector.has_seen, now=True)
        overdue = self.events.overdue
        moment = Moment(max(trainer.current_epoch, 1), max(metric_step(trainer) - 1, 0))
        ready = self.events.select(overdue, moment, trainer, module, now=True, last=True)
        mark_done(ready, epoch=moment.epoch)
        for one in ready:
            one.technique.left_out = [epoch for epoch in one.technique.left_out if epoch != moment.epoch]
        self.events.make(ready, moment, trainer, module)
        self._watchers.training_ends(moment.epoch)
        self.recorder.read_metrics(trainer, "train")

    def finalize(self, trainer: Trainer, error: BaseException | None = None) -> None:
        """Write everything to disk. Never raises, runs no pass, and waits for no other process. Idempotent."""
        self.inputs.subjects.stop_watching()
        self._watchers.stop()
        # Processes that still wait for this one fail at once.
        self._processes.disconnect()
        self.timer.training_ends()
        self.recorder.finalize(trainer, error)

    def explain(self, trainer: Trainer) -> None:
        """Say in the console what the budget left out, and why nothing is shown of some techniques."""
        if not trainer.is_global_zero:
            return
        if is_fitting(trainer):
            for note in self.recorder.metadata.left_out:
                logger_of(trainer).info(note)
        for sentence in self._coverage.explanations(trainer):
            self.warnings.warn_nothing(sentence)
