"""What an image is to maximise: scores of one pass that add and scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from vis_callbacks.data.normalization import Normalization
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.model.classifier import resolve_targets, target_scores
from vis_callbacks.synthesis.layer_axes import batch_and_channels_first


@dataclass(frozen=True)
class View:
    """What one pass of the ascent shows to objectives.

    Attributes:
        pixels: The images ``(N, C, H, W)`` in [0, 1], before any transform.
        normalization: From pixels to model space.
        logits: ``(N, K)`` float32; empty where the pass ended at the last layer that was asked for.
        outputs: Outputs of the layers asked for, by full name.
        entries: What was read from the inputs of layers, by full name.
    """

    pixels: Tensor
    normalization: Normalization = field(default_factory=Normalization)
    logits: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    outputs: Mapping[str, Tensor] = field(default_factory=dict)
    entries: Mapping[str, Any] = field(default_factory=dict)

    @property
    def image(self) -> Tensor:
        """The images before any transform, in model space."""
        return self.normalization.to_model(self.pixels)


EntryReader = Callable[[Tensor, int], Any]
"""From the input of a layer and the number of images to what an objective has to know of it."""


@dataclass(frozen=True)
class Objective:
    """A score for each image of a pass. Objectives add, subtract and scale.

    Attributes:
        score: From a `View` to ``(N,)``, to be maximised.
        outputs: Full names of layers whose outputs it reads.
        entries: What it reads from the inputs of layers, by full name. It is read when the input passes by, so that
            the backward can let go of that where it comes past it. Objectives that are added must read a layer alike.
        logits: Whether it reads the logits; where nobody does, the pass ends at the last layer that is read.

    Example:
        >>> darkness = Objective(lambda view: -view.pixels.mean(dim=(1, 2, 3)))
        >>> half = 0.5 * darkness - darkness
        >>> half.score(View(torch.ones(2, 1, 4, 4)))
        tensor([0.5000, 0.5000])
    """

    score: Callable[[View], Tensor]
    outputs: frozenset[str] = frozenset()
    entries: Mapping[str, EntryReader] = field(default_factory=dict)
    logits: bool = False

    def __add__(self, other: Objective) -> Objective:
        return Objective(
            lambda view: self.score(view) + other.score(view),
            self.outputs | other.outputs,
            {**self.entries, **other.entries},
            self.logits or other.logits,
        )

    def __mul__(self, factor: float) -> Objective:
        return Objective(lambda view: factor * self.score(view), self.outputs, self.entries, self.logits)

    __rmul__ = __mul__

    def __neg__(self) -> Objective:
        return self * -1.0

    def __sub__(self, other: Objective) -> Objective:
        return self + -other


def logit(classes: Tensor) -> Objective:
    """The raw score of one class for each image; logits, as probabilities also rise by lowering the other classes.

    Args:
        classes: ``(N,)`` long.
    """
    return Objective(
        lambda view: target_scores(view.logits, resolve_targets(classes, view.logits)),
        logits=True,
    )


def channel(
    layer: str, axes: str, channels: Tensor, position: Literal["all", "center"] | tuple[int, int] = "all"
) -> Objective:
    """The mean of one channel of a layer for each image, or one unit of it.

    Args:
        layer: Full name of the layer.
        axes: Order of the axes of its output, see `axes_of`.
        channels: ``(N,)`` long.
        position: "all" for the mean of the channel, "center" for its middle unit, or a unit's row and column.
    """

    def score(view: View) -> Tensor:
        maps = batch_and_channels_first(view.outputs[layer], axes)
        for wrong in channels[(channels < 0) | (channels >= maps.shape[1])]:
            raise ConfigurationError(f"channel {int(wrong)} of layer {layer!r}: expected 0 to {maps.shape[1] - 1}")
        chosen = maps[torch.arange(len(maps), device=maps.device), channels.to(maps.device)]
        if position == "all" or chosen.ndim == 1:
            return chosen.mean(dim=tuple(range(1, chosen.ndim))) if chosen.ndim > 1 else chosen
        sizes = tuple(chosen.shape[1:])
        at = tuple(size // 2 for size in sizes) if position == "center" else position
        if len(at) != len(sizes) or not all(0 <= i < n for i, n in zip(at, sizes, strict=True)):
            raise ConfigurationError(f"position {at} in layer {layer!r}: expected one in maps of {sizes}")
        return chosen.flatten(1)[:, int(torch.arange(math.prod(sizes)).view(sizes)[at])]

    return Objective(score, outputs=frozenset([layer]))


def activation_norm(layer: str, axes: str, channel: int | None = None) -> Objective:
    """Half the mean square of a layer's activations, or of one channel's: whatever the layer sees, more of it.

    Args:
        layer: Full name of the layer.
        axes: Order of the axes of its output, see `axes_of`.
        channel: One channel. None: all.
    """

    def score(view: View) -> Tensor:
        maps = batch_and_channels_first(view.outputs[layer], axes)
        if channel is not None:
            if not 0 <= channel < maps.shape[1]:
                raise ConfigurationError(f"channel {channel} of layer {layer!r}: expected 0 to {maps.shape[1] - 1}")
            maps = maps[:, channel : channel + 1]
        return maps.flatten(1).square().mean(dim=1) / 2

    return Objective(score, outputs=frozenset([layer]))


def feature_distance(layer: str, axes: str, features: Tensor) -> Objective:
    """‖Φ − Φ0‖² / ‖Φ0‖², how far a layer's output is from given features.

    Args:
        layer: Full name of the layer.
        axes: Order of the axes of its output, see `axes_of`.
        features: Φ0, the layer's output for the images to be found again.
    """
    wanted = batch_and_channels_first(features.detach(), axes).flatten(1)
    size = wanted.square().sum(dim=1).clamp_min(1e-12)

    def score(view: View) -> Tensor:
        found = batch_and_channels_first(view.outputs[layer], axes).flatten(1)
        return (found - wanted).square().sum(dim=1) / size

    return Objective(score, outputs=frozenset([layer]))


def similarity(layer: str, axes: str, groups: Tensor) -> Objective:
    """How alike the textures of the images of one group are: the mean cosine of their Gram matrices (Olah et al. 2017).

    To be subtracted, so that several images of one channel show different things that it answers to.

    Args:
        layer: Full name of the layer.
        axes: Order of the axes of its output, see `axes_of`.
        groups: The group of each image, ``(N,)``.
    """
    others = (groups[:, None] == groups[None]).float().fill_diagonal_(0)

    def score(view: View) -> Tensor:
        maps = batch_and_channels_first(view.outputs[layer], axes).flatten(2)
        gram = torch.nn.functional.normalize((maps @ maps.mT).flatten(1), dim=1)
        weight = others.to(gram)
        return ((gram @ gram.mT) * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1)

    return Objective(score, outputs=frozenset([layer]))
