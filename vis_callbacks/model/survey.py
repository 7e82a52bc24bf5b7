"""What one forward and one backward pass tell about all layers: which have maps, and which the logits depend on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vis_callbacks.errors import ConfigurationError, LayerError
from vis_callbacks.model.classifier import logits_of, resolve_targets, target_scores
from vis_callbacks.model.layers import named_layers
from vis_callbacks.model.layout import Layout, LayoutReader
from vis_callbacks.model.trace import first_tensor
from vis_callbacks.model.undisturbed import leaves_no_trace

# What these give is another layer's map once more, or no map of the image at all.
_PASSIVE = ("Identity", "Dropout", "DropPath", "Softmax", "AdaptiveAvgPool", "AdaptiveMaxPool", "Flatten")


@dataclass(frozen=True)
class SurveyedLayer:
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
class Survey:
    """All layers of a model for one image size, in the order in which they finish. Made by `survey`.

    Attributes:
        model: Class name of the model.
        image_size: ``(H, W)``.
        layers: Those that ran and gave a tensor.
        stages: Names of the ends of stages that the model itself declares (timm's ``feature_info``).
    """

    model: str
    image_size: tuple[int, int]
    layers: tuple[SurveyedLayer, ...]
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

    def default_layer(self) -> str:
        """Return the last layer with a map that the predicted logit depends on.

        Raises:
            LayerError: If no layer has a map.
        """
        maps = [layer for layer in self._maps() if not layer.token_mixer]
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

    def _maps(self) -> list[SurveyedLayer]:
        maps = [
            layer
            for layer in self.layers
            if layer.layout is not None and not layer.passes_through and not layer.kind.startswith(_PASSIVE)
        ]
        # One ReLU for all places is no place; in a model that runs as a whole several times, all layers are such.
        return [layer for layer in maps if layer.runs == 1] or maps


@leaves_no_trace
def survey(model: nn.Module, images: Tensor) -> Survey:
    """Trace one forward and one backward pass of the first image and tell what every layer gives.

    Args:
        model: From images to logits; left as found.
        images: ``(N, C, H, W)`` float, in the model's input space; only the first is used.

    Returns:
        A `Survey`, which holds names and numbers only and is valid for images of this size.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> found = survey(net, torch.rand(1, 3, 16, 16))
        >>> found.default_layer(), found.layout("0").size
        ('1', (14, 14))
    """
    if images.ndim != 4:
        raise ConfigurationError(f"images of shape {tuple(images.shape)}: expected (N, C, H, W)")
    # Two copies of one image: the axis of length two is the batch, also for layers that put it elsewhere.
    pair = images[:1].detach().expand(2, -1, -1, -1).clone().requires_grad_()
    reader = LayoutReader(model, (pair.shape[-2], pair.shape[-1]), batch=2)
    seen: dict[str, _Seen] = {}
    with ExitStack() as stack:
        for name, module in named_layers(model).items():
            stack.callback(module.register_forward_hook(_observe(name, reader, seen)).remove)
        logits = logits_of(model, pair)
        if logits.requires_grad:
            score = target_scores(logits, resolve_targets(None, logits)).sum()
            torch.autograd.grad(score, pair, allow_unused=True)
    outputs = {key: number for number, key in enumerate(dict.fromkeys(one.key for one in seen.values()))}
    layers = tuple(one.as_layer(name, outputs[one.key]) for name, one in seen.items())
    return Survey(type(model).__name__, reader.image_size, layers, tuple(_declared_stages(model)))


@dataclass
class _Seen:
    module: nn.Module
    tensor: Tensor
    key: tuple[int, int]
    layout: Layout | None
    shape: tuple[int, ...]
    passes_through: bool
    runs: int
    places: list[Tensor]

    def as_layer(self, name: str, output: int) -> SurveyedLayer:
        return SurveyedLayer(
            name=name,
            kind=type(self.module).__name__,
            shape=self.shape,
            layout=self.layout,
            reaches_logit=any(int(places) > 1 for places in self.places),
            output=output,
            token_mixer=isinstance(self.module, nn.Linear),
            passes_through=self.passes_through,
            runs=self.runs,
        )


def _observe(name: str, reader: LayoutReader, seen: dict[str, _Seen]) -> Any:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        tensor = first_tensor(output)
        # A layer that runs again counts at its last run, as in a trace.
        earlier = seen.pop(name, None)
        if tensor is None:
            return
        layout = reader.read(name, module, tensor.shape)
        # The version tells a tensor from what an in-place ReLU makes of it.
        key = (id(tensor), 0 if tensor.is_inference() else tensor._version)
        shape = (1, *tensor.shape[1:]) if tensor.shape[:1] == (reader.batch,) else tuple(tensor.shape)
        same = any(tensor is given for given in inputs) and any(key == one.key for one in seen.values())
        # Not the tensor itself: with its hook it would be a ring that Python cannot free.
        places: list[Tensor] = []
        runs = 1 if earlier is None else earlier.runs + 1
        seen[name] = _Seen(module, tensor, key, layout, shape, same, runs, places)
        if layout is not None and tensor.requires_grad:
            to_map = layout.to_map
            tensor.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: places.append(to_map(gradient)[0].ne(0).any(dim=0).sum())
            )

    return hook


def _declared_stages(model: nn.Module) -> Iterator[str]:
    for owner, module in {"": model, **named_layers(model)}.items():
        declared = getattr(module, "feature_info", None)
        declared = getattr(declared, "info", declared)
        if isinstance(declared, Sequence):
            names = [entry["module"] for entry in declared if isinstance(entry, dict) and entry.get("module")]
            yield from (f"{owner}.{name}" if owner else name for name in names)


def _layout_of(layer: SurveyedLayer) -> Layout:
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
