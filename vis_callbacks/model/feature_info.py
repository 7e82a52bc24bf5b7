"""What is known about the layers of a model: which have maps, which the logits depend on, which to look at."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from vis_callbacks.errors import LayerError
from vis_callbacks.model.layout import Layout


@dataclass(frozen=True)
class AcrossDepth:
    """Up to `count` layers from shallow to deep."""

    count: int


LayerChoice: TypeAlias = str | AcrossDepth | None
"""A layer's full name, layers across the depth, or None: the last one with a map that the logits depend on."""

# What these give is another layer's map once more, or no map of the image at all.
_PASSIVE = ("Identity", "Dropout", "DropPath", "Softmax", "AdaptiveAvgPool", "AdaptiveMaxPool", "Flatten")


@dataclass(frozen=True)
class LayerInfo:
    """What one traced pass tells about a layer.

    Attributes:
        name: Full dotted name.
        kind: Class name of the module.
        shape: Shape of its output for a batch of N, written with N = 1.
        layout: How its output becomes a map, or None where it has none.
        reaches_logit: Whether the predicted logit has a gradient at two or more places of the map; False for patch
            tokens that no class token reads any more, and for layers beside the path to the logits.
        output: Layers with the same number gave the very same tensor (a stage and its last block).
        token_mixer: Whether it is a linear map of tokens, such as the queries, keys and values of attention.
        passes_through: Whether it gave one of its inputs, unchanged.
        runs: How often it ran; all else is about the last time.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    layout: Layout | None
    reaches_logit: bool
    output: int
    token_mixer: bool = False
    passes_through: bool = False
    runs: int = 1


@dataclass(frozen=True)
class FeatureInfo:
    """All layers of a model for one image size, in the order in which they finish.

    Attributes:
        model: Class name of the model.
        image_size: ``(H, W)``.
        layers: Those that ran and gave a tensor.
        stages: Names of the ends of stages that the model itself declares (timm's ``feature_info``).
    """

    model: str
    image_size: tuple[int, int]
    layers: tuple[LayerInfo, ...]
    stages: tuple[str, ...] = ()

    def layout(self, layer: str) -> Layout:
        """Return the layout of a layer, by full name.

        Raises:
            LayerError: If the layer did not run, or has no map of at least two positions.
        """
        at = next((index for index, found in enumerate(self.layers) if found.name == layer), None)
        if at is None:
            raise LayerError(
                f"layer {layer!r} of {self.model} did not run in the forward pass, or gave no tensor: choose another"
            )
        found = self.layers[at]
        if found.layout is not None:
            return found.layout
        others = sorted(
            (abs(index - at), other.name) for index, other in enumerate(self.layers) if other.layout is not None
        )
        nearest = ", ".join(name for _, name in others[:4])
        raise LayerError(
            f"layer {layer!r} ({found.kind}) of {self.model} gives {found.shape} for an image of "
            f"{self.image_size[0]}x{self.image_size[1]}, which has no spatial map; "
            + (f"nearest layers that have one: {nearest}" if nearest else "no layer has one")
        )

    def runs(self, layer: str) -> int:
        """Return how often a layer runs in a pass, by full name."""
        return next((found.runs for found in self.layers if found.name == layer), 0)

    def choose(self, choice: LayerChoice) -> list[str]:
        """Return the full names of the layers that are meant.

        Raises:
            LayerError: If no layer has a map.
        """
        if isinstance(choice, AcrossDepth):
            return self.across_depth(choice.count)
        return [self.default_layer() if choice is None else choice]

    def candidates(self) -> list[LayerInfo]:
        """Return the layers that may be the default, from shallow to deep."""
        return [layer for layer in self._maps() if not layer.token_mixer]

    def default_layer(self) -> str:
        """Return the last layer with a map that the predicted logit depends on.

        Raises:
            LayerError: If no layer has a map.
        """
        maps = self.candidates()
        if not maps:
            raise LayerError(
                f"{self.model} has no layer with a spatial map for images of "
                f"{self.image_size[0]}x{self.image_size[1]}: give larger images, or name a layer"
            )
        # Without any gradient (a backbone run under no_grad) the last map is the best guess.
        chosen = next((layer for layer in reversed(maps) if layer.reaches_logit), maps[-1])
        same = [layer.name for layer in maps if layer.output == chosen.output]
        return next((name for name in same if name in self.stages), same[-1])

    def across_depth(self, count: int) -> list[str]:
        """Return up to `count` layers from shallow to deep, ends of stages where there are enough.

        Raises:
            LayerError: If no layer has a map.
        """
        maps = {layer.name: layer for layer in self._maps()}
        stages = [name for name in maps if name in self.stages]
        if len(stages) >= count:
            return _evenly(stages, count)
        if not maps:
            return [self.default_layer()]
        level = _outermost(maps)
        while True:
            sizes = [_layout_of(maps[name]).size for name in level]
            ends = [name for name, size, after in zip(level, sizes, [*sizes[1:], None], strict=True) if size != after]
            if len(ends) >= count:
                return _evenly(ends, count)
            if len(level) >= count:
                return _evenly(level, count)
            inner = [name for outer in level for name in (_outermost(_inside(maps, outer)) or [outer])]
            if inner == level:
                return level
            level = inner

    def _maps(self) -> list[LayerInfo]:
        maps = [
            layer
            for layer in self.layers
            if layer.layout is not None and not layer.passes_through and not layer.kind.startswith(_PASSIVE)
        ]
        # One ReLU for all places is no place; in a model that runs as a whole several times, all layers are such.
        return [layer for layer in maps if layer.runs == 1] or maps


def _layout_of(layer: LayerInfo) -> Layout:
    assert layer.layout is not None
    return layer.layout


def _inside(names: Iterable[str], outer: str) -> list[str]:
    return [name for name in names if name.startswith(outer + ".")]


def _outermost(names: Iterable[str]) -> list[str]:
    names = list(names)
    return [name for name in names if not any(name.startswith(other + ".") for other in names)]


def _evenly(names: Sequence[str], count: int) -> list[str]:
    # The last of each of `count` equal parts, so that the deepest is always among them.
    return [names[math.ceil((part + 1) * len(names) / count) - 1] for part in range(count)]
