"""What one pass shows about the layers of a model: which have maps, which the logits depend on, which to show."""

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
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

# Their output is the map of another layer once more, or no map of the image.
_PASSIVE = ("Identity", "Dropout", "DropPath", "Softmax", "AdaptiveAvgPool", "AdaptiveMaxPool", "Flatten")


@dataclass(frozen=True)
class LayerInfo:
    """What one forward and one backward show about a layer.

    Attributes:
        name: Full dotted name.
        kind: Class name of the module.
        shape: Shape of its output for a batch of N, written with N = 1.
        layout: How its output becomes a map, or None if it has no map.
        reaches_logit: Whether the predicted logit has a gradient at two or more positions of the map; False for patch
            tokens that no class token reads any more, and for layers beside the path to the logits.
        output: Layers with the same number have the very same output tensor (a stage and its last block).
        token_mixer: Whether it is a linear map of tokens, such as the queries, keys and values of attention.
        passes_through: Whether its output is one of its inputs, unchanged.
        runs: How often it runs in a pass; everything else here is about its last run.
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
        layers: Those that run and whose output holds a tensor.
        stages: Names of the ends of stages that the model itself declares (timm's ``feature_info``).
    """

    model: str
    image_size: tuple[int, int]
    layers: tuple[LayerInfo, ...]
    stages: tuple[str, ...] = ()

    def layer(self, name: str) -> LayerInfo:
        """Return a layer by full name.

        Raises:
            LayerError: If it did not run.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise LayerError(
            f"layer {name!r} of {self.model} did not run in the forward pass, or gave no tensor: choose another"
        )

    def layout(self, layer: str) -> Layout:
        """Return the layout of a layer, by full name.

        Raises:
            LayerError: If the layer did not run, or has no map of at least two positions.
        """
        found = self.layer(layer)
        if found.layout is not None:
            return found.layout
        at = self.layers.index(found)
        others = sorted(
            (abs(index - at), other.name) for index, other in enumerate(self.layers) if other.layout is not None
        )
        nearest = ", ".join(name for _, name in others[:4])
        raise LayerError(
            f"layer {layer!r} ({found.kind}) of {self.model} gives {found.shape} for an image of "
            f"{self.image_size[0]}x{self.image_size[1]}, which has no spatial map; "
            + (f"nearest layers that have one: {nearest}" if nearest else "no layer has one")
        )

    def names(self, choices: Iterable[LayerChoice]) -> list[str]:
        """Return the full names of the chosen layers, without those that did not run or have no map."""
        names: dict[str, None] = {}
        for choice in choices:
            with suppress(LayerError):
                chosen = self._choose(choice)
                for name in chosen:
                    self.layout(name)
                names |= dict.fromkeys(chosen)
        return list(names)

    def _choose(self, choice: LayerChoice) -> list[str]:
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
        # Without any gradient (a backbone that runs under no_grad) the last map is the best guess.
        chosen = next((layer for layer in reversed(maps) if layer.reaches_logit), maps[-1])
        same = [layer.name for layer in maps if layer.output == chosen.output]
        return next((name for name in same if name in self.stages), same[-1])

    def across_depth(self, count: int) -> list[str]:
        """Return up to `count` layers from shallow to deep: the ends of stages if there are enough.

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
        # A ReLU that runs in many places stands for none of them, unless all layers run several times.
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
    # The last of each of `count` equal parts, so that the deepest is always included.
    return [names[math.ceil((part + 1) * len(names) / count) - 1] for part in range(count)]
