"""Which layer to look at, and where batch and channels are in what it gives."""

from __future__ import annotations

from torch import Tensor, nn

from vis_callbacks.errors import LayerError
from vis_callbacks.model.features import find_layout, layers_across_depth
from vis_callbacks.model.layers import named_layers


def axes_of(model: nn.Module, images: Tensor, layer: str) -> str:
    """Return the order of the axes of a layer's output, as ``"NCHW"``, ``"NHWC"``, ``"NLC"``, ``"LNC"`` or ``"NC"``.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` in model space.
        layer: Full name of the layer.
    """
    try:
        layout = find_layout(model, images, layer)
    except LayerError:
        # No map: a vector for each image, with the channels second.
        return "NC"
    if layout.windows > 1:
        raise LayerError(f"layer {layer!r} gives {layout.windows} windows of each image: name one around the windows")
    return layout.axes


def batch_and_channels_first(features: Tensor, axes: str) -> Tensor:
    """Return features as ``(N, C, ...)`` in float32.

    Example:
        >>> import torch
        >>> batch_and_channels_first(torch.rand(2, 7, 7, 5), "NHWC").shape
        torch.Size([2, 5, 7, 7])
    """
    if len(axes) != features.ndim:
        return features.float()
    first = [axes.index("N"), axes.index("C")]
    return features.permute(*first, *(at for at in range(len(axes)) if at not in first)).float()


def middle_layer(model: nn.Module, images: Tensor) -> str:
    """Return the full name of a layer at two thirds of the depth, where features are neither edges nor classes.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` in model space.
    """
    try:
        return layers_across_depth(model, images, 3)[:2][-1]
    except LayerError:
        # Without maps any layer will do, but the logits.
        return list(named_layers(model))[:-1][-1]
