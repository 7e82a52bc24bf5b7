"""What the callbacks of one Trainer share: one leader, fixed samples, one pass an event, one store, one ledger."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vis_callbacks._lightning import (
    LightningModule,
    Trainer,
    data_holders,
    fits,
    log_dir,
    metric_step,
    shards_weights,
    stage_of,
    validates,
)
from vis_callbacks.budget import Budget, left_out
from vis_callbacks.chooser import Chooser, find_class_names
from vis_callbacks.event import Event, Moment, Share, SharedPass
from vis_callbacks.ledger import Ledger
from vis_callbacks.metrics import MetricReader
from vis_callbacks.model.classifier import classifier_in, unwrapped
from vis_callbacks.model.undisturbed import device_of, seed_all, undisturbed
from vis_callbacks.model.weights import copied_weights, swapped_weights
from vis_callbacks.output import Output
from vis_callbacks.panel import Panel
from vis_callbacks.ranks import Part, ProcessError, Ranks
from vis_callbacks.samples import Samples
from vis_callbacks.sinks.record import Record

if TYPE_CHECKING:
    from vis_callbacks.callback import VisualizationCallback

DRAIN_SECONDS = 120.0
_ALONE = ("The processes", "cannot share the work on the pictures")


class VisualizationWarning(UserWarning):
    """A picture could not be made or written; training goes on."""


class NotFiniteError(ArithmeticError):
    """The model's weights hold NaN or Inf."""


class Run:
    """What the callbacks of one Trainer share. Get it with `Run.of`.

    Every callback hands its hooks on to the run. The first one leads: the run acts on its hooks alone, so that all
    techniques due at one moment share one guard, one pass and one event.
    """

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.budget = Budget()
        self.chooser = Chooser()
        self.callbacks: list[VisualizationCallback] = []
        self._members: list[object] = []
        self._at_end: list[Callable[[Output], object]] = []
        self._output: Output | None = None
        self._log_dir: str | None = None
        self._metrics = MetricReader()
        self._names: dict[VisualizationCallback, str] = {}
        self._warned: set[tuple[type[Exception], str]] = set()
        self._initial: dict[str, Tensor] | None = None
        self._waiting: list[VisualizationCallback] = []
        self._training_since: float | None = None
        self._facts: dict[str, Any] = {}
        self._tells_facts = True
        self._told_off = False
        self._ranks: Ranks | None = None
        self._parts: dict[VisualizationCallback, Part] = {}
        self._pass_seconds: dict[str, float] = {}

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
        strategy = shards_weights(trainer)
        if strategy is not None and trainer.is_global_zero and not self._told_off:
            self._told_off = True
            warnings.warn(
                f"Pictures are off: with {strategy} each process holds but a part of the weights, and a pass that one "
                "makes alone would wait for the others without end. Training goes on. For pictures train with "
                "strategy='ddp', or give a checkpoint to Trainer.validate on one device.",
                VisualizationWarning,
                stacklevel=2,
            )
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
            self.chooser.request(callback.sample_request)

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
                self.chooser.load_state_dict(callback.restored_samples)
                callback.restored_samples = {}
        self._meet(trainer)
        if not fits(trainer):
            self._check_classes(trainer, module)
            self._open(trainer, module, fresh=False)

    def train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Training starts: make the first pictures, or keep the weights until there are samples for them."""
        fresh = trainer.global_step == 0 and trainer.current_epoch == 0
        self._check_classes(trainer, module)
        self._open(trainer, module, fresh=fresh)
        self._training_since = time.perf_counter()
        if fresh:
            # Nothing has been earned yet that could pay for techniques of many passes.
            self._waiting = [
                callback
                for callback in self._mine
                if callback.schedule.starts and not (callback.split and self._is_bounded([callback]))
            ]
            self._make_initial(trainer, module)
            if self._waiting:
                self._initial = copied_weights(module)

    def pass_start(self, trainer: Trainer, stage: str) -> None:
        """A pass through the data of a stage starts."""
        if stage == self._sample_stage(trainer):
            self.chooser.pass_start()

    def offer(self, trainer: Trainer, module: LightningModule, stage: str, batch: Any, loader: int = 0) -> None:
        """A batch passes by; samples are taken from validation where there is any, and from its first loader."""
        if stage != self._sample_stage(trainer) or loader != 0:
            return
        if trainer.is_global_zero and self.chooser.wants_batches:
            with self.ledger.time("samples"):
                self.chooser.offer(batch)
        if stage == "train":
            self._make_initial(trainer, module)

    def stage_end(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """An epoch of training, validation or test ends."""
        if trainer.sanity_checking:
            return
        complete = stage == self._sample_stage(trainer)
        if complete:
            self._make_initial(trainer, module, complete=True)
        # Without validation, the end of a training epoch stands in for it.
        ending = {stage, "validation"} if stage == "train" and not validates(trainer) else {stage}
        epoch = trainer.current_epoch + (1 if fits(trainer) else 0)
        asked = [
            callback
            for callback in self._mine
            if ending & set(callback.schedule.on) and (not fits(trainer) or callback.schedule.due_epoch(epoch))
        ]
        due = self._due(asked, trainer, module, complete=complete)
        step = metric_step(trainer) - (1 if stage == "train" else 0)
        for callback in due:
            callback.schedule.fired(epoch=epoch)
        self._make(due, trainer, module, Moment(epoch, max(step, 0), stage_of(trainer)), complete=complete)

    def step_end(self, trainer: Trainer, module: LightningModule) -> None:
        """A training batch ends."""
        step = trainer.global_step
        asked = [callback for callback in self._mine if callback.schedule.due_step(step)]
        due = self._due(asked, trainer, module)
        for callback in due:
            callback.schedule.fired(step=step)
        self._make(due, trainer, module, Moment(trainer.current_epoch + 1, metric_step(trainer)))

    def read_metrics(self, trainer: Trainer, moment: str) -> None:
        """Metrics are complete, or about to be made. All processes must call this: reading may synchronise them."""
        if trainer.sanity_checking:
            return
        values = self._metrics.read(trainer.callback_metrics, moment)
        if values and self._output is not None:
            after_epoch = moment == "train" or not fits(trainer)
            step = metric_step(trainer) - (1 if moment == "train" else 0)
            self._output.add_metrics(trainer.current_epoch + (0 if after_epoch else 1), max(step, 0), values)

    def finalize(self, trainer: Trainer, error: BaseException | None = None) -> None:
        """Bring everything to the disk. Never raises, makes no pass, talks to no other process; may be called twice."""
        # Whoever still waits for this process is told at once.
        self._leave()
        output = self._output
        if output is None or not output.unfinished:
            return
        try:
            # Who stops the waiting for the last pictures does not stop the training any more.
            if self._facts["status"] == "running":
                stopped = f"stopped by {type(error).__name__} in epoch {trainer.current_epoch + 1}"
                self._facts["status"] = "finished" if error is None else stopped
            output.end_event(self._current_facts(trainer) if self._tells_facts else None)
            for task in self._at_end:
                output.at_end(task)
            done = output.drain(DRAIN_SECONDS)
            self._warn_of_writing()
            if not done:
                late = TimeoutError(f"after {DRAIN_SECONDS:.0f} s")
                self._warn("The callbacks", "are still writing pictures", late, "do not end the process yet")
        except Exception as problem:
            # Anything raised while the Trainer handles an exception would hide the user's own error.
            print(f"vis_callbacks could not finish its pictures: {type(problem).__name__}: {problem}")

    # How pictures are made.

    def _open(self, trainer: Trainer, module: LightningModule, *, fresh: bool) -> None:
        # One process writes; a fast development run leaves nothing behind.
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False) or self._log_dir is None:
            return
        if self._output is None:
            self._output = Output(self._log_dir, list(trainer.loggers), fresh=fresh)
            # A later validation or test of the same version says nothing new about its training.
            self._tells_facts = fits(trainer) or not self._output.has_facts
        if fits(trainer) or not self._facts:
            self._tells_facts = self._tells_facts or fits(trainer)
            self._facts = {**_facts(module), "about": self._about(), "max_epochs": trainer.max_epochs}
        self._facts["status"] = "running"

    def _about(self) -> dict[str, str]:
        texts = {name: (type(callback).__doc__ or "").strip() for callback, name in self._names.items()}
        return {name: " ".join(text.split("\n\n")[0].split()) for name, text in texts.items() if text}

    def _check_classes(self, trainer: Trainer, module: LightningModule) -> None:
        class_names = find_class_names(classifier_in(module), data_holders(trainer, module))
        for callback in self.callbacks:
            callback.check_classes(class_names)
        if class_names:
            self.chooser.classes_are(len(class_names))

    @staticmethod
    def _sample_stage(trainer: Trainer) -> str:
        """The stage whose batches samples are taken from."""
        if not fits(trainer):
            return "test" if trainer.testing else "validation"
        return "validation" if validates(trainer) else "train"

    def _make_initial(self, trainer: Trainer, module: LightningModule, *, complete: bool = False) -> None:
        """Make the pictures of the initial weights, of the callbacks that wait for them and have samples now."""
        ready = self._due(self._waiting, trainer, module, complete=complete, initial=True)
        if not ready:
            return
        self._waiting = [callback for callback in self._waiting if callback not in ready]
        for callback in ready:
            callback.schedule.fired(epoch=0)
        with nullcontext() if self._initial is None else swapped_weights(module, self._initial):
            self._make(ready, trainer, module, Moment(0, 0), complete=complete)
        if not self._waiting:
            self._initial = None

    @property
    def _mine(self) -> list[VisualizationCallback]:
        """The callbacks whose pictures this process makes, or takes part in."""
        return [callback for callback in self.callbacks if self._output is not None or self._shares(callback)]

    def _due(
        self,
        asked: Sequence[VisualizationCallback],
        trainer: Trainer,
        module: LightningModule,
        *,
        complete: bool = False,
        initial: bool = False,
    ) -> list[VisualizationCallback]:
        """Return which of the callbacks whose time it is make pictures now. The writing process decides for all."""
        if not asked:
            return []
        able = self._with_samples(trainer, module, complete=complete)
        due = [callback for callback in asked if callback in able]
        if not initial:
            due = self._affordable(due, trainer)
        if self._ranks is not None and any(map(self._shares, asked)):
            try:
                return self._ranks.agree(self.callbacks, asked, due)
            except Exception as error:
                self._part_ways(error)
        return due

    def _affordable(self, due: list[VisualizationCallback], trainer: Trainer) -> list[VisualizationCallback]:
        """Return whose pictures the training can pay for; the others try again at the next end of an epoch."""
        if self._output is None or not fits(trainer) or not self._is_bounded(due):
            return due
        chosen = self.budget.affordable(
            {self._names[callback]: callback.budget for callback in due},
            self._spent(),
            training=self._training_seconds(),
            everything=self.ledger.total,
        )
        for callback in due:
            if self._names[callback] not in chosen:
                callback.schedule.fired(step=trainer.global_step)
                callback.left_out = sorted({*callback.left_out, trainer.current_epoch + 1})
        return [callback for callback in due if self._names[callback] in chosen]

    def _is_bounded(self, callbacks: Sequence[VisualizationCallback]) -> bool:
        return self.budget.share is not None or any(callback.budget is not None for callback in callbacks)

    def _training_seconds(self) -> float:
        elapsed = time.perf_counter() - self._training_since if self._training_since is not None else 0.0
        return max(elapsed - self.ledger.total, 0.0)

    def _spent(self) -> dict[str, float]:
        """Return the seconds that each callback has taken, with its part of the passes that it shared."""
        parts = (self.ledger.seconds, self._pass_seconds)
        return {name: sum(part.get(name, 0.0) for part in parts) for name in self._names.values()}

    def _with_samples(
        self, trainer: Trainer, module: LightningModule, *, complete: bool = False
    ) -> list[VisualizationCallback]:
        """Return the callbacks that can make pictures now: no samples have passed by yet is no fault."""

        def able(callback: VisualizationCallback) -> bool:
            if not callback.uses_samples:
                return True
            try:
                return self._samples(callback, trainer, module, complete=complete) is not None
            except Exception:
                return True  # it is asked again when the picture is made, and said there

        return [] if self._output is None else [callback for callback in self.callbacks if able(callback)]

    def _samples(
        self, callback: VisualizationCallback, trainer: Trainer, module: LightningModule, *, complete: bool
    ) -> Samples | None:
        holders = data_holders(trainer, module)
        return self.chooser.samples(callback.sample_request, classifier_in(module), holders, enough=complete)

    def _make(
        self,
        due: Sequence[VisualizationCallback],
        trainer: Trainer,
        module: LightningModule,
        moment: Moment,
        *,
        complete: bool = False,
    ) -> None:
        if not due:
            return
        raised: list[Exception] = []
        events: Iterator[tuple[VisualizationCallback, Event]] | None = None
        passes = self.ledger.seconds["shared pass"]
        if self._output is not None:
            self.budget.begin([self._names[callback] for callback in due], self._spent())
        buffers = self._brief(due, module)
        if self._output is None and self._ranks is None:
            return
        with self.ledger.time("guard"):
            try:
                unfinished = True
                while unfinished:
                    with swapped_weights(module, buffers) if buffers else nullcontext(), undisturbed(module):
                        if events is None:
                            events = iter(self._events(due, trainer, module, moment, raised, complete=complete))
                        unfinished = self._visualize(events, moment, device_of(module), raised)
            except Exception as error:
                for callback in due:
                    self._fail(callback, moment, error, raised)
        self._bring_together(moment, raised)
        users = [self._names[callback] for callback in due if callback.uses_samples]
        for name in users:
            earlier = self._pass_seconds.get(name, 0.0)
            self._pass_seconds[name] = earlier + (self.ledger.seconds["shared pass"] - passes) / len(users)
        self._warn_of_writing()
        if self._output is not None:
            self._output.end_event(self._current_facts(trainer) if self._tells_facts else None)
        if raised:
            raise raised[0]

    def _events(
        self,
        due: Sequence[VisualizationCallback],
        trainer: Trainer,
        module: LightningModule,
        moment: Moment,
        raised: list[Exception],
        *,
        complete: bool,
    ) -> list[tuple[VisualizationCallback, Event]]:
        model, device = classifier_in(module), device_of(module)
        passes: dict[tuple[int, object, int, int], SharedPass] = {}
        events: list[tuple[VisualizationCallback, Event]] = []
        for callback in due:
            try:
                share = self._ranks.share if self._ranks is not None and callback.split else Share()
                shared, first = None, 0
                if callback.uses_samples:
                    samples = self._samples(callback, trainer, module, complete=complete)
                    if samples is None:
                        raise LookupError("no images have passed by yet: give samples= as a tensor or image files")
                    part = share.slice(len(samples)) if callback.split == "samples" else slice(0, len(samples))
                    first = part.start
                    if part.start == part.stop:
                        continue
                    key = (id(samples), callback.targets, part.start, part.stop)
                    if key not in passes:
                        passes[key] = SharedPass(model, samples[part].to(device), callback.targets, self.ledger)
                    shared = passes[key]
                event = Event(model, moment, callback.seed, shared, first, share)
                if shared is not None:
                    shared.add(callback.needs(event))
                events.append((callback, event))
            except Exception as error:
                self._fail(callback, moment, error, raised)
        return events

    def _visualize(
        self,
        events: Iterator[tuple[VisualizationCallback, Event]],
        moment: Moment,
        device: torch.device,
        raised: list[Exception],
    ) -> bool:
        """Make pictures until one fails, and say so: what it left behind must be undone before the next."""
        for callback, event in events:
            start = time.perf_counter()
            try:
                with self.ledger.time(self._names[callback]):
                    seed_all(callback.seed, device)
                    panels = list(callback.visualize(event))
                _check_finite(panels, event.model)
                seconds = time.perf_counter() - start
                if self._shares(callback):
                    self._parts[callback] = Part(panels, seconds, callback.tell() if self._output is None else None)
                else:
                    self._put(callback, moment, panels, seconds)
            except Exception as error:
                self._fail(callback, moment, error, raised)
                return True
        return False

    # Several processes.

    def _meet(self, trainer: Trainer) -> None:
        # Anew each time: whether an earlier meeting still holds, each process may see differently.
        self._leave()
        # A fast development run makes no pictures.
        if any(callback.split for callback in self.callbacks) and not getattr(trainer, "fast_dev_run", False):
            try:
                self._ranks = Ranks.meet(trainer.world_size)
            except Exception as error:
                if trainer.is_global_zero:
                    self._warn(*_ALONE, error, "by the first process alone")

    def _leave(self) -> None:
        if self._ranks is not None:
            self._ranks.leave()
            self._ranks = None

    def _part_ways(self, error: Exception) -> None:
        self._leave()
        if self._output is None:
            self._waiting, self._initial = [], None
        else:
            self._warn(*_ALONE, error, "by the first process alone")

    def _shares(self, callback: VisualizationCallback) -> bool:
        return self._ranks is not None and callback.split is not None

    def _brief(self, due: Sequence[VisualizationCallback], module: LightningModule) -> Mapping[str, Tensor]:
        """Let all processes know what those due that share their work need; return buffers to work with."""
        self._parts = {callback: Part() for callback in due if self._shares(callback)}
        if self._ranks is None or not self._parts:
            return {}
        try:
            return self._ranks.brief(list(self._parts), module, self.chooser)
        except Exception as error:
            self._part_ways(error)
            return {}

    def _bring_together(self, moment: Moment, raised: list[Exception]) -> None:
        """Put together what the processes have made."""
        if self._ranks is None or not self._parts:
            return
        try:
            with self.ledger.time("waiting for other processes"):
                gathered = self._ranks.gather(list(self._parts.values()))
        except Exception as error:
            self._part_ways(error)
            lost = Part(error=ProcessError("another process was lost"))
            gathered = [] if self._output is None else [[lost] * len(self._parts)]
        for callback, *parts in zip(self._parts, *gathered, strict=True) if gathered else ():
            try:
                for part in parts:
                    if part.error is not None:
                        raise part.error
                    if part.told is not None:
                        callback.hear(part.told)
                panels = [panel for part in parts for panel in part.panels]
                self._put(callback, moment, panels, max(part.seconds for part in parts))
            except Exception as error:
                self._report(callback, moment, error, raised)

    def _put(self, callback: VisualizationCallback, moment: Moment, panels: Sequence[Panel], seconds: float) -> None:
        assert self._output is not None
        with self.ledger.time("handing over"):
            for index, panel in enumerate(panels):
                record = Record(
                    tag=f"{self._names[callback]}/{panel.name}",
                    callback=self._names[callback],
                    epoch=moment.epoch,
                    step=moment.step,
                    stage=moment.stage,
                    sample=panel.sample,
                    label=panel.label,
                    predicted=panel.predicted,
                    probability=panel.probability,
                    seconds=round(seconds / len(panels), 4),
                    caption=panel.caption,
                    captions=tuple(tile.caption for tile in panel.all_tiles),
                    scalars=dict(panel.scalars),
                )
                self._output.put(index, record, panel, callback.destinations, callback.transform)

    def _fail(self, callback: VisualizationCallback, moment: Moment, error: Exception, raised: list[Exception]) -> None:
        if self._shares(callback):
            self._parts[callback] = Part(error=error)
        else:
            self._report(callback, moment, error, raised)

    def _report(
        self, callback: VisualizationCallback, moment: Moment, error: Exception, raised: list[Exception]
    ) -> None:
        assert self._output is not None
        name, cause = self._names[callback], f"{type(error).__name__}: {error}"
        self._output.note(Record(name, name, moment.epoch, moment.step, moment.stage, error=cause))
        if callback.on_error == "raise":
            raised.append(error)
            return
        self._warn(name, f"made no pictures in epoch {moment.epoch}", error, "on_error='raise' stops there")

    def _warn(self, who: str, what: str, error: Exception, remedy: str) -> None:
        # What is wrong with the weights or the disk hinders all callbacks alike, and the run's other files too.
        key = (type(error), "" if isinstance(error, (NotFiniteError, OSError)) else who)
        if key not in self._warned:
            self._warned.add(key)
            cause = f"{type(error).__name__}: {error}"
            text = f"{who} {what}: {cause}. Training goes on, and it is tried again ({remedy})."
            warnings.warn(text, VisualizationWarning, stacklevel=2)

    def _warn_of_writing(self) -> None:
        if self._output is None:
            return
        for name, error in self._output.problems():
            remedy = "look at the disk's space and the folder's rights" if isinstance(error, OSError) else "report it"
            self._warn(name or "The picture store", "could not be written", error, remedy)

    def _current_facts(self, trainer: Trainer) -> dict[str, Any]:
        assert self._output is not None
        shares = {callback: callback.budget or self.budget.share for callback in self.callbacks}
        return {
            **self._facts,
            "updated": time.time(),
            "about": {callback.name: _first_sentence(callback) for callback in self.callbacks},
            "epochs": trainer.current_epoch,
            "training_seconds": round(self._training_seconds(), 3),
            "picture_seconds": {part: round(value, 3) for part, value in self.ledger.seconds.items()},
            "thread_seconds": round(self._output.thread_seconds, 3),
            "notes": [
                left_out(self._names[callback], callback.left_out, share)
                for callback, share in shares.items()
                if share is not None and callback.left_out
            ],
        }


def _facts(module: LightningModule) -> dict[str, Any]:
    model = unwrapped(classifier_in(module))
    inner = max(model.children(), key=_size, default=model) if type(model) is type(module) else model
    name = type(module).__name__ if inner is model else f"{type(module).__name__} ({type(unwrapped(inner)).__name__})"
    return {
        "model": name,
        "parameters": _size(module),
        "started": time.time(),
        "versions": {"torch": torch.__version__},
    }


def _check_finite(panels: Sequence[Panel], model: torch.nn.Module) -> None:
    for panel in panels:
        if not all(torch.isfinite(tile.values).all() for tile in panel.all_tiles):
            if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
                raise NotFiniteError("the model's weights hold NaN or Inf")
            raise ArithmeticError(f"the picture of {panel.name!r} holds NaN or Inf, though the weights do not")


def _size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _first_sentence(callback: VisualizationCallback) -> str:
    return (type(callback).__doc__ or "").strip().split(". See ")[0].split("\n")[0]
