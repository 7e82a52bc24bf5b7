"""Objectives: differentiable scores of one forward pass, to be maximised; they add, subtract and scale."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from vis_callbacks.data.normalization import Normalization
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.model import Layout, resolve_targets, target_scores


@dataclass(frozen=True)
class View:
    """What an objective sees of one step of the ascent.

    Attributes:
        pixels: The images ``(N, C, H, W)`` in [0, 1], before any transform.
        normalization: From pixels to model space.
        logits: ``(N, K)`` float32; empty if the pass stopped before the head.
        outputs: Outputs of the layers that were read, by full name.
        inputs: What the input readers returned, by full name of the layer.
    """

    pixels: Tensor
    normalization: Normalization = field(default_factory=Normalization)
    logits: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    outputs: Mapping[str, Tensor] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def image(self) -> Tensor:
        """The images before any transform, in model space."""
        return self.normalization.to_model(self.pixels)


InputReader = Callable[[Tensor, int], Any]
"""From the input of a layer and the number of images to what an objective needs of it."""


@dataclass(frozen=True)
class Objective:
    """One score per image of a forward pass.

    Attributes:
        score: From a `View` to ``(N,)``, to be maximised.
        outputs: Layers whose outputs it reads: full names, or layouts, see `trace`.
        input_readers: Functions of the inputs of layers, by full name. They run during the forward pass, so that the
            inputs themselves need not be kept. Objectives that are added must use the same reader for a layer.
        logits: Whether it reads the logits; if not, the pass stops after the last layer that is read.

    Example:
        >>> darkness = Objective(lambda view: -view.pixels.mean(dim=(1, 2, 3)))
        >>> half = 0.5 * darkness - darkness
        >>> half.score(View(torch.ones(2, 1, 4, 4)))
        tensor([0.5000, 0.5000])
    """

    score: Callable[[View], Tensor]
    outputs: frozenset[str | Layout] = frozenset()
    input_readers: Mapping[str, InputReader] = field(default_factory=dict)
    logits: bool = False

    def __add__(self, other: "Objective") -> "Objective":
        return Objective(
            lambda view: self.score(view) + other.score(view),
            self.outputs | other.outputs,
            {**self.input_readers, **other.input_readers},
            self.logits or other.logits,
        )

    def __mul__(self, factor: float) -> "Objective":
        return Objective(lambda view: factor * self.score(view), self.outputs, self.input_readers, self.logits)

    __rmul__ = __mul__

    def __neg__(self) -> "Objective":
        return self * -1.0

    def __sub__(self, other: "Objective") -> "Objective":
        return self + -other


def logit(classes: Tensor) -> Objective:
    """The logit of one class per image; not the probability, which also rises when other classes fall.

    Args:
        classes: ``(N,)`` long.
    """
    return Objective(
        lambda view: target_scores(view.logits, resolve_targets(classes, view.logits)),
        logits=True,
    )


def _features(view: View, layout: Layout) -> Tensor:
    return layout.channels_first(view.outputs[layout.layer]).float()


def channel(
    layout: Layout, channels: Tensor, position: Literal["all", "center"] | tuple[int, int] = "all"
) -> Objective:
    """The activation of one channel of a layer per image: its mean, or that of one unit.

    Args:
        layout: The layer and the axes of its output, see `output_layout`.
        channels: ``(N,)`` long.
        position: "all" for the mean of the channel, "center" for its middle unit, or a unit's row and column.
    """

    def score(view: View) -> Tensor:
        maps = _features(view, layout)
        for wrong in channels[(channels < 0) | (channels >= maps.shape[1])]:
            raise ConfigurationError(
                f"channel {int(wrong)} of layer {layout.layer!r}: expected 0 to {maps.shape[1] - 1}"
            )
        chosen = maps[torch.arange(len(maps), device=maps.device), channels.to(maps.device)]
        if position == "all" or chosen.ndim == 1:
            return chosen.mean(dim=tuple(range(1, chosen.ndim))) if chosen.ndim > 1 else chosen
        sizes = tuple(chosen.shape[1:])
        at = tuple(size // 2 for size in sizes) if position == "center" else position
        if len(at) != len(sizes) or not all(0 <= i < n for i, n in zip(at, sizes, strict=True)):
            raise ConfigurationError(f"position {at} in layer {layout.layer!r}: expected one in maps of {sizes}")
        return chosen.flatten(1)[:, int(torch.arange(math.prod(sizes)).view(sizes)[at])]

    return Objective(score, outputs=frozenset([layout]))


def activation_norm(layout: Layout, channel: int | None = None) -> Objective:
    """Half the mean square of a layer's activations, or of one channel's.

    Args:
        layout: The layer and the axes of its output, see `output_layout`.
        channel: One channel. None: all.
    """

    def score(view: View) -> Tensor:
        maps = _features(view, layout)
        if channel is not None:
            if not 0 <= channel < maps.shape[1]:
                raise ConfigurationError(
                    f"channel {channel} of layer {layout.layer!r}: expected 0 to {maps.shape[1] - 1}"
                )
            maps = maps[:, channel : channel + 1]
        return maps.flatten(1).square().mean(dim=1) / 2

    return Objective(score, outputs=frozenset([layout]))


def feature_distance(layout: Layout, features: Tensor) -> Objective:
    """‖Φ − Φ0‖² / ‖Φ0‖², the relative distance of a layer's output from given features.

    Args:
        layout: The layer and the axes of its output, see `output_layout`.
        features: Φ0, the layer's output for the original images.
    """
    wanted = layout.channels_first(features.detach()).float().flatten(1)
    size = wanted.square().sum(dim=1).clamp_min(1e-12)

    def score(view: View) -> Tensor:
        found = _features(view, layout).flatten(1)
        return (found - wanted).square().sum(dim=1) / size

    return Objective(score, outputs=frozenset([layout]))


def similarity(layout: Layout, groups: Tensor) -> Objective:
    """Similarity of each image to the others of its group: mean cosine of their Gram matrices (Olah et al. 2017).

    Subtract it, so that several images of one channel show different things that the channel responds to.

    Args:
        layout: The layer and the axes of its output, see `output_layout`.
        groups: The group of each image, ``(N,)``.
    """
    others = (groups[:, None] == groups[None]).float().fill_diagonal_(0)

    def score(view: View) -> Tensor:
        maps = _features(view, layout).flatten(2)
        gram = torch.nn.functional.normalize((maps @ maps.mT).flatten(1), dim=1)
        weight = others.to(gram)
        return ((gram @ gram.mT) * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1)

    return Objective(score, outputs=frozenset([layout]))
