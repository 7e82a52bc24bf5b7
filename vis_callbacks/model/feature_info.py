"""What one pass shows about the layers of a model: which have maps, which the logits depend on, which to show."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

from vis_callbacks.errors import LayerError
from vis_callbacks.model.layout import Layout


@dataclass(frozen=True)
class AcrossDepth:
    """Up to `count` layers from shallow to deep."""

    count: int


@dataclass(frozen=True)
class AtStride:
    """The last layer whose map has a position for `most` pixels, see `FeatureInfo.layer_at`."""

    most: int


LayerChoice: TypeAlias = str | AcrossDepth | AtStride | None
"""A layer's full name, layers across the depth, the last of a stride, or None: the last with a map that the logits
depend on."""

_POSITIONS = 7 * 7
"""A map with so many positions is fine enough to look at."""

_SHALLOW = 0.4
"""Part of the depth, counted in layers with weights, whose maps are no default."""

_NO_CONVOLUTION = "this model has no convolution; Saliency and Occlusion need none"

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
        on_every_path: Whether all that the logits get from the image goes through it, and nothing past it.
        source: The same, but a tensor that a layer returns beside others counts as the layer's that made it.
        token_mixer: Whether it is a linear map of tokens, such as the queries, keys and values of attention.
        passes_through: Whether its output is one of its inputs, unchanged.
        runs: How often it runs in a pass; everything else here is about its last run.
        depth: Number of layers with weights and a map up to this one.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    layout: Layout | None
    reaches_logit: bool
    output: int
    source: int = -1
    token_mixer: bool = False
    passes_through: bool = False
    runs: int = 1
    depth: int = 0
    on_every_path: bool = False


@dataclass(frozen=True)
class FeatureInfo:
    """All layers of a model for one image size, in the order in which they finish.

    Attributes:
        model: Class name of the model.
        image_size: ``(H, W)``.
        layers: Those that run and whose output holds a tensor.
        stages: Names of the ends of stages that the model itself declares (timm's ``feature_info``).
        convolves: Whether the model has a convolution.
        queries: Where the queries of attentions are that cut maps into windows by themselves, by full name.
    """

    model: str
    image_size: tuple[int, int]
    layers: tuple[LayerInfo, ...]
    stages: tuple[str, ...] = ()
    convolves: bool = True
    queries: Mapping[str, Layout] = field(default_factory=dict)

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

    def layouts(self, choices: Iterable[LayerChoice]) -> list[Layout]:
        """Return the layouts of the chosen layers, without those that did not run or have no map."""
        return [self.layout(name) for name in self.names(choices)]

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
        if isinstance(choice, AtStride):
            return [self.layer_at(choice.most)]
        return [self.default_layer() if choice is None else choice]

    def candidates(self) -> list[LayerInfo]:
        """Return the layers that may be the default where the deepest map is too small, the best first.

        That is the deepest whose map has 7x7 positions. Of maps that all have fewer, as those of small images, it is
        the deepest of the largest ones, behind the first part of the depth, where features are still edges. Layers
        past which a branch leads show a part of the evidence only, and come behind others as large.
        """
        maps = self._default_maps()
        deepest = max((layer.depth for layer in maps), default=0)

        def rank(layer: LayerInfo) -> tuple[bool, int, bool]:
            return layer.depth < _SHALLOW * deepest, -_positions(layer), not layer.on_every_path

        deep_first = maps[::-1]
        # Sorting keeps the order of those that are as good.
        return sorted(deep_first, key=rank)

    def default_layer(self) -> str:
        """Return the deepest layer with a map that the predicted logit depends on, or one with a finer map.

        If the map of the deepest has less than 7x7 positions and another has more, it is the best of `candidates`.

        Raises:
            LayerError: If no layer has a map.
        """
        maps = self._default_maps()
        if not maps:
            height, width = self.image_size
            remedy = "give larger images, or name a layer" if self.convolves else _NO_CONVOLUTION
            raise LayerError(f"{self.model} has no layer with a spatial map for images of {height}x{width}: {remedy}")
        # Without any gradient (a backbone that runs under no_grad) all maps are as good.
        reaching = [layer for layer in maps if layer.reaches_logit] or maps
        chosen = next(layer for layer in self.candidates() if layer in reaching)
        if _positions(reaching[-1]) >= _positions(chosen):
            chosen = reaching[-1]
        same = [layer for layer in reaching if layer.source == chosen.source]
        # A layer of its own says more than one of the maps that a backbone returns.
        same = [layer for layer in same if not _layout_of(layer).part] or same
        return next((layer.name for layer in same if layer.name in self.stages), same[-1].name)

    def layer_at(self, stride: int) -> str:
        """Return the last layer whose map has a position for at most `stride` pixels; the default one if none has.

        Past it no branch leads, if there is such a layer: it is known before a gradient is.

        Raises:
            LayerError: If no layer has a map.
        """
        fine = [layer for layer in self._default_maps() if self._stride(layer) <= stride]
        chosen = [layer for layer in fine if layer.on_every_path] or fine
        return chosen[-1].name if chosen else self.default_layer()

    def _stride(self, layer: LayerInfo) -> float:
        return max(side / length for side, length in zip(self.image_size, _layout_of(layer).size, strict=True))

    def _default_maps(self) -> list[LayerInfo]:
        inside = tuple(f"{layer.name}." for layer in self.layers if layer.token_mixer)
        return [layer for layer in self._maps() if not layer.token_mixer and not layer.name.startswith(inside)]

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


def _positions(layer: LayerInfo) -> int:
    return min(math.prod(_layout_of(layer).size), _POSITIONS)


def _inside(names: Iterable[str], outer: str) -> list[str]:
    return [name for name in names if name.startswith(outer + ".")]


def _outermost(names: Iterable[str]) -> list[str]:
    names = list(names)
    known = set(names)
    return [name for name in names if not any(name[: dot.start()] in known for dot in re.finditer(r"\.", name))]


def _evenly(names: Sequence[str], count: int) -> list[str]:
    # The last of each of `count` equal parts, so that the deepest is always included.
    return [names[math.ceil((part + 1) * len(names) / count) - 1] for part in range(count)]
