"""The work that several processes share for as long as they hold together; after that, the first one works alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from vis_callbacks.event import Share
from vis_callbacks.run.ranks import Part, ProcessError, Ranks
from vis_callbacks.run.warn_once import WarnOnce

if TYPE_CHECKING:
    from vis_callbacks.callback import VisualizationCallback
    from vis_callbacks.data.selector import SampleSelector


class Sharing:
    """What this process has to do with the others: a failure among them is said once, and ends the sharing.

    Args:
        complaints: Where a failure is said.
    """

    def __init__(self, complaints: WarnOnce) -> None:
        self._complaints = complaints
        self._ranks: Ranks | None = None
        self._first = True

    @property
    def together(self) -> bool:
        """Whether there are others to share with."""
        return self._ranks is not None

    def includes(self, callback: VisualizationCallback) -> bool:
        """Whether the processes share the work of a callback."""
        return self._ranks is not None and callback.split is not None

    def share_of(self, callback: VisualizationCallback) -> Share:
        """Return what is to be done here of a callback's work."""
        return self._ranks.share if self._ranks is not None and callback.split else Share()

    def meet(self, count: int, *, first: bool) -> None:
        """Bring so many processes together; all of them must call this.

        Args:
            count: Number of processes.
            first: Whether this is the one that works on alone where they do not come together.
        """
        self._first = first
        try:
            self._ranks = Ranks.meet(count)
        except Exception as error:
            self._give_up(error)

    def leave(self) -> None:
        """End the sharing: whoever waits for this process is told at once."""
        if self._ranks is not None:
            self._ranks.leave()
            self._ranks = None

    def agree(
        self,
        callbacks: Sequence[VisualizationCallback],
        asked: Sequence[VisualizationCallback],
        due: list[VisualizationCallback],
    ) -> list[VisualizationCallback]:
        """Return which callbacks make pictures now, see `Ranks.agree`; those due here where none is shared."""
        if self._ranks is not None and any(map(self.includes, asked)):
            try:
                return self._ranks.agree(callbacks, asked, due)
            except Exception as error:
                self._give_up(error)
        return due

    def brief(
        self, due: Sequence[VisualizationCallback], module: nn.Module, selector: SampleSelector
    ) -> Mapping[str, Tensor]:
        """Let all processes know what those due that are shared need; return buffers to work with, by name."""
        shared = [callback for callback in due if self.includes(callback)]
        if self._ranks is not None and shared:
            try:
                return self._ranks.brief(shared, module, selector)
            except Exception as error:
                self._give_up(error)
        return {}

    def gather(self, parts: Sequence[Part]) -> list[Sequence[Part]]:
        """Return every process's parts, in order, to the first process; nothing to the others."""
        if self._ranks is not None:
            try:
                return self._ranks.gather(parts)
            except Exception as error:
                self._give_up(error)
        return [[Part(error=ProcessError("another process was lost"))] * len(parts)] if self._first else []

    def _give_up(self, error: Exception) -> None:
        self.leave()
        # What went wrong in another process is not known here, and the other way round.
        if self._first or isinstance(error, ProcessError):
            what = "cannot share the work on the pictures"
            self._complaints.say("The processes", what, error, "by the first process alone")
