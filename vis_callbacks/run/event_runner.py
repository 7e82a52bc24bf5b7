"""Makes the pictures of one event, and passes them to the output."""

import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor, nn

from vis_callbacks.errors import NotFiniteError, SubjectError
from vis_callbacks.event import Event, Moment, Needs, Share, SharedPass
from vis_callbacks.model.guard import device_of, seed_all, swapped_weights, undisturbed
from vis_callbacks.model.refusal import sentence_about
from vis_callbacks.output.record import Record
from vis_callbacks.output.writer import Output, record_of
from vis_callbacks.panel import Panel
from vis_callbacks.run.distributed import Part
from vis_callbacks.run.selection import Ready
from vis_callbacks.run.technique import Technique
from vis_callbacks.run.timer import Timer
from vis_callbacks.run.warn_once import WarnOnce

_HANDFUL = 6


@dataclass(frozen=True)
class _Task:
    """The work of one technique in this process."""

    ready: Ready
    event: Event
    needs: Needs


class EventRunner:
    """Makes the pictures of one event, all under one guard and from shared passes.

    A technique that fails is reported, and keeps no other from making its pictures.

    Args:
        ready: The techniques that make pictures now.
        moment: Epoch, step and stage.
        share: This process's share of the work of techniques that can be split.
        output: Where pictures go. None: this process makes its parts of split work, and nothing else.
        timer: Where the seconds are counted.
        warnings: Where failures are reported.
        fitting: Pixels (images x height x width) that go through a model at once, see `SharedPass`.
        chunk_size: Images that do, whatever their size; None: as many as fit.

    Attributes:
        raised: The errors of techniques with ``on_error="raise"``, in the order in which they occurred.
    """

    def __init__(
        self,
        ready: Sequence[Ready],
        moment: Moment,
        *,
        share: Share,
        output: Output | None,
        timer: Timer,
        warnings: WarnOnce,
        fitting: int,
        chunk_size: int | None = None,
    ) -> None:
        self._fitting = fitting
        self._chunk_size = chunk_size
        self._ready = ready
        self._moment = moment
        self._share = share
        self._output = output
        self._timer = timer
        self._warnings = warnings
        self._parts = {one.technique: Part() for one in ready if share.count > 1 and one.technique.split}
        self.raised: list[Exception] = []

    def make(self, module: nn.Module, buffers: Mapping[str, Tensor]) -> list[Part]:
        """Make the pictures.

        Args:
            module: The user's module.
            buffers: Buffers that replace the module's own meanwhile, by name.

        Returns:
            This process's part of each technique whose work is split.
        """
        tasks: Iterator[_Task] | None = None
        with self._timer.time("guard"):
            try:
                unfinished = True
                while unfinished:
                    with swapped_weights(module, buffers) if buffers else nullcontext(), undisturbed(module):
                        if tasks is None:
                            tasks = iter(self._tasks(module))
                        unfinished = self._visualize(tasks, device_of(module))
            except Exception as error:
                for ready in self._ready:
                    self._fail(ready, error)
        return list(self._parts.values())

    def merge(self, module: nn.Module, gathered: Sequence[Sequence[Part]]) -> None:
        """Put together the parts that the processes have made, and pass them on.

        Args:
            module: The user's module.
            gathered: What `make` returned in each process, in order.
        """
        split = [ready for ready in self._ready if ready.technique in self._parts]
        try:
            # Handlers of the user's are called here.
            with undisturbed(module):
                for ready, *parts in zip(split, *gathered, strict=True):
                    try:
                        self._put(ready, _panels(ready.technique, parts), max(part.seconds for part in parts))
                    except Exception as error:
                        self._report(ready, error)
        except Exception as error:
            for ready in split:
                self._report(ready, error)

    def _tasks(self, module: nn.Module) -> list[_Task]:
        device = device_of(module)
        passes: dict[tuple[int, int, object, int, int], SharedPass] = {}
        tasks: list[_Task] = []
        for ready in self._ready:
            technique, model, subject = ready.technique, ready.model or module, ready.subject
            if ready.error is not None:
                self._fail(ready, ready.error)
                continue
            try:
                if subject is None:
                    raise SubjectError("no batch has passed by yet that shows the network: set forward=")
                share = self._share if technique.split else Share()
                shared, first, needs = None, 0, Needs()
                if technique.uses_samples:
                    if ready.samples is None:
                        raise LookupError("no images have passed by yet: give samples= as a tensor or image files")
                    count = len(ready.samples)
                    part = share.slice(count) if technique.split == "samples" else slice(0, count)
                    first = part.start
                    if part.start == part.stop:
                        continue
                    key = (id(model), id(ready.samples), technique.targets, part.start, part.stop)
                    if key not in passes:
                        samples = ready.samples[part].to(device)
                        passes[key] = SharedPass(
                            model,
                            samples,
                            technique.targets,
                            self._timer.time_pass,
                            self._fitting,
                            self._chunk_size,
                        )
                    shared = passes[key]
                event = Event(model, self._moment, technique.seed, shared, first, share, subject)
                if shared is not None:
                    needs = technique.needs(event)
                    shared.add(needs, event.subject)
                tasks.append(_Task(ready, replace(event, needs=needs), needs))
            except Exception as error:
                self._fail(ready, error)
        return tasks

    def _visualize(self, tasks: Iterator[_Task], device: torch.device) -> bool:
        """Make pictures until a technique fails; return whether one did, so that the guard undoes what it left."""
        for task in tasks:
            ready, event, technique = task.ready, task.event, task.ready.technique
            start = time.perf_counter()
            try:
                with self._timer.time(ready.name):
                    seed_all(technique.seed, device)
                    panels = list(technique.visualize(event))
                _check_finite(panels, event.model)
                seconds = time.perf_counter() - start
                if technique in self._parts:
                    # A process without items has no state to share.
                    state = technique.shared_state() if panels and self._output is None else None
                    self._parts[technique] = Part(panels, seconds, state)
                else:
                    self._put(ready, panels, seconds)
            except Exception as error:
                self._fail(ready, error)
                return True
            finally:
                if event.shared is not None:
                    event.shared.release(task.needs)
        return False

    def _put(self, ready: Ready, panels: Sequence[Panel], seconds: float) -> None:
        assert self._output is not None
        technique, moment = ready.technique, self._moment
        with self._timer.time("handing over"):
            for index, (panel, numbers) in enumerate(zip(panels, logged_numbers(ready.name, panels), strict=True)):
                record = record_of(
                    panel,
                    callback=ready.name,
                    epoch=moment.epoch,
                    step=moment.step,
                    stage=moment.stage,
                    seconds=seconds / len(panels),
                )
                self._output.put(index, record, panel, technique.destinations, technique.transform, numbers)

    def _fail(self, ready: Ready, error: Exception) -> None:
        if ready.technique in self._parts:
            self._parts[ready.technique] = Part(error=error)
        else:
            self._report(ready, error)

    def _report(self, ready: Ready, error: Exception) -> None:
        assert self._output is not None
        if ready.model is not None and (sentence := sentence_about(ready.model, error)):
            error = SubjectError(sentence)
        moment = self._moment
        cause = f"{type(error).__name__}: {error}"
        self._output.note(Record(ready.name, ready.name, moment.epoch, moment.step, moment.stage, error=cause))
        if ready.technique.on_error == "raise":
            self.raised.append(error)
        else:
            # What keeps one from having samples may keep others too.
            alike = [one.name for one in self._ready if one.error is not None and str(one.error) == str(error)]
            what = f"made no pictures in epoch {moment.epoch}"
            self._warnings.warn(alike or ready.name, what, error, "on_error='raise' stops there")


def logged_numbers(name: str, panels: Sequence[Panel]) -> list[dict[str, float]]:
    """Return the numbers that loggers get beside each panel of an event, by tag.

    Up to six are ``<name>/<panel>/<number>``. Of more, the last panel gets the means, ``<name>/mean/<number>``: the
    numbers of ten classes would bury the user's own metrics. The picture store has all.
    """
    if sum(len(panel.scalars) for panel in panels) <= _HANDFUL:
        return [{f"{name}/{panel.name}/{what}": value for what, value in panel.scalars.items()} for panel in panels]
    values: dict[str, list[float]] = {}
    for panel in panels:
        for what, value in panel.scalars.items():
            values.setdefault(f"{name}/mean/{what}", []).append(value)
    means = {tag: statistics.fmean(found) for tag, found in values.items()}
    return [*({} for _ in panels[1:]), dict(islice(means.items(), _HANDFUL))]


def _panels(technique: Technique, parts: Sequence[Part]) -> list[Panel]:
    """Return the panels of all parts, in order, after the technique has taken over the other processes' states."""
    for part in parts:
        if part.error is not None:
            raise part.error
        if part.state is not None:
            technique.load_shared_state(part.state)
    return [panel for part in parts for panel in part.panels]


def _check_finite(panels: Sequence[Panel], model: nn.Module) -> None:
    # Tiles are often parts of one tensor: that is looked at once, by identity.
    known: dict[int, bool] = {}

    def is_finite(values: Tensor) -> bool:
        whole = values if values._base is None else values._base
        if id(whole) not in known:
            known[id(whole)] = _is_finite(whole)
        return known[id(whole)] or _is_finite(values)

    for panel in panels:
        if not all(is_finite(tile.values) for tile in panel.all_tiles):
            if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
                raise NotFiniteError("the model's weights hold NaN or Inf")
            raise ArithmeticError(f"the picture of {panel.name!r} holds NaN or Inf, though the weights do not")


def _is_finite(values: Tensor) -> bool:
    # A small part of the time of looking at each value: a sum is NaN or Inf if a value is, or if it overflows.
    return math.isfinite(float(values.sum())) or bool(values.isfinite().all())
