"""Filters: the weights of a convolution, as pictures."""

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from vis_callbacks import checks
from vis_callbacks.callback import SharedOptions, VisualizationCallback
from vis_callbacks.errors import LayerError
from vis_callbacks.event import Event
from vis_callbacks.model import filter_weight
from vis_callbacks.model.layers import find_filter_layer
from vis_callbacks.panel import Panel, Tile

FilterDisplay = Literal["auto", "rgb", "channels", "collated"]
"""``rgb``: each filter as one colour picture (3 input channels). ``channels``: each input channel of each filter as a
picture of its own. ``collated``: all of them in one picture, a row per filter, a column per input channel. ``auto``:
``rgb`` where it can be, ``collated`` for filters of one pixel, else ``channels``."""

FilterScale = Literal["fixed", "layer", "filter"]
"""The ends of the colour scale: the largest weight of the first event, so that change shows (``fixed``), of the layer
now (``layer``), or of each filter (``filter``)."""


def filters(model: nn.Module, layer: str | None = None) -> Tensor:
    """Return a layer's filters.

    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2013, arXiv:1311.2901.

    Args:
        model: Any module.
        layer: Name of a layer: a convolution of any kind, a patch embedding, a linear layer (filters of 1x1). None: the
            first convolution.

    Returns:
        ``(out, in/groups, kh, kw)`` float32, the weights as they are.

    Raises:
        LayerError: If there is no such layer, or it has no filters.

    Example:
        >>> filters(nn.Sequential(nn.Conv2d(3, 8, 5))).shape
        torch.Size([8, 3, 5, 5])
    """
    weight = filter_weight(find_filter_layer(model, layer)[1])
    assert weight is not None
    return weight.detach().float().clone()


def dead_filters(weight: Tensor) -> Tensor:
    """Return which filters are dead ``(out,)``: all weights below a thousandth of the layer's largest.

    Example:
        >>> dead_filters(torch.tensor([1.0, 0.0]).view(2, 1, 1, 1))
        tensor([False,  True])
    """
    largest = weight.abs().flatten(1).amax(dim=1)
    return largest <= 1e-3 * largest.max()


def duplicate_filters(weight: Tensor, *, similarity: float = 0.95) -> Tensor:
    """Return which filters nearly equal an earlier one up to scale ``(out,)``: a cosine above `similarity`.

    Dead filters do not count, nor do filters of a single weight, which all are alike up to scale.

    Example:
        >>> duplicate_filters(torch.tensor([[1.0, 2.0], [2.0, 4.0], [2.0, -1.0]]).view(3, 1, 1, 2))
        tensor([False,  True, False])
    """
    flat = weight.flatten(1)
    if flat.shape[1] < 2:
        return torch.zeros(len(flat), dtype=torch.bool, device=weight.device)
    unit = nn.functional.normalize(flat, dim=1) * ~dead_filters(weight)[:, None]
    return (unit @ unit.T > similarity).tril(-1).any(dim=1)


class Filters(VisualizationCallback):
    """Shows the filters of a layer, and how many are dead or near-duplicates.

    Read it for dead and noisy kernels of the first layer; those of 3x3 pixels are too small to look like edges.

    The first linear layer of a model without convolution reads pixels: its weights are shown as images.

    Args:
        layer: Name of the layer; None: the first that has filters.
        max_filters: Largest number of filters shown: a random subset, the same at every event.
        display: See `FilterDisplay`.
        scale: See `FilterScale`.
        options: Shared by all callbacks, see `VisualizationCallback`.

    Raises:
        ConfigurationError: If an option has a wrong value; at `setup`, if the layer is not found or has no filters.
    """

    uses_samples = False

    def __init__(
        self,
        layer: str | None = None,
        *,
        max_filters: int = 64,
        display: FilterDisplay = "auto",
        scale: FilterScale = "fixed",
        **options: Unpack[SharedOptions],
    ) -> None:
        super().__init__(**options)
        self.layer = checks.optional(checks.layer_name, "layer", layer)
        self.max_filters = checks.whole("max_filters", max_filters)
        self.display = checks.one_of("display", display, FilterDisplay)
        self.scale = checks.one_of("scale", scale, FilterScale)
        self.limit: float | None = None

    def check(self, model: nn.Module) -> None:
        """Raise a `LayerError` if a named layer is not found or has no filters."""
        if self.layer is not None:
            find_filter_layer(model, self.layer)
        if _reads_pixels(model, self.layer):
            # The samples tell the images' shape.
            vars(self).update(uses_samples=True)
            if self._run is not None:
                self._run.add(self)

    def visualize(self, event: Event) -> Iterable[Panel]:
        """Show the filters in one panel."""
        name, _ = find_filter_layer(event.model, self.layer)
        weight = filters(event.model, name).cpu()
        if _reads_pixels(event.model, self.layer):
            weight = _as_images(weight, None if event.shared is None else event.samples.images.shape[1:])
        if self.limit is None:
            # Trained filters outgrow initial ones: the scale leaves them a little room.
            self.limit = 1.25 * max(float(weight.abs().max()), 1e-12)
        chosen = seeded_subset(len(weight), self.max_filters, self.seed)
        dead, duplicates = int(dead_filters(weight).sum()), int(duplicate_filters(weight).sum())
        shown = weight[chosen]
        tiles = [Tile(picture, "signed", limit=self._limit(picture, weight)) for picture in self._pictures(shown)]
        yield Panel(
            name,
            tiles,
            columns=columns_for(len(tiles), shown.shape[1] if self._mode(shown) == "channels" else 1),
            caption=self._caption(weight, len(chosen), dead, duplicates),
            scalars={"dead": float(dead), "near_duplicates": float(duplicates)},
        )

    def state_dict(self) -> dict[str, Any]:
        """Keep the colour scale."""
        return {**super().state_dict(), "limit": self.limit}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the colour scale."""
        super().load_state_dict(state_dict)
        self.limit = state_dict["limit"]

    def _mode(self, shown: Tensor) -> FilterDisplay:
        if self.display == "auto" and shown.shape[1] > 3 and shown[0, 0].numel() == 1:
            return "collated"  # pictures of one pixel show nothing
        if self.display == "auto" or (self.display == "rgb" and shown.shape[1] != 3):
            return "rgb" if shown.shape[1] == 3 else "channels"
        return self.display

    def _pictures(self, shown: Tensor) -> list[Tensor]:
        count, depth, height, width = shown.shape
        mode = self._mode(shown)
        if mode == "rgb":
            return list(shown)
        if mode == "channels":
            most = max(self.max_filters // count, 1)
            return [channel for one in shown for channel in one[:most].unsqueeze(1)]
        return [shown.permute(0, 2, 1, 3).reshape(1, count * height, depth * width)]

    def _limit(self, picture: Tensor, weight: Tensor) -> float | None:
        if self.scale == "fixed":
            return self.limit
        return max(float((weight if self.scale == "layer" else picture).abs().max()), 1e-12)

    def _caption(self, weight: Tensor, shown: int, dead: int, duplicates: int) -> str:
        count, depth, height, width = weight.shape
        scale = {
            "fixed": f"±{self.limit:.2g}",
            "layer": f"±{weight.abs().max():.2g}",
            "filter": "± each filter's largest",
        }
        which = f"{count} filters" if shown == count else f"{shown} of {count} filters"
        return (
            f"{which} of {height}×{width}×{depth}; scale {scale[self.scale]} around zero; "
            f"{dead} dead, {duplicates} near-duplicates"
        )


def _reads_pixels(model: nn.Module, layer: str | None) -> bool:
    """Whether a layer, named or the first, is the first linear layer of a model without convolution."""
    with suppress(LayerError):
        first, module = find_filter_layer(model)
        return isinstance(module, nn.Linear) and (layer is None or find_filter_layer(model, layer)[0] == first)
    return False


def _as_images(weight: Tensor, shape: Sequence[int] | None) -> Tensor:
    """Return weights ``(out, in, 1, 1)`` in the shape of images, or as they are if they have another size.

    Args:
        weight: Of a linear layer.
        shape: ``(C, H, W)`` of the images; None: squares of one or three channels, if they can be.
    """
    size = weight.shape[1]
    squares = [(channels, math.isqrt(size // channels)) for channels in (1, 3)]
    shapes = [shape] if shape is not None else [(channels, side, side) for channels, side in squares if side >= 8]
    return next((weight.view(-1, *one) for one in shapes if math.prod(one) == size), weight)


def seeded_subset(count: int, most: int, seed: int) -> list[int]:
    """Return at most `most` of the numbers below `count`, in order: all, or a random subset that the seed determines.

    Example:
        >>> seeded_subset(3, 5, seed=0)
        [0, 1, 2]
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:most]
    return sorted(order.tolist())


def columns_for(count: int, multiple_of: int = 1) -> int:
    """Return how many of `count` small pictures stand in a row: about a square, with whole groups in each row.

    Example:
        >>> columns_for(64), columns_for(10, 3)
        (8, 6)
    """
    square = math.ceil(math.sqrt(count))
    return min(count, max(math.ceil(square / multiple_of), 1) * multiple_of)
