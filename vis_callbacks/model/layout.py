"""Where the batch, channels, height and width are in the output of a layer."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vis_callbacks.errors import LayerError
from vis_callbacks.model.geometry import Centres
from vis_callbacks.model.parts import Path

Axes = Literal["NCHW", "NHWC", "NLC", "NCL", "LNC", "NC"]
Size = tuple[int, int]
Shapes: TypeAlias = Mapping[tuple[str, Path], tuple[int, ...]]
"""Shapes of the outputs of layers, by full name and part."""

_CHANNELS_FIRST = (
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.BatchNorm2d,
    nn.GroupNorm,
    nn.InstanceNorm2d,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
)
_CHANNELS_FIRST_TOKENS = (
    nn.Conv1d,
    nn.BatchNorm1d,
    nn.AvgPool1d,
    nn.MaxPool1d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveMaxPool1d,
)
_MOST_PREFIX_TOKENS = 16


@dataclass(frozen=True)
class Layout:
    """How the output of one layer, for one image size, becomes a map. Linear, and the same for gradients.

    Attributes:
        layer: Full name of the layer.
        axes: Order of the axes: maps with channels first or last, or tokens ``L``, with the batch first or second; "NC"
            for an output without a map, whatever its other axes are.
        size: ``(h, w)`` of the map.
        channels: Number of channels.
        prefix: Number of tokens before those of the map (class, distillation and register tokens).
        suffix: Number of such tokens behind those of the map.
        order: Index of each position of the map, row by row, among the tokens; None for the same order.
        windows: Number of windows that each image is cut into, which lie along the batch axis; 1 without windows.
        window: Lengths of a window's axes, without the channels; None without windows.
        part: Which tensor of the layer's output has the map, if there are several.
        centres: Where the positions are, along the height and the width; None where the map spreads evenly over the
            image.

    Example:
        >>> layout = Layout("blocks.11.norm1", "NLC", (2, 3), channels=4, prefix=1)
        >>> layout.to_map(torch.rand(8, 7, 4)).shape
        torch.Size([8, 4, 2, 3])
    """

    layer: str
    axes: Axes
    size: Size
    channels: int
    prefix: int = 0
    suffix: int = 0
    order: tuple[int, ...] | None = None
    windows: int = 1
    window: tuple[int, ...] | None = None
    part: Path = ()
    centres: tuple[Centres, Centres] | None = None

    @property
    def channel_axis(self) -> int:
        """The axis of the channels in the layer's own output."""
        return self.axes.index("C")

    def shape(self, count: int) -> tuple[int, ...]:
        """Return the shape of the layer's own output for a batch of `count` images."""
        height, width = self.size
        lengths = {"N": count * self.windows, "C": self.channels}
        if self.window is None:
            lengths |= {"H": height, "W": width, "L": self.prefix + height * width + self.suffix}
        else:
            lengths |= dict(zip((axis for axis in self.axes if axis not in "NC"), self.window, strict=True))
        return tuple(lengths[axis] for axis in self.axes)

    def channels_first(self, tensor: Tensor) -> Tensor:
        """Return the layer's own output as ``(N, C, ...)``, whatever the other axes are; a view."""
        if self.windows > 1:
            windows = tensor.reshape(-1, self.windows, *tensor.shape[1:])
            return windows.movedim(self.channel_axis + 1, 1)
        return tensor.movedim((self.axes.index("N"), self.channel_axis), (0, 1))

    def from_channels_first(self, values: Tensor) -> Tensor:
        """Undo `channels_first`."""
        if self.windows > 1:
            return values.movedim(1, self.channel_axis + 1).flatten(0, 1)
        return values.movedim((0, 1), (self.axes.index("N"), self.channel_axis))

    def to_map(self, tensor: Tensor) -> Tensor:
        """Return the layer's output, or the gradient there, as ``(N, C, h, w)``; a view where possible.

        Raises:
            LayerError: If the tensor does not have the shape for which the layout was found.
        """
        length = tensor.shape[self.axes.index("N")] if tensor.ndim == len(self.axes) else 0
        expected = self.shape(length // self.windows)
        if tensor.shape != expected:
            raise LayerError(
                f"layer {self.layer!r} gave {tuple(tensor.shape)}, expected {self.axes} of map size {self.size}: "
                "find the layout again for this image size"
            )
        if self.window is not None:
            tokens = self.channels_first(tensor).flatten(2)
        elif self.axes == "NHWC":
            return tensor.permute(0, 3, 1, 2)
        elif self.axes == "NCHW":
            return tensor
        else:
            tokens = tensor.permute(*(self.axes.index(axis) for axis in "NCL"))
            tokens = tokens[:, :, self.prefix : tokens.shape[2] - self.suffix]
        if self.order is not None:
            tokens = tokens[:, :, torch.tensor(self.order, device=tokens.device)]
        return tokens.reshape(len(tokens), self.channels, *self.size)

    def on_image(self, maps: Tensor, image_size: Size) -> Tensor:
        """Return maps ``(N, K, h, w)`` on the pixels of the image, ``(N, K, H, W)``, bilinearly.

        Where convolutions without padding leave the border of an image to few positions, each position is put at the
        centre of what it sees, and the map falls to zero behind the outermost ones.
        """
        if self.centres is None:
            return F.interpolate(maps, size=image_size, mode="bilinear", align_corners=False)
        sides = zip(image_size, self.size, self.centres, strict=True)
        down, across = (_tents(length, places, centres).to(maps) for length, places, centres in sides)
        return down @ maps @ across.T


class LayoutReader:
    """Reads layouts from the shapes of outputs during one forward pass, in the order in which layers finish.

    Args:
        model: The model that runs.
        image_size: ``(H, W)`` of the images.
        batch: Number of images.
        doubled: Shapes of outputs for twice as many images, by full name and part: they tell the batch axis from others
            of the same length.
        still: Which of so many tokens are the same for other images, by their number; see `see`.
        behind: How many class and register tokens come behind those of the map, if that is known.

    Attributes:
        certain: Whether it is known which tokens are not those of the map.
        grids: Sizes of maps that were seen, the latest first.
        orders: Index of each position of the map among the tokens, by their number; None for the same order.
    """

    def __init__(
        self,
        model: nn.Module,
        image_size: Size,
        batch: int,
        doubled: Shapes | None = None,
        still: Mapping[int, Tensor] | None = None,
        behind: int | None = None,
    ) -> None:
        self.image_size = image_size
        self.batch = batch
        self.certain = True
        self._doubled = doubled or {}
        self._still = dict(still or {})
        self._known_behind = behind
        declared = [getattr(module, "num_prefix_tokens", None) for module in model.modules()]
        self.prefixes = list(
            dict.fromkeys([*(count for count in declared if type(count) is int), *range(_MOST_PREFIX_TOKENS + 1)])
        )
        self.grids: list[Size] = []
        self.orders: dict[int, tuple[int, ...] | None] = {}

    def see(self, output: Tensor) -> None:
        """Look at the tokens of an output: those that do not depend on the image are not those of the map.

        The first output with so many tokens counts: behind an attention all tokens depend on the image.
        """
        if self.batch > 1:
            note_still(self._still, output, self.batch)

    def read(self, layer: str, module: nn.Module, shape: tuple[int, ...], part: Path = ()) -> Layout | None:
        """Return the layout of a layer's output, or None if it is no map of more than one position."""
        layout = None
        if len(shape) == 4:
            layout = self._read_map(layer, module, shape, part)
        elif len(shape) == 3:
            layout = self._read_tokens(layer, module, shape, part)
        return replace(layout, part=part) if layout and part else layout

    def _read_map(self, layer: str, module: nn.Module, shape: tuple[int, ...], part: Path) -> Layout | None:
        first: Layout = Layout(layer, "NCHW", (shape[2], shape[3]), shape[1])
        last: Layout = Layout(layer, "NHWC", (shape[1], shape[2]), shape[3])
        if isinstance(module, _CHANNELS_FIRST):
            # Even if the batch axis holds windows or heads, tokens may come from a grid of this size.
            self._remember(first.size)
            possible = [first]
        else:
            possible = _with_width(module, [first, last])
            possible = [one for one in possible if one.size in self._known_grids()] or [
                one for one in possible if not self.grids and self._fits_image(one.size)
            ]
        if not self._holds_images((layer, part), shape, 0) or not possible or math.prod(possible[0].size) == 1:
            return None
        self._remember(possible[0].size)
        return possible[0]

    def _read_tokens(self, layer: str, module: nn.Module, shape: tuple[int, ...], part: Path) -> Layout | None:
        if self._holds_images((layer, part), shape, 0):
            readings: list[tuple[Axes, int, int]] = [("NLC", shape[1], shape[2]), ("NCL", shape[2], shape[1])]
        elif self._holds_images((layer, part), shape, 1):
            readings = [("LNC", shape[0], shape[2])]
        else:
            return None
        if isinstance(module, _CHANNELS_FIRST_TOKENS):
            readings = [reading for reading in readings if reading[0] == "NCL"]
        found = []
        for axes, length, channels in readings:
            grid = self.grid(length)
            if grid is not None:
                size, prefix, suffix = grid
                order = self._order(size, prefix + suffix)
                found.append(Layout(layer, axes, size, channels, prefix=prefix, suffix=suffix, order=order))
        layout = next(iter(_with_width(module, found)), None)
        if layout is not None and not self.grids:
            self._remember(layout.size)
        return layout

    def _holds_images(self, output: tuple[str, Path], shape: tuple[int, ...], axis: int) -> bool:
        doubled = self._doubled.get(output, ())
        grows = len(doubled) != len(shape) or doubled[axis] == 2 * shape[axis]
        return shape[axis] == self.batch and grows

    def grid(self, length: int) -> tuple[Size, int, int] | None:
        """Return the size of the map of some tokens, and how many come before and behind those of the map."""
        for others in self.prefixes:
            area = length - others
            if area < 2 or others > max(1, area // 4, self.prefixes[0]):
                continue
            grids = self._known_grids() if self.grids else _factors(area)
            for grid in grids:
                if math.prod(grid) == area and (self.grids or self._fits_image(grid)):
                    behind = self._behind(length, others)
                    return grid, others - behind, behind
        return None

    def _behind(self, length: int, others: int) -> int:
        """Return how many of the tokens that are not those of the map come behind it."""
        if self._known_behind is not None:
            return min(self._known_behind, others)
        still = self._still.get(length)
        if still is None or not others:
            return 0
        first, last = int(still.cumprod(0).sum()), int(still.flip(0).cumprod(0).sum())
        possible = [behind for behind in range(others + 1) if others - behind <= first and behind <= last]
        if len(possible) > 1:
            # Places that are the same in all of a few images, such as a black border, look like such tokens.
            self.certain = False
        return next(iter(possible), 0)

    def _order(self, size: Size, others: int) -> tuple[int, ...] | None:
        area = math.prod(size)
        if others or area in self.orders:
            return None if others else self.orders[area]
        for order in [order for order in self.orders.values() if order is not None and len(order) % area == 0]:
            self.orders[area] = _pooled(order, size)
        return self.orders.get(area)

    def _remember(self, size: Size) -> None:
        if math.prod(size) > 1:
            self.grids = [size, *(grid for grid in self.grids if grid != size)]

    def _known_grids(self) -> list[Size]:
        # Patch merging and token subsampling halve a grid without a convolution.
        return list(dict.fromkeys([*self.grids, *(half for grid in self.grids for half in _halves(grid))]))

    def _fits_image(self, size: Size) -> bool:
        height, width = self.image_size
        return size[0] <= height and abs(math.log(size[0] * width / (size[1] * height))) < math.log(1.26)


def note_still(known: dict[int, Tensor], output: Tensor, batch: int) -> None:
    """Note which tokens of an output are the same for all images, by their number, where that is not known yet.

    Args:
        known: What is known, and is added to.
        output: Looked at if it is ``(N, L, C)`` or ``(L, N, C)``.
        batch: Number of images N.
    """
    axes = [axis for axis in (0, 1) if output.ndim == 3 and output.shape[axis] == batch]
    if len(axes) == 1 and output.shape[1 - axes[0]] not in known:
        tokens = output.detach().movedim(axes[0], 0)
        # On the CPU, as each layer of as many tokens asks.
        known[tokens.shape[1]] = (tokens == tokens[:1]).all(dim=2).all(dim=0).cpu()


def _tents(length: int, places: int, centres: Centres) -> Tensor:
    """Return how much of each position is at each pixel, ``(length, places)``."""
    first, step = centres
    return (1 - ((torch.arange(length)[:, None] - first) / step - torch.arange(places)).abs()).clamp(min=0)


def _with_width(module: nn.Module, layouts: list[Layout]) -> list[Layout]:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or not weight.ndim:
        return layouts
    return [layout for layout in layouts if layout.channels == len(weight)] or layouts


def _pooled(order: tuple[int, ...], size: Size) -> tuple[int, ...] | None:
    """Return the order of tokens of which each stands for a square of a finer map's; None for that of the rows.

    Hiera keeps the tokens of a square together, or the same number of tokens apart, and takes the largest of them.
    """
    area = math.prod(size)
    ratio = math.isqrt(len(order) // area)
    if ratio * ratio * area != len(order):
        return None
    # Number of the coarse position, at each token.
    fine = torch.arange(area).view(size).repeat_interleave(ratio, 0).repeat_interleave(ratio, 1).flatten()
    at_token = torch.empty_like(fine)
    at_token[torch.tensor(order)] = fine
    for groups in (at_token.view(-1, area), at_token.view(area, -1).T):
        if bool((groups == groups[0]).all()):
            found = tuple(groups[0].argsort().tolist())
            return None if found == tuple(range(area)) else found
    return None


def _halves(grid: Size) -> Iterator[Size]:
    for up in (0, 1):
        height, width = grid
        while height > 1 or width > 1:
            height, width = max((height + up) // 2, 1), max((width + up) // 2, 1)
            yield height, width


def _factors(area: int) -> Iterator[Size]:
    yield from sorted(
        ((rows, area // rows) for rows in range(1, area + 1) if area % rows == 0),
        key=lambda grid: abs(grid[0] - grid[1]),
    )
