"""Several processes that train one model together: what they tell each other to make pictures together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn

from vis_callbacks.data.samples import Samples
from vis_callbacks.event import Share
from vis_callbacks.panel import Panel

if TYPE_CHECKING:
    from vis_callbacks.callback import VisualizationCallback
    from vis_callbacks.data.selector import SampleSelector

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for what another one has to say; then each is on its own."""


class ProcessError(RuntimeError):
    """Another process failed in its part of the work."""


@dataclass(frozen=True)
class Part:
    """What one process has made for a callback.

    Attributes:
        panels: Its panels, in order.
        seconds: The time that they took.
        told: What the callback tells the first process, see `VisualizationCallback.shared_state`.
        error: Why there are no panels.
    """

    panels: Sequence[Panel] = ()
    seconds: float = 0.0
    told: Any = None
    error: Exception | None = None


@dataclass(frozen=True)
class _Decision:
    """Which callbacks make pictures now, by number, and where the schedules of those that were asked about stand."""

    due: Sequence[int]
    schedules: Mapping[int, tuple[int, int]]


@dataclass(frozen=True)
class _Briefing:
    """What a process needs to make its part as the first one would."""

    samples: Mapping[str, Samples]
    buffers: Mapping[str, Tensor]
    told: Mapping[int, Any]


class Ranks:
    """The processes of one training.

    All of them must call each method at the same moments, with the same callbacks; nothing else is asked of them. The
    first process decides, and writes; the others make parts of what it shares out. A process that is lost, or that says
    nothing for `TIMEOUT`, raises here on all others, and ends the sharing.

    Args:
        group: A group of all processes, for these messages alone.
    """

    def __init__(self, group: distributed.ProcessGroup) -> None:
        self._group = group
        self.share = Share(distributed.get_rank(group), distributed.get_world_size(group))
        self._known: set[str] = set()

    @classmethod
    def meet(cls, count: int) -> Ranks | None:
        """Bring so many processes together; None if there is one alone, or if they have no way to speak."""
        if count < 2 or not (distributed.is_available() and distributed.is_initialized()):
            return None
        if distributed.get_world_size() != count:
            return None
        # Not the group of the training: on the CPU whatever the devices, with a timeout and failures of its own.
        return cls(cast(distributed.ProcessGroup, distributed.new_group(backend="gloo", timeout=TIMEOUT)))

    def leave(self) -> None:
        """End all talk: whoever still waits for this process is told so at once."""
        with suppress(Exception):
            distributed.destroy_process_group(self._group)

    def agree(
        self,
        callbacks: Sequence[VisualizationCallback],
        asked: Sequence[VisualizationCallback],
        due: Sequence[VisualizationCallback],
    ) -> list[VisualizationCallback]:
        """Return which callbacks make pictures now: those that the first process says.

        Args:
            callbacks: All callbacks of the run.
            asked: Those whose schedules say that it is time; the same in all processes.
            due: The first process's decision.
        """
        shared = [callback for callback in asked if callback.split]
        decision = self._broadcast(
            _Decision(
                [callbacks.index(callback) for callback in shared if callback in due],
                {
                    callbacks.index(callback): (callback.schedule.last_epoch, callback.schedule.last_step)
                    for callback in shared
                },
            )
        )
        for index, (epoch, step) in decision.schedules.items():
            callbacks[index].schedule.mark_done(epoch=epoch, step=step)
        return list(due) if self.share.rank == 0 else [callbacks[index] for index in decision.due]

    def brief(
        self, shared: Sequence[VisualizationCallback], module: nn.Module, selector: SampleSelector
    ) -> Mapping[str, Tensor]:
        """Tell all processes the samples, and what callbacks must know; return buffers to work with, by name."""
        if self.share.rank == 0:
            known = selector.known.items()
            new = {key: samples.to(torch.device("cpu")) for key, samples in known if key not in self._known}
            # Each process's BatchNorm has last seen a batch of its own.
            buffers = {name: buffer.detach().cpu() for name, buffer in module.named_buffers()}
            told = {index: callback.shared_state() for index, callback in enumerate(shared)}
            self._broadcast(_Briefing(new, buffers, told))
            self._known |= set(new)
            return {}
        briefing = cast(_Briefing, self._broadcast(None))
        selector.take_over(briefing.samples)
        for index, message in briefing.told.items():
            try:
                shared[index].load_shared_state(message)
            except Exception as error:
                raise self._told(error) from error
        return briefing.buffers

    def gather(self, parts: Sequence[Part]) -> list[Sequence[Part]]:
        """Return every process's parts, in order, to the first process; nothing to the others."""
        first = self.share.rank == 0
        if not first:
            # An exception of the user's may not come through whole.
            parts = [part if part.error is None else replace(part, error=self._told(part.error)) for part in parts]
        gathered: list[Any] | None = [b""] * self.share.count if first else None
        distributed.gather_object(b"" if first else _packed(parts), gathered, dst=0, group=self._group)
        return [parts, *map(_unpacked, gathered[1:])] if gathered else []

    def _told(self, error: Exception) -> ProcessError:
        return ProcessError(f"in process {self.share.rank} of {self.share.count}: {type(error).__name__}: {error}")

    def _broadcast(self, message: T) -> T:
        first = self.share.rank == 0
        box = [_packed(message) if first else b""]
        distributed.broadcast_object_list(box, src=0, group=self._group)
        return message if first else cast(T, _unpacked(box[0]))


def _packed(message: object) -> bytes:
    # Pickled as they are, many views of one tensor would each take all of it along.
    buffer = BytesIO()
    torch.save(message, buffer)
    return buffer.getvalue()


def _unpacked(data: bytes) -> Any:
    return torch.load(BytesIO(data), weights_only=False)
