"""What a run asks of the callbacks that make its pictures."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from vis_callbacks.data.samples import Samples
from vis_callbacks.data.selector import SampleRequest
from vis_callbacks.data.targets import TargetSpec
from vis_callbacks.event import Event, Moment, Needs
from vis_callbacks.model.subject import Forward, Subject
from vis_callbacks.output.destinations import Destinations
from vis_callbacks.panel import Panel
from vis_callbacks.run.schedule import Schedule


@runtime_checkable
class Watcher(Protocol):
    """A callback that also looks at the batches and steps of a training as they pass; it makes no pass there."""

    def training_starts(self, module: nn.Module, optimized: frozenset[int]) -> None:
        """Look at the module before the first step, and at which parameters optimizers have."""

    def batch_starts(
        self, stage: str, epoch: int, part: int, module: nn.Module, batch: Any, subject: Subject | None
    ) -> None:
        """Look at a batch of an epoch, before its step; batches of one pass have the same `part`."""

    def batch_ends(self, stage: str, module: nn.Module, outputs: Any, optimized: Callable[[], frozenset[int]]) -> None:
        """Look at what a step returned; `optimized` returns which parameters optimizers have."""

    def training_ends(self, epoch: int) -> None:
        """Say what is left to say."""

    def stop_watching(self) -> None:
        """Leave the module alone. Idempotent."""


@runtime_checkable
class Finder(Watcher, Protocol):
    """A callback that finds what is wrong with a training."""

    def loss_computed(self, loss: Tensor) -> None:
        """Look at the loss of a step, before its backward."""

    def findings_document(self, name: str) -> dict[str, Any]:
        """Return what was found, as plain values; `name` is that of the callback in this run."""


class Technique(Protocol):
    """A callback that makes pictures; all of it is explained at `VisualizationCallback`."""

    uses_samples: ClassVar[bool]
    split: Literal["samples", "items"] | None
    name: str
    schedule: Schedule
    sample_request: SampleRequest
    restored_samples: dict[str, Any]
    forward: Forward
    restored_subject: dict[str, Any]
    targets: TargetSpec
    seed: int
    budget: float | None
    left_out: list[int]
    on_error: Literal["warn", "raise"]
    transform: Callable[[Tensor], Tensor] | None
    destinations: Destinations

    def check(self, model: nn.Module) -> None:
        """Raise a `ConfigurationError` if an option does not fit the model."""

    def check_classes(self, class_names: tuple[str, ...]) -> None:
        """Raise a `ConfigurationError` if an option names no class."""

    def needs(self, event: Event) -> Needs:
        """Return what is read from the event's shared pass."""

    def passes(self, moment: Moment, samples: Samples) -> int:
        """Return about how many passes of one image an event takes; 0 if that is not known."""

    def visualize(self, event: Event) -> Iterable[Panel]:
        """Make the pictures of one event."""

    def shared_state(self) -> Any:
        """Return what other processes need to know to go on as this one would."""

    def load_shared_state(self, state: Any) -> None:
        """Take over what another process returned from `shared_state`."""
