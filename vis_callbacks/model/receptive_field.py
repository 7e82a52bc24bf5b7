"""Measure the receptive fields of layers: a pixel that is NaN makes all units that see it NaN."""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from vis_callbacks.errors import ConfigurationError
from vis_callbacks.model.batching import in_chunks, is_out_of_memory
from vis_callbacks.model.classifier import logits_of
from vis_callbacks.model.features import feature_info
from vis_callbacks.model.layers import find_layer, named_layers
from vis_callbacks.model.layout import LayoutReader
from vis_callbacks.model.parts import Path, part_at
from vis_callbacks.model.refusal import guarded

Box = tuple[int, int, int, int]

_LARGEST_STRIDE = 64
_LONG = 4096
# A multiple of all usual strides: the sizes of the maps of two strips that differ by it show the stride.
_STEP = 192
_SHORT_SIDES = (32, 64, 96)


@dataclass(frozen=True)
class Window:
    """The receptive field of a layer's units along one side of the image, in pixels.

    Attributes:
        size: Length, from the first to the last pixel that a unit sees, holes of dilated kernels included.
        stride: Pixels between the windows of neighbouring units.
        offset: Pixel at which the window of unit 0 starts; negative if it starts in the padding.
    """

    size: int
    stride: int
    offset: int


@dataclass(frozen=True)
class ReceptiveField:
    """What the units of a layer see: a window that moves with the unit.

    Attributes:
        down: Along the height.
        across: Along the width.

    Example:
        >>> field = ReceptiveField(Window(7, 4, -3), Window(7, 4, -3))
        >>> field.box(1, 2, (32, 32))
        (5, 1, 12, 8)
    """

    down: Window
    across: Window

    def box(self, row: int, column: int, image_size: tuple[int, int]) -> Box:
        """Return the window of a unit, cropped to the image, as x0, y0, x1, y1 in pixels."""
        (top, bottom), (left, right) = (
            (max(begin, 0), min(begin + window.size, length))
            for window, place, length in zip((self.down, self.across), (row, column), image_size, strict=True)
            for begin in [window.offset + place * window.stride]
        )
        return left, top, right, bottom

    def __str__(self) -> str:
        if self.down == self.across:
            return f"{self.down.size}, stride {self.down.stride}"
        return f"{self.down.size}x{self.across.size}, stride {self.down.stride}x{self.across.stride}"


def receptive_field(model: nn.Module, images: Tensor, layer: str) -> ReceptiveField | None:
    """Measure the receptive field of a layer.

    Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019.

    Args:
        model: From images to logits; left as found.
        images: ``(N, C, H, W)``, in the model's input space; only the shape, dtype and device are used.
        layer: A layer's name.

    Returns:
        The `ReceptiveField`, or None if units see the whole image (attention, global pooling, squeeze and excitation)
        or no window that moves with the unit. The global statistics of group and instance norm do not count.

    Raises:
        LayerError: If there is no such layer.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3, 2), nn.Conv2d(2, 2, 3), nn.Flatten(1), nn.LazyLinear(5))
        >>> _ = net(torch.rand(1, 1, 32, 32))
        >>> str(receptive_field(net, torch.rand(1, 1, 32, 32), "1"))
        '7, stride 2'
    """
    name, _ = find_layer(model, layer)
    return receptive_fields(model, images, [name])[name]


@guarded
def receptive_fields(
    model: nn.Module, images: Tensor, layers: Iterable[str], parts: Mapping[str, Path] = MappingProxyType({})
) -> dict[str, ReceptiveField | None]:
    """Measure the receptive fields of several layers, by full name; see `receptive_field`.

    Args:
        model: From images to logits; left as found.
        images: ``(N, C, H, W)``, in the model's input space; only the shape, dtype and device are used.
        layers: Full names.
        parts: Which tensor of an output of several has the map, by full name; the first of others.
    """
    names = list(layers)
    behind = _tokens_behind(model, images)
    down, across = (_Probe(model, images, names, parts, side, behind).windows() for side in (0, 1))
    fields = {name: ReceptiveField(down[name], across[name]) for name in down.keys() & across.keys()}
    return {name: fields.get(name) for name in names}


def _tokens_behind(model: nn.Module, images: Tensor) -> int:
    """Return how many tokens come behind those of the map: images of NaN do not tell."""
    try:
        known = feature_info(model, images).layers
    except ConfigurationError:
        # What has no logits has receptive fields all the same.
        return 0
    return max((layer.layout.suffix for layer in known if layer.layout is not None), default=0)


class _Probe:
    """Measures along one side of the image (0: down, 1: across), on long strips if the model takes them."""

    def __init__(
        self, model: nn.Module, images: Tensor, layers: list[str], parts: Mapping[str, Path], side: int, behind: int
    ) -> None:
        self.model = model
        self.images = images
        self.layers = {name: module for name, module in named_layers(model).items() if name in layers}
        self.parts = parts
        self.side = side
        self.behind = behind
        self.other = images.shape[3 - side]
        self.own = images.shape[2 + side]

    def windows(self) -> dict[str, Window]:
        """Return the windows of the layers that have one."""
        for other in dict.fromkeys([*(short for short in _SHORT_SIDES if short < self.other), self.other]):
            coarse = self._run(_LONG, other, [_LONG // 2])
            if coarse.keys() >= self.layers.keys():
                shorter = self._run(_LONG - _STEP, other, [_LONG // 2])
                strides = {
                    name: _STEP / grown
                    for name, hits in coarse.items()
                    if name in shorter and (grown := hits.shape[1] - shorter[name].shape[1]) > 0
                }
                return self._exact(coarse, strides, other)
        # The model only takes images of its own size.
        coarse = self._run(self.own, self.other, [self.own // 2])
        return self._exact(
            coarse, {name: self.own / hits.shape[1] for name, hits in coarse.items()}, self.other, self.own
        )

    def _exact(
        self, coarse: dict[str, Tensor], strides: Mapping[str, float], other: int, length: int | None = None
    ) -> dict[str, Window]:
        local = {
            name: round(stride)
            for name, stride in strides.items()
            if 1 <= round(stride) <= _LARGEST_STRIDE and coarse[name].any() and not coarse[name][0, [0, -1]].any()
        }
        if not local:
            return {}
        if length is None:
            reach = max(int(coarse[name].sum() + 2) * stride for name, stride in local.items())
            length = math.ceil((2 * reach + 4 * max(local.values())) / 64) * 64
        # All places within a stride, and the first one again a stride further: its window must have moved.
        places = [length // 2 + step for step in range(max(local.values()) + 1)]
        hits = self._run(length, other, places)
        found = {name: _window(hits[name], stride, places) for name, stride in local.items() if name in hits}
        return {name: window for name, window in found.items() if window is not None}

    def _run(self, length: int, other: int, places: list[int]) -> dict[str, Tensor]:
        """Return which units ``(places, units)`` of each layer see each place."""
        size = (length, other) if self.side == 0 else (other, length)

        def work(items: Tensor) -> dict[str, Tensor]:
            images = self.images.new_zeros((len(items), self.images.shape[1], *size))
            lines = images if self.side == 0 else images.transpose(2, 3)
            for index, item in enumerate(items.tolist()):
                lines[index, :, places[item]] = math.nan
            return self._nan_units(images)

        parts: dict[str, list[Tensor]] = {}
        for _, found in in_chunks(work, len(places), pixels=length * other, device=self.images.device):
            for name, hits in found.items():
                parts.setdefault(name, []).append(hits)
        return {name: torch.cat(hits) for name, hits in parts.items() if sum(map(len, hits)) == len(places)}

    def _nan_units(self, images: Tensor) -> dict[str, Tensor]:
        reader = LayoutReader(self.model, (images.shape[2], images.shape[3]), len(images), behind=self.behind)
        found: dict[str, Tensor] = {}

        def observe(name: str) -> Callable[[nn.Module, Any, Any], None]:
            def hook(module: nn.Module, _: Any, output: Any) -> None:
                tensor = part_at(output, self.parts.get(name))
                layout = None if tensor is None else reader.read(name, module, tensor.shape)
                if tensor is not None and layout is not None and name in self.layers:
                    found[name] = layout.to_map(tensor).isnan().any(dim=1).any(dim=2 - self.side).cpu()

            return hook

        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            # Winograd and Fourier convolutions work on tiles, and a NaN would spread over its tile.
            stack.enter_context(torch.backends.nnpack.flags(enabled=False))
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            for name, module in named_layers(self.model).items():
                if _has_global_statistics(module):
                    stack.callback(module.register_forward_hook(lambda _, inputs, __: inputs[0]).remove)
                stack.callback(module.register_forward_hook(observe(name)).remove)
            try:
                logits_of(self.model, images)
            except Exception as error:
                # A head made for another image size fails, but after the layers in question.
                if len(images) > 1 and isinstance(error, RuntimeError) and is_out_of_memory(error):
                    raise
        return found


def _window(hits: Tensor, stride: int, places: list[int]) -> Window | None:
    units = [row.nonzero()[:, 0].tolist() for row in hits[: stride + 1]]
    if hits[:, [0, -1]].any() or [unit + 1 for unit in units[0]] != units[stride]:
        return None
    seen = [(place, row) for place, row in zip(places, units[:stride], strict=False) if row]
    if not seen:
        return None
    begin = min(place - row[-1] * stride for place, row in seen)
    end = max(place - row[0] * stride for place, row in seen)
    return Window(end - begin + 1, stride, begin)


def _has_global_statistics(module: nn.Module) -> bool:
    if isinstance(module, nn.BatchNorm2d):
        return module.running_mean is None
    return isinstance(module, (nn.GroupNorm, nn.InstanceNorm2d))
