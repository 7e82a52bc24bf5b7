"""What the callbacks of one Trainer share: one leader, fixed samples, one pass an event, one store, one timer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vis_callbacks._lightning import (
    LightningModule,
    Trainer,
    data_holders,
    has_validation,
    is_fitting,
    log_dir,
    metric_step,
    sharded_strategy,
    stage_of,
)
from vis_callbacks.data.class_names import find_class_names
from vis_callbacks.data.samples import Samples
from vis_callbacks.data.selector import SampleSelector
from vis_callbacks.event import Moment
from vis_callbacks.model.classifier import classifier_in
from vis_callbacks.model.weights import copied_weights, swapped_weights
from vis_callbacks.output.writer import Output
from vis_callbacks.run.budget import Budget
from vis_callbacks.run.distributed import Sharing
from vis_callbacks.run.event_runner import EventRunner
from vis_callbacks.run.metadata import RunMetadata
from vis_callbacks.run.metrics import MetricReader
from vis_callbacks.run.selection import Due
from vis_callbacks.run.timer import Timer
from vis_callbacks.run.warn_once import WarnOnce

if TYPE_CHECKING:
    from vis_callbacks.callback import VisualizationCallback

DRAIN_SECONDS = 120.0


class Run:
    """What the callbacks of one Trainer share. Get it with `Run.of`.

    Every callback hands its hooks on to the run. The first one leads: the run acts on its hooks alone, so that all
    techniques due at one moment share one guard, one pass and one event.
    """

    def __init__(self) -> None:
        self.timer = Timer()
        self.budget = Budget()
        self.selector = SampleSelector()
        self.callbacks: list[VisualizationCallback] = []
        self._names: dict[VisualizationCallback, str] = {}
        self._members: list[object] = []
        self._at_end: list[Callable[[Output], object]] = []
        self._log_dir: str | None = None
        self._output: Output | None = None
        self._metrics = MetricReader()
        self.complaints = WarnOnce()
        self._sharing = Sharing(self.complaints)
        self._facts = RunMetadata(self._names, self.timer, self.budget)
        self._due = Due(self._names, self._sharing, self.timer, self.budget, self.complaints)
        # The callbacks that wait for samples to show the initial weights, and those weights once training goes on.
        self._waiting: list[VisualizationCallback] = []
        self._initial: dict[str, Tensor] | None = None
        self._offered = 0

    @classmethod
    def of(cls, trainer: Trainer) -> Run:
        """Return the run of a Trainer; it is made for the first callback that asks."""
        run: Run = vars(trainer).setdefault("_vis_callbacks_run", cls())
        return run

    def join(self, member: object, *, at_end: Callable[[Output], object] | None = None) -> None:
        """Add a callback.

        Args:
            member: The callback; the first one leads.
            at_end: Called with the output, in the writing thread, when all else is written.
        """
        if member not in self._members:
            self._members.append(member)
            if at_end is not None:
                self._at_end.append(at_end)

    def allows_pictures(self, trainer: Trainer) -> bool:
        """Whether pictures can be made at all; if not, it says so once."""
        strategy = sharded_strategy(trainer)
        if strategy is not None and trainer.is_global_zero:
            self.complaints.say_sharded(strategy)
        return strategy is None

    def add(self, callback: VisualizationCallback) -> None:
        """Add a callback that makes pictures. Of those with one name, the second gets the suffix ``_2``, and so on."""
        if callback not in self.callbacks:
            self.callbacks.append(callback)
            name, number = callback.name, 2
            while name in self._names.values():
                name, number = f"{callback.name}_{number}", number + 1
            self._names[callback] = name
        if callback.uses_samples:
            self.selector.request(callback.sample_request)

    def led_by(self, member: object) -> bool:
        """Whether a callback is the one on whose hooks the run acts."""
        return bool(self._members) and self._members[0] is member

    # The moments of a run, in the order in which a Trainer reaches them.

    def begin(self, trainer: Trainer, module: LightningModule) -> None:
        """A fit, validation or test starts and its model is built. All processes must call this."""
        self._log_dir = log_dir(trainer)
        for callback in self.callbacks:
            callback.check(classifier_in(module))
            if callback.restored_samples:
                self.selector.load_state_dict(callback.restored_samples)
                callback.restored_samples = {}
        # Anew each time: whether an earlier meeting still holds, each process may see differently.
        self._sharing.leave()
        # A fast development run makes no pictures.
        if any(callback.split for callback in self.callbacks) and not getattr(trainer, "fast_dev_run", False):
            self._sharing.meet(trainer.world_size, first=trainer.is_global_zero)
        if not is_fitting(trainer):
            self._check_classes(trainer, module)
            self._open(trainer, module, fresh=False)

    def train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Training starts: make the first pictures, or keep the weights until there are samples for them."""
        fresh = trainer.global_step == 0 and trainer.current_epoch == 0
        self._check_classes(trainer, module)
        self._open(trainer, module, fresh=fresh)
        self.timer.training_starts()
        self._offered = 0
        if fresh:
            # Nothing has been earned yet that could pay for techniques of many passes.
            self._waiting = [
                callback
                for callback in self._mine
                if callback.schedule.before_training and not (callback.split and self.budget.bounds(callback.budget))
            ]
            self._make_initial(trainer, module)
            if self._waiting:
                self._initial = copied_weights(module)

    def pass_start(self, trainer: Trainer, stage: str) -> None:
        """A pass through the data of a stage starts."""
        if stage == self._sample_stage(trainer):
            self.selector.pass_start()

    def offer(self, trainer: Trainer, module: LightningModule, stage: str, batch: Any, loader: int = 0) -> None:
        """A batch passes by; samples are taken from validation where there is any, and from its first loader."""
        if stage != self._sample_stage(trainer) or loader != 0:
            return
        if trainer.is_global_zero and self.selector.wants_batches:
            with self.timer.time("samples"):
                self.selector.offer(batch)
        self._offered += 1
        # To ask whether there are enough samples now, processes must speak: after 1, 2, 4, 8, ... batches is enough.
        if stage == "train" and not (self._sharing.together and self._offered & (self._offered - 1)):
            self._make_initial(trainer, module)

    def stage_end(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """An epoch of training, validation or test ends."""
        if trainer.sanity_checking:
            return
        complete = stage == self._sample_stage(trainer)
        if complete:
            self._make_initial(trainer, module, complete=True)
        # Without validation, the end of a training epoch stands in for it.
        ending = {stage, "validation"} if stage == "train" and not has_validation(trainer) else {stage}
        epoch = trainer.current_epoch + (1 if is_fitting(trainer) else 0)
        asked = [
            callback
            for callback in self._mine
            if ending & set(callback.schedule.on) and (not is_fitting(trainer) or callback.schedule.due_epoch(epoch))
        ]
        samples = self._samples(trainer, module, complete=complete)
        step = metric_step(trainer) - (1 if stage == "train" else 0)
        moment = Moment(epoch, max(step, 0), stage_of(trainer))
        due = self._due.among(asked, trainer, self._output, samples, moment)
        for callback in due:
            callback.schedule.mark_done(epoch=epoch)
        self._make(due, trainer, module, moment, samples)

    def step_end(self, trainer: Trainer, module: LightningModule) -> None:
        """A training batch ends."""
        step = trainer.global_step
        asked = [callback for callback in self._mine if callback.schedule.due_step(step)]
        samples = self._samples(trainer, module)
        moment = Moment(trainer.current_epoch + 1, metric_step(trainer))
        due = self._due.among(asked, trainer, self._output, samples, moment)
        for callback in due:
            callback.schedule.mark_done(step=step)
        self._make(due, trainer, module, moment, samples)

    def read_metrics(self, trainer: Trainer, moment: str) -> None:
        """Metrics are complete, or about to be made. All processes must call this: reading may synchronise them."""
        if trainer.sanity_checking:
            return
        values = self._metrics.read(trainer.callback_metrics, moment)
        if values and self._output is not None:
            after_epoch = moment == "train" or not is_fitting(trainer)
            step = metric_step(trainer) - (1 if moment == "train" else 0)
            self._output.add_metrics(trainer.current_epoch + (0 if after_epoch else 1), max(step, 0), values)

    def finalize(self, trainer: Trainer, error: BaseException | None = None) -> None:
        """Bring everything to the disk. Never raises, makes no pass, talks to no other process; may be called twice."""
        # Whoever still waits for this process is told at once.
        self._sharing.leave()
        self.timer.training_ends()
        output = self._output
        if output is None or not output.unfinished:
            return
        try:
            self._facts.end(trainer.current_epoch + 1, error)
            output.end_event(self._facts.now(epochs=trainer.current_epoch, thread_seconds=output.thread_seconds))
            for task in self._at_end:
                output.at_end(task)
            done = output.drain(DRAIN_SECONDS)
            self.complaints.say_unwritten(output.problems())
            if not done:
                late = TimeoutError(f"after {DRAIN_SECONDS:.0f} s")
                self.complaints.say("The callbacks", "are still writing pictures", late, "do not end the process yet")
        except Exception as problem:
            # Anything raised while the Trainer handles an exception would hide the user's own error.
            print(f"vis_callbacks could not finish its pictures: {type(problem).__name__}: {problem}")

    # What these moments have in common.

    def _open(self, trainer: Trainer, module: LightningModule, *, fresh: bool) -> None:
        # One process writes; a fast development run leaves nothing behind.
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False) or self._log_dir is None:
            return
        if self._output is None:
            self._output = Output(self._log_dir, list(trainer.loggers))
        if fresh:
            self._output.begin()
        known = self._output.has_facts
        self._facts.begin(module, fits=is_fitting(trainer), max_epochs=trainer.max_epochs, known=known)

    def _check_classes(self, trainer: Trainer, module: LightningModule) -> None:
        class_names = find_class_names(classifier_in(module), data_holders(trainer, module))
        for callback in self.callbacks:
            callback.check_classes(class_names)
        if class_names:
            self.selector.classes_are(len(class_names))

    @staticmethod
    def _sample_stage(trainer: Trainer) -> str:
        """The stage whose batches samples are taken from."""
        if not is_fitting(trainer):
            return "test" if trainer.testing else "validation"
        return "validation" if has_validation(trainer) else "train"

    def _make_initial(self, trainer: Trainer, module: LightningModule, *, complete: bool = False) -> None:
        """Make the pictures of the initial weights, of the callbacks that wait for them and have samples now."""
        if not self._waiting:
            return
        samples = self._samples(trainer, module, complete=complete)
        moment = Moment(0, 0)
        ready = self._due.among(self._waiting, trainer, self._output, samples, moment)
        # A process that the others were lost to makes none.
        makers = self._mine
        self._waiting = [callback for callback in self._waiting if callback in makers and callback not in ready]
        for callback in ready:
            callback.schedule.mark_done(epoch=0)
        if ready:
            with nullcontext() if self._initial is None else swapped_weights(module, self._initial):
                self._make(ready, trainer, module, moment, samples)
        if not self._waiting:
            self._initial = None

    @property
    def _mine(self) -> list[VisualizationCallback]:
        """The callbacks whose pictures this process makes, or takes part in."""
        return [callback for callback in self.callbacks if self._output is not None or self._sharing.includes(callback)]

    def _samples(
        self, trainer: Trainer, module: LightningModule, *, complete: bool = False
    ) -> Callable[[VisualizationCallback], Samples | None]:
        """Return what gives a callback's samples; fewer than it asked for once all batches have passed by."""

        def find(callback: VisualizationCallback) -> Samples | None:
            holders = data_holders(trainer, module)
            return self.selector.samples(callback.sample_request, classifier_in(module), holders, enough=complete)

        return find

    def _make(
        self,
        due: Sequence[VisualizationCallback],
        trainer: Trainer,
        module: LightningModule,
        moment: Moment,
        samples: Callable[[VisualizationCallback], Samples | None],
    ) -> None:
        if not due:
            return
        buffers = self._sharing.brief(due, module, self.selector)
        output = self._output
        if output is None and not self._sharing.together:
            return
        names = {callback: self._names[callback] for callback in due}
        making = EventRunner(
            names,
            moment,
            output=output,
            sharing=self._sharing,
            timer=self.timer,
            complaints=self.complaints,
        )
        with self.timer.divided("shared pass", [name for callback, name in names.items() if callback.uses_samples]):
            making.make(module, samples, buffers)
        if output is not None:
            self.complaints.say_unwritten(output.problems())
            output.end_event(self._facts.now(epochs=trainer.current_epoch, thread_seconds=output.thread_seconds))
        if making.raised:
            raise making.raised[0]
