"""A summary of a model's layers to choose from: names, types, shapes, maps and receptive fields."""

from dataclasses import dataclass

from torch import Tensor, nn

from vis_callbacks.model.features import feature_info
from vis_callbacks.model.receptive_field import ReceptiveField, receptive_fields


@dataclass(frozen=True)
class LayerSummary:
    """A layer of a model, as a user chooses it.

    Attributes:
        name: Full dotted name.
        kind: Class name of the module.
        shape: Shape of its output for one image.
        map_size: ``(h, w)`` of its map; None without a map.
        receptive_field: What its units see; None without a map, or if its units see the whole image.
        is_default: Whether class activation maps are made of this layer unless another is named.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    map_size: tuple[int, int] | None
    receptive_field: ReceptiveField | None
    is_default: bool


def summarize_layers(model: nn.Module, images: Tensor) -> list[LayerSummary]:
    """Return all layers that run, in the order in which they finish.

    Args:
        model: From images to logits; left as found.
        images: ``(N, C, H, W)``, in the model's input space; only the first is used.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> [(layer.name, layer.map_size) for layer in summarize_layers(net, torch.rand(1, 3, 16, 16))][:2]
        [('0', (12, 12)), ('1', (12, 12))]
    """
    found = feature_info(model, images)
    parts = {layer.name: layer.layout.part for layer in found.layers if layer.layout is not None}
    fields = receptive_fields(model, images, parts, parts)
    default = found.default_layer() if fields else None
    return [
        LayerSummary(
            name=layer.name,
            kind=layer.kind,
            shape=layer.shape,
            map_size=None if layer.layout is None else layer.layout.size,
            receptive_field=fields.get(layer.name),
            is_default=layer.name == default,
        )
        for layer in found.layers
    ]


def layers_table(model: nn.Module, images: Tensor) -> str:
    """Return `summarize_layers` as text in columns; the default layer is marked with a star.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> print(layers_table(net, torch.rand(1, 3, 16, 16)))
        layer  type               output       map      receptive field
        0      Conv2d             8 x 12 x 12  12 x 12  5, stride 1
        1 *    ReLU               8 x 12 x 12  12 x 12  5, stride 1
        2      AdaptiveAvgPool2d  8 x 1 x 1
        3      Flatten            8
        4      Linear             5
    """
    rows = [("layer", "type", "output", "map", "receptive field")]
    for layer in summarize_layers(model, images):
        seen = "" if layer.map_size is None else str(layer.receptive_field or "whole image")
        size = "" if layer.map_size is None else _times(layer.map_size)
        rows.append((layer.name + " *" * layer.is_default, layer.kind, _times(layer.shape[1:]), size, seen))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _times(numbers: tuple[int, ...]) -> str:
    return " x ".join(map(str, numbers))
