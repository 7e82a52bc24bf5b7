"""Several processes that train one model together, and share the work on the pictures."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from io import BytesIO
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from vis_callbacks.data.samples import Samples
from vis_callbacks.data.selector import SampleSelector
from vis_callbacks.event import Share
from vis_callbacks.model.subject import Subject
from vis_callbacks.panel import Panel
from vis_callbacks.run.subjects import Subjects
from vis_callbacks.run.technique import Technique
from vis_callbacks.run.warn_once import WarnOnce

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for a message of another one; after that, each works alone."""


class ProcessError(RuntimeError):
    """Another process failed in its part of the work."""


@dataclass(frozen=True)
class Part:
    """What one process has made for a technique.

    Attributes:
        panels: Its panels, in order.
        seconds: The time that they took.
        state: State for the first process, see `VisualizationCallback.shared_state`.
        error: Why there are no panels.
    """

    panels: Sequence[Panel] = ()
    seconds: float = 0.0
    state: Any = None
    error: Exception | None = None


@dataclass(frozen=True)
class _Selection:
    """The selected techniques by number, and the last epoch and step in the schedules of all that were due."""

    selected: Sequence[int]
    schedules: Mapping[int, tuple[int, int]]


@dataclass(frozen=True)
class _Inputs:
    """What a process needs to make its part as the first one would."""

    subjects: Sequence[Subject | None]
    samples: Mapping[str, Samples]
    buffers: Mapping[str, Tensor]
    states: Sequence[Any]


class Processes:
    """The processes of one training.

    All of them must call each method at the same moments, with the same techniques. The first process decides and
    writes; the others make their share. If one of them fails, is lost, or is silent for `TIMEOUT`, all others
    disconnect, a warning is given once, and the first process makes all pictures alone.

    Args:
        warnings: Where a failure is reported.

    Attributes:
        share: This process's share of the work; all of it while there are no others.
    """

    def __init__(self, warnings: WarnOnce) -> None:
        self.share = Share()
        self._warnings = warnings
        self._group: distributed.ProcessGroup | None = None
        self._first = True
        self._known: set[str] = set()
        # A thread of gloo frees what it has sent, and needs Python for a tensor that Python made and holds no more;
        # a group that is destroyed meanwhile waits for that thread, and lets no other one use Python.
        self._exchanged: list[Tensor] = []

    @property
    def connected(self) -> bool:
        """Whether there are other processes to share with."""
        return self._group is not None

    def includes(self, technique: Technique) -> bool:
        """Whether the processes share the work of a technique."""
        return self.connected and technique.split is not None

    def connect(self, count: int, *, first: bool) -> None:
        """Create the group of `count` processes; there is none for a single process or without torch.distributed.

        Args:
            count: Number of processes.
            first: Whether this is the process that goes on alone if they cannot connect.
        """
        self._first = first
        self._attempt(partial(self._connect, count), None)

    def disconnect(self) -> None:
        """Leave the group. Processes that wait for this one fail at once. Idempotent."""
        if self._group is not None:
            # It may be broken already, as when another process was lost, and is used no more either way.
            with suppress(Exception):
                distributed.destroy_process_group(self._group)
            self._group, self.share, self._known = None, Share(), set()
            self._exchanged = []

    def broadcast_selection(
        self, techniques: Sequence[Technique], due: Sequence[Technique], selected: Sequence[Technique]
    ) -> Sequence[Technique]:
        """Return the techniques that make pictures now: those that the first process has selected.

        Args:
            techniques: All techniques of the run.
            due: Those whose schedules are due; the same in all processes.
            selected: This process's selection. Only the first one's counts, and what others do not share.
        """
        if not any(map(self.includes, due)):
            return selected
        return self._attempt(partial(self._broadcast_selection, techniques, due, selected), selected)

    def broadcast_inputs(
        self, techniques: Sequence[Technique], module: nn.Module, selector: SampleSelector, subjects: Subjects
    ) -> Mapping[str, Tensor]:
        """Give all processes the first one's subjects, samples and states.

        Returns:
            The first one's buffers by name; nothing to itself.
        """
        shared = [technique for technique in techniques if self.includes(technique)]
        if not shared:
            return {}
        return self._attempt(partial(self._broadcast_inputs, shared, module, selector, subjects), {})

    def gather(self, parts: Sequence[Part]) -> Sequence[Sequence[Part]]:
        """Return every process's parts, in order, to the first process; nothing to the others."""
        lost = Part(error=ProcessError("another process was lost"))
        otherwise: Sequence[Sequence[Part]] = [[lost] * len(parts)] if self._first else []
        return self._attempt(partial(self._gather, parts), otherwise) if self.connected else otherwise

    def _attempt(self, exchange: Callable[[], T], otherwise: T) -> T:
        """Return the result of an exchange; if it fails, warn, disconnect and return `otherwise`."""
        try:
            return exchange()
        except Exception as error:
            self.disconnect()
            # The first process warns, and any other one only if it knows more: that the fault is its own.
            if self._first or isinstance(error, ProcessError):
                what = "cannot share the work on the pictures"
                self._warnings.warn("The processes", what, error, "by the first process alone")
            return otherwise

    def _connect(self, count: int) -> None:
        if count < 2 or not (distributed.is_available() and distributed.is_initialized()):
            return
        if distributed.get_world_size() != count:
            return
        # Not the training's group: on the CPU whatever the devices, with a timeout and failures of its own.
        group = cast(distributed.ProcessGroup, distributed.new_group(backend="gloo", timeout=TIMEOUT))
        self.share = Share(distributed.get_rank(group), distributed.get_world_size(group))
        self._group = group

    def _broadcast_selection(
        self, techniques: Sequence[Technique], due: Sequence[Technique], selected: Sequence[Technique]
    ) -> Sequence[Technique]:
        shared = {techniques.index(technique): technique for technique in due if technique.split}
        selection = self._broadcast(
            _Selection(
                [index for index, technique in shared.items() if technique in selected],
                {index: (one.schedule.last_epoch, one.schedule.last_step) for index, one in shared.items()},
            )
        )
        for index, (epoch, step) in selection.schedules.items():
            techniques[index].schedule.mark_done(epoch=epoch, step=step)
        return selected if self.share.rank == 0 else [techniques[index] for index in selection.selected]

    def _broadcast_inputs(
        self, shared: Sequence[Technique], module: nn.Module, selector: SampleSelector, subjects: Subjects
    ) -> Mapping[str, Tensor]:
        if self.share.rank == 0:
            known = selector.known.items()
            new = {key: samples.to(torch.device("cpu")) for key, samples in known if key not in self._known}
            # Each process's BatchNorm has last seen a batch of its own.
            buffers = {name: buffer.detach().cpu() for name, buffer in module.named_buffers()}
            states = [technique.shared_state() for technique in shared]
            self._broadcast(_Inputs(subjects.export(), new, buffers, states))
            self._known |= set(new)
            return {}
        inputs = cast(_Inputs, self._broadcast(None))
        subjects.take_over(inputs.subjects)
        selector.take_over(inputs.samples)
        for technique, state in zip(shared, inputs.states, strict=True):
            try:
                technique.load_shared_state(state)
            except Exception as error:
                raise self._named(error) from error
        return inputs.buffers

    def _gather(self, parts: Sequence[Part]) -> Sequence[Sequence[Part]]:
        first = self.share.rank == 0
        if not first:
            # An exception of the user's may not survive pickling.
            parts = [part if part.error is None else replace(part, error=self._named(part.error)) for part in parts]
        packed = torch.empty(0, dtype=torch.uint8) if first else _packed(parts)
        size = torch.tensor([len(packed)])
        sizes = [torch.zeros_like(size) for _ in range(self.share.count)]
        self._exchanged = [size, *sizes]
        distributed.all_gather(sizes, size, group=self._group)
        longest = int(max(sizes))
        padded = functional.pad(packed, (0, longest - len(packed)))
        gathered = [torch.empty_like(padded) for _ in sizes] if first else None
        self._exchanged += [padded, *(gathered or [])]
        distributed.gather(padded, gathered, dst=0, group=self._group)
        return [parts, *map(_unpacked, gathered[1:])] if gathered else []

    def _named(self, error: Exception) -> ProcessError:
        return ProcessError(f"in process {self.share.rank} of {self.share.count}: {type(error).__name__}: {error}")

    def _broadcast(self, message: T) -> T:
        first = self.share.rank == 0
        packed = _packed(message) if first else torch.empty(0, dtype=torch.uint8)
        size = torch.tensor([len(packed)])
        self._exchanged = [size]
        distributed.broadcast(size, src=0, group=self._group)
        packed = packed if first else packed.new_empty(int(size))
        self._exchanged.append(packed)
        distributed.broadcast(packed, src=0, group=self._group)
        return message if first else cast(T, _unpacked(packed))


def _packed(message: object) -> Tensor:
    # Pickled directly, each of many views of one tensor would take the whole tensor along.
    buffer = BytesIO()
    torch.save(message, buffer)
    return torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)


def _unpacked(data: Tensor) -> Any:
    return torch.load(BytesIO(data.numpy().tobytes()), weights_only=False)
