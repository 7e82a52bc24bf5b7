"""How a map was cut into windows: found with gradients that lead from each position of a window back to the map."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vis_callbacks.model.layout import Axes, Layout
from vis_callbacks.model.parts import Path


@dataclass(frozen=True)
class WindowPartition:
    """How a map is cut into windows.

    Attributes:
        whole: The layout of the map that was cut.
        count: Number of windows per image, along the batch axis.
        shape: Lengths of a window's axes, without the channels.
        last: Whether the channels are the last axis, else the second.
        order: Index of each position of the map, row by row, among the positions of all windows of an image.
    """

    whole: Layout
    count: int
    shape: tuple[int, ...]
    last: bool
    order: tuple[int, ...]

    def layout(self, layer: str, shape: tuple[int, ...], batch: int, part: Path = ()) -> Layout | None:
        """Return the layout of the output of a layer that works on the windows; None if the shape does not fit.

        Args:
            layer: Full name of the layer.
            shape: Shape of its output.
            batch: Number of images.
            part: Which tensor of the layer's output it is.
        """
        inner, channels = (shape[1:-1], shape[-1]) if self.last else (shape[2:], shape[1])
        flat = (math.prod(self.shape),)
        if shape[0] != batch * self.count or inner not in (self.shape, flat) or len(inner) not in (1, 2):
            return None
        axes: Axes
        if self.last:
            axes = "NHWC" if len(inner) == 2 else "NLC"
        else:
            axes = "NCHW" if len(inner) == 2 else "NCL"
        return replace(
            self.whole,
            layer=layer,
            axes=axes,
            channels=channels,
            prefix=0,
            order=self.order,
            windows=self.count,
            window=tuple(inner),
            part=part,
        )


def find_windows(tensor: Tensor, maps: Iterable[tuple[Layout, Tensor]], batch: int) -> WindowPartition | None:
    """Return how a tensor was cut from a map; None if it is not a map's positions in another order.

    The backward carries the index of each position of the tensor to the map. If nothing but the order changed, by
    cuts, shifts, padding or strides, each index arrives at one position as a whole number.

    Args:
        tensor: Input of a layer, in the graph of the pass.
        maps: Layouts and outputs of the layers that it may come from.
        batch: Number of images.

    Example:
        >>> image = torch.rand(1, 4, 4, 3, requires_grad=True)
        >>> cut = (image * 1).view(1, 2, 2, 2, 2, 3).transpose(2, 3).reshape(4, 4, 3)
        >>> windows = find_windows(cut, [(Layout("norm", "NHWC", (4, 4), 3), image)], batch=1)
        >>> windows.count, windows.order[:4]
        (4, (0, 1, 4, 5))
    """
    if tensor.ndim not in (3, 4) or tensor.shape[0] % batch or not tensor.requires_grad:
        return None
    for layout, source in maps:
        for last in (True, False)[: tensor.ndim - 2]:
            shape, channels = (tensor.shape[1:-1], tensor.shape[-1]) if last else (tensor.shape[2:], tensor.shape[1])
            # With fewer channels, windows must lie along the batch axis: a fourth axis may as well hold heads.
            if channels == layout.channels or (tensor.shape[0] > batch and channels < layout.channels):
                order = _order(tensor, source, layout, shape, batch, last=last)
                if order is not None:
                    return WindowPartition(layout, tensor.shape[0] // batch, shape, last, order)
    return None


def find_query_places(queries: Tensor, maps: Iterable[tuple[Layout, Tensor]], batch: int, layer: str) -> Layout | None:
    """Return where the queries of an attention are that cuts a map into windows by itself; None if that is not seen.

    Each query is computed from one place of a map, by layers that look at one place alone: gradients of queries that
    are counted by their number, over those of queries that count the same, are that number at each place.

    Args:
        queries: ``(N x windows, heads, T, d)``, in the graph of the pass.
        maps: Layouts and outputs of the layers that they may come from.
        batch: Number of images.
        layer: Full name of the layer that computes the attention.
    """
    items, heads, length, width = queries.shape
    windows = items // batch
    if items % batch or windows < 2 or not queries.requires_grad or windows * length >= 2**16:
        return None
    shape = (1, heads, 1, width)
    directions = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(queries)
    # Those of the first image alone.
    numbers = torch.zeros(items, 1, length, 1)
    numbers[:windows] = torch.arange(1, windows * length + 1).view(windows, 1, length, 1)
    for layout, source in maps:
        if not source.requires_grad or windows * length < math.prod(layout.size):
            continue
        found = []
        for counts in ((numbers > 0).to(queries), numbers.to(queries)):
            (back,) = torch.autograd.grad(queries, source, directions * counts, retain_graph=True, allow_unused=True)
            if back is not None:
                found.append(layout.to_map(back).flatten(2))
        order = _numbers(*found) if len(found) == 2 else None
        if order is not None:
            return replace(
                layout,
                layer=layer,
                axes="NLC",
                channels=heads * width,
                prefix=0,
                order=order,
                windows=windows,
                window=(length,),
                part=(),
            )
    return None


def _numbers(alike: Tensor, counted: Tensor) -> tuple[int, ...] | None:
    """Return the number at each place of the first image, by gradients ``(N, C, places)``; None if they disagree."""
    if bool(alike[1:].any()):
        return None
    alike, counted = alike[0].double(), counted[0].double()
    strongest = alike.abs().argmax(dim=0, keepdim=True)
    scale = alike.gather(0, strongest)
    numbers = (counted.gather(0, strongest) / scale).round()
    agree = ((counted - numbers * alike).abs() <= 1e-2 * scale.abs()).all()
    different = len(torch.unique(numbers)) == numbers.numel() and float(numbers.min()) >= 1
    if not (bool(scale.all()) and bool(agree) and different):
        return None
    return tuple((numbers[0].long() - 1).tolist())


def _order(
    tensor: Tensor, source: Tensor, layout: Layout, shape: tuple[int, ...], batch: int, *, last: bool
) -> tuple[int, ...] | None:
    places = tensor.shape[0] * math.prod(shape)
    if places < batch * math.prod(layout.size) or places >= 2**24 or not source.requires_grad:
        return None  # whole numbers above 2^24 are not exact in float32
    found = []
    for numbers in (torch.ones(places), torch.arange(places)):
        cotangent = numbers.to(tensor).view(tensor.shape[0], *shape).unsqueeze(-1 if last else 1).expand_as(tensor)
        back: Tensor | None = torch.autograd.grad(tensor, source, cotangent, retain_graph=True, allow_unused=True)[0]
        if back is None:
            return None
        found.append(layout.to_map(back).flatten(2))
    once, numbers = found
    order = numbers.amax(dim=1)
    # Some channels may be missing; all others went to the same position, unlike those of heads.
    if not bool(((once == 0) | ((once == 1) & (numbers == order[:, None]))).all()) or not bool(once.any(dim=1).all()):
        return None
    an_image = places // batch
    first = order - torch.arange(batch, device=order.device)[:, None] * an_image
    same = bool((once == 1).all()) and bool((first == first[0]).all())
    if not same or not bool((first[0] == first[0].round()).all()) or len(torch.unique(first[0])) < first.shape[1]:
        return None
    return tuple(first[0].long().tolist()) if float(first.min()) >= 0 and float(first.max()) < an_image else None
