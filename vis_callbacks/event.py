"""One moment at which pictures are made, as a technique sees it."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from vis_callbacks.data.samples import Samples
from vis_callbacks.data.targets import TargetSpec, choose_targets
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.model.batching import in_chunks, in_small_chunks, pixels_of
from vis_callbacks.model.classifier import probabilities
from vis_callbacks.model.feature_info import LayerChoice
from vis_callbacks.model.features import feature_info, find_layout, trace_layer_choices
from vis_callbacks.model.layout import Layout
from vis_callbacks.model.subject import Subject
from vis_callbacks.model.trace import Trace, joined
from vis_callbacks.panel import Panel, Tile

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """This process's share of work that several processes divide.

    Attributes:
        rank: Number of this process, from 0.
        count: Number of processes.

    Example:
        >>> [Share(rank, 2).of(["a", "b", "c"]) for rank in range(2)]
        [['a'], ['b', 'c']]
    """

    rank: int = 0
    count: int = 1

    def slice(self, items: int) -> slice:
        """Return which of `items` items are this process's: consecutive ones, in the order of the processes."""
        return slice(items * self.rank // self.count, items * (self.rank + 1) // self.count)

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process's items."""
        return items[self.slice(len(items))]


@dataclass(frozen=True)
class Needs:
    """What a technique reads from the pass that all techniques of an event share.

    Attributes:
        input_gradient: Whether it reads the gradient at the images.
        activations: Layers whose outputs it reads, by full name or as a choice, see `LayerChoice`.
        gradients: Layers whose outputs and gradients it reads.
    """

    input_gradient: bool = False
    activations: tuple[LayerChoice, ...] = ()
    gradients: tuple[LayerChoice, ...] = ()


class SharedPass:
    """The one forward and one backward that techniques with the same samples and targets share.

    It runs when the first of them reads `trace`, and never if none does.

    Args:
        model: From images to logits, undisturbed.
        samples: The images, on the model's device.
        targets: The logits that are differentiated.
        clock: Called with the number of images; returns a context manager that times the pass.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: Samples,
        targets: TargetSpec,
        clock: Callable[[int], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._model = model
        self.samples = samples
        self._targets = targets
        self._clock = clock
        self._needs: list[Needs] = []

    def add(self, needs: Needs) -> None:
        """Ask for something, before anybody reads the pass."""
        self._needs.append(needs)

    def release(self, needs: Needs) -> None:
        """Stop asking for something. When nobody asks any more, activations and gradients are freed."""
        self._needs.remove(needs)
        if "trace" in vars(self) and all(others == Needs() for others in self._needs):
            self.trace = dataclasses.replace(self.trace, input_gradient=None, activations={}, gradients={})

    def part(self, items: Tensor) -> "SharedPass":
        """Return the pass of the samples with the numbers `items` ``(n,)``."""
        if len(items) == len(self.samples):
            return self
        part = SharedPass(self._model, self.samples.at(items), self._targets, self._clock)
        part._needs = self._needs
        return part

    @cached_property
    def trace(self) -> Trace:
        """The result of the pass. Large images go through it one after the other, to save memory."""
        images = self.samples.images
        pieces = in_small_chunks(self._pass_of, len(images), pixels=pixels_of(images), device=images.device)
        with self._clock(len(images)):
            return dataclasses.replace(joined([seen for _, seen in pieces]), images=images)

    def _pass_of(self, items: Tensor) -> Trace:
        samples = self.part(items).samples
        return trace_layer_choices(
            self._model,
            samples.images,
            partial(choose_targets, self._targets, samples),
            input_gradient=any(needs.input_gradient for needs in self._needs),
            activations=_union(needs.activations for needs in self._needs),
            gradients=_union(needs.gradients for needs in self._needs),
        )


@dataclass(frozen=True)
class Moment:
    """A point of a run.

    Attributes:
        epoch: 0 before training, then the number of the epoch that is running or has just ended.
        step: The x-axis value of the metrics logged at this moment.
        stage: ``"fit"``, ``"validate"`` or ``"test"``.
    """

    epoch: int
    step: int
    stage: str = "fit"


@dataclass(frozen=True)
class Event:
    """One moment at which pictures are made.

    The model is in eval mode and its parameters are frozen; every change to either is undone afterwards.

    Attributes:
        model: From images ``(N, C, H, W)`` to logits; on the training device.
        moment: Epoch, step and stage.
        seed: Seed for everything random; the global generators are already seeded with it.
        shared: The pass that is shared with other techniques; None for a callback without samples.
        first: Number of the first of these samples, if other processes have the ones before.
        share: This process's share of the work; all of it, unless the callback sets `split`.
        subject: What the model is in the user's module, and what its outputs mean.
    """

    model: nn.Module
    moment: Moment
    seed: int = 0
    shared: SharedPass | None = None
    first: int = 0
    share: Share = field(default_factory=Share)
    subject: Subject = field(default_factory=Subject)

    @property
    def samples(self) -> Samples:
        """The fixed samples, on the model's device."""
        return self._pass.samples

    @property
    def trace(self) -> Trace:
        """Logits, and what the techniques of this event asked for in `needs`, from one forward and one backward."""
        return self._pass.trace

    def layout(self, layer: str | None) -> Layout:
        """Return how the output of a layer becomes a map. All events show the same layer.

        Args:
            layer: A layer's name. None: the last layer that has a map and that the logits depend on.

        Raises:
            LayerError: If the layer has no map.
        """
        # The shared pass collects what is known about the layers, so that no other pass has to.
        _ = self.trace
        return find_layout(self.model, self.samples.images, layer)

    def layouts_across_depth(self, count: int) -> list[Layout]:
        """Return how the outputs of up to `count` layers become maps, from shallow to deep.

        Raises:
            LayerError: If no layer has a map.
        """
        _ = self.trace
        found = feature_info(self.model, self.samples.images)
        return [found.layout(name) for name in found.across_depth(count)]

    def in_pieces(self, work: Callable[["Event"], Tensor]) -> Tensor:
        """Return the output of `work` for all samples ``(N, ...)``, computed in smaller pieces if memory runs out."""

        def piece(items: Tensor) -> Tensor:
            return work(self if self.shared is None else dataclasses.replace(self, shared=self.shared.part(items)))

        count = len(self.samples)
        return torch.cat([found for _, found in in_chunks(piece, count, pixels=1, chunk_size=count)])

    def prediction(self, index: int) -> tuple[str, float]:
        """Return the name of the class predicted for a sample, and its probability in [0, 1]."""
        values = probabilities(self.trace.logits[index : index + 1])[0]
        best = int(values.argmax())
        return self.samples.class_name(best), float(values[best])

    def sample_panel(self, index: int, *tiles: Tile, columns: int | None = None, caption: str = "") -> Panel:
        """Return a panel that shows a sample, then tiles, with its label, prediction and probability.

        Args:
            index: The sample's number in `samples`.
            tiles: What to show beside it.
            columns: Tiles per row, including the sample. None: all in one row.
            caption: One line about the whole panel.
        """
        predicted, probability = self.prediction(index)
        return Panel(
            self.samples.names[index],
            (Tile(self.samples.pixels[index]), *tiles),
            columns=columns,
            caption=caption,
            sample=self.first + index,
            label=self.samples.label(index),
            predicted=predicted,
            probability=probability,
        )

    @property
    def _pass(self) -> SharedPass:
        if self.shared is None:
            raise ConfigurationError("this callback sets uses_samples = False and then reads samples: set it to True")
        return self.shared


def _union(choices: Iterable[tuple[LayerChoice, ...]]) -> list[LayerChoice]:
    return list(dict.fromkeys(choice for group in choices for choice in group))
