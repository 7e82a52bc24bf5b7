"""Makes the pictures of one event, and brings them to the output."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vis_callbacks.data.samples import Samples
from vis_callbacks.errors import NotFiniteError
from vis_callbacks.event import Event, Moment, Needs, SharedPass
from vis_callbacks.model.classifier import classifier_in
from vis_callbacks.model.guard import device_of, seed_all, swapped_weights, undisturbed
from vis_callbacks.output.record import Record
from vis_callbacks.output.writer import Output
from vis_callbacks.panel import Panel
from vis_callbacks.run.distributed import Sharing
from vis_callbacks.run.ranks import Part
from vis_callbacks.run.timer import Timer
from vis_callbacks.run.warn_once import WarnOnce

if TYPE_CHECKING:
    from vis_callbacks.callback import VisualizationCallback


class EventRunner:
    """The pictures of one event: all made under one guard, from one pass.

    Args:
        due: The callbacks that make pictures now, each with its name.
        moment: When this is.
        output: Where pictures go. None: this process makes parts of what is shared, and nothing else.
        sharing: What is to be done here of that.
        timer: Where the seconds are counted.
        complaints: Where it is said what could not be made.

    Attributes:
        raised: The errors of the callbacks that ask for them, in the order in which they were met.
    """

    def __init__(
        self,
        due: Mapping[VisualizationCallback, str],
        moment: Moment,
        *,
        output: Output | None,
        sharing: Sharing,
        timer: Timer,
        complaints: WarnOnce,
    ) -> None:
        self._due = due
        self._moment = moment
        self._output = output
        self._sharing = sharing
        self._timer = timer
        self._complaints = complaints
        self._parts = {callback: Part() for callback in due if sharing.includes(callback)}
        self.raised: list[Exception] = []

    def make(
        self,
        module: nn.Module,
        samples: Callable[[VisualizationCallback], Samples | None],
        buffers: Mapping[str, Tensor],
    ) -> None:
        """Make the pictures. What one callback fails to do is said, and keeps no other from its own.

        Args:
            module: The user's module.
            samples: Returns those of a callback, or None while there are none.
            buffers: What stands in for buffers of the module meanwhile, by name.
        """
        events: Iterator[tuple[VisualizationCallback, Event, Needs]] | None = None
        with self._timer.time("guard"):
            try:
                unfinished = True
                while unfinished:
                    with swapped_weights(module, buffers) if buffers else nullcontext(), undisturbed(module):
                        if events is None:
                            events = iter(self._events(module, samples))
                        unfinished = self._visualize(events, device_of(module))
            except Exception as error:
                for callback in self._due:
                    self._fail(callback, error)
        if gathered := self._gathered():
            try:
                # Handlers of the user's are called here.
                with undisturbed(module):
                    self._bring_together(gathered)
            except Exception as error:
                for callback in self._parts:
                    self._report(callback, error)

    def _events(
        self, module: nn.Module, samples_of: Callable[[VisualizationCallback], Samples | None]
    ) -> list[tuple[VisualizationCallback, Event, Needs]]:
        model, device = classifier_in(module), device_of(module)
        passes: dict[tuple[int, object, int, int], SharedPass] = {}
        events: list[tuple[VisualizationCallback, Event, Needs]] = []
        for callback in self._due:
            try:
                share = self._sharing.share_of(callback)
                shared, first = None, 0
                if callback.uses_samples:
                    samples = samples_of(callback)
                    if samples is None:
                        raise LookupError("no images have passed by yet: give samples= as a tensor or image files")
                    part = share.slice(len(samples)) if callback.split == "samples" else slice(0, len(samples))
                    first = part.start
                    if part.start == part.stop:
                        continue
                    key = (id(samples), callback.targets, part.start, part.stop)
                    if key not in passes:
                        passes[key] = SharedPass(model, samples[part].to(device), callback.targets, self._timer)
                    shared = passes[key]
                event = Event(model, self._moment, callback.seed, shared, first, share)
                needs = Needs() if shared is None else callback.needs(event)
                if shared is not None:
                    shared.add(needs)
                events.append((callback, event, needs))
            except Exception as error:
                self._fail(callback, error)
        return events

    def _visualize(self, events: Iterator[tuple[VisualizationCallback, Event, Needs]], device: torch.device) -> bool:
        """Make pictures until one fails, and say so: what it left behind must be undone before the next."""
        for callback, event, needs in events:
            start = time.perf_counter()
            try:
                with self._timer.time(self._due[callback]):
                    seed_all(callback.seed, device)
                    panels = list(callback.visualize(event))
                _check_finite(panels, event.model)
                seconds = time.perf_counter() - start
                if callback in self._parts:
                    # Who had nothing to do has nothing new to tell.
                    told = callback.shared_state() if panels and self._output is None else None
                    self._parts[callback] = Part(panels, seconds, told)
                else:
                    self._put(callback, panels, seconds)
            except Exception as error:
                self._fail(callback, error)
                return True
            finally:
                if event.shared is not None:
                    event.shared.leave(needs)
        return False

    def _gathered(self) -> list[Sequence[Part]]:
        """Return every process's parts to the first process; nothing to the others."""
        if not self._parts:
            return []
        with self._timer.time("waiting for other processes"):
            return self._sharing.gather(list(self._parts.values()))

    def _bring_together(self, gathered: list[Sequence[Part]]) -> None:
        """Put together what the processes have made."""
        for callback, *parts in zip(self._parts, *gathered, strict=True):
            try:
                for part in parts:
                    if part.error is not None:
                        raise part.error
                    if part.told is not None:
                        callback.load_shared_state(part.told)
                panels = [panel for part in parts for panel in part.panels]
                self._put(callback, panels, max(part.seconds for part in parts))
            except Exception as error:
                self._report(callback, error)

    def _put(self, callback: VisualizationCallback, panels: Sequence[Panel], seconds: float) -> None:
        assert self._output is not None
        name, moment = self._due[callback], self._moment
        with self._timer.time("handing over"):
            for index, panel in enumerate(panels):
                record = Record(
                    tag=f"{name}/{panel.name}",
                    callback=name,
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

    def _fail(self, callback: VisualizationCallback, error: Exception) -> None:
        if callback in self._parts:
            self._parts[callback] = Part(error=error)
        else:
            self._report(callback, error)

    def _report(self, callback: VisualizationCallback, error: Exception) -> None:
        assert self._output is not None
        name, moment = self._due[callback], self._moment
        cause = f"{type(error).__name__}: {error}"
        self._output.note(Record(name, name, moment.epoch, moment.step, moment.stage, error=cause))
        if callback.on_error == "raise":
            self.raised.append(error)
        else:
            what = f"made no pictures in epoch {moment.epoch}"
            self._complaints.say(name, what, error, "on_error='raise' stops there")


def _check_finite(panels: Sequence[Panel], model: nn.Module) -> None:
    for panel in panels:
        if not all(torch.isfinite(tile.values).all() for tile in panel.all_tiles):
            if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
                raise NotFiniteError("the model's weights hold NaN or Inf")
            raise ArithmeticError(f"the picture of {panel.name!r} holds NaN or Inf, though the weights do not")
