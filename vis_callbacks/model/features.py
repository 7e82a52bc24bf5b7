"""How the output of any layer of any classifier becomes maps ``(N, C, h, w)``, and which layers to look at."""

from __future__ import annotations

from torch import Tensor, nn

from vis_callbacks.model.feature_probe import feature_info
from vis_callbacks.model.layers import find_layer
from vis_callbacks.model.layout import Layout


def default_layer(model: nn.Module, images: Tensor) -> str:
    """Return the name of the layer whose map explains a prediction best: the last one that the logits depend on.

    For a convolutional model this is what the pooling before the classifier reads. Where only a class token is read,
    the patch tokens after the last block have no influence, and it is the norm before the last attention.

    Args:
        model: From images to logits; left as found.
        images: ``(N, C, H, W)``, in the model's input space; only the first is used.

    Raises:
        LayerError: If no layer has a spatial map.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> default_layer(net, torch.rand(1, 3, 16, 16))
        '1'
    """
    return feature_info(model, images).default_layer()


def layers_across_depth(model: nn.Module, images: Tensor, count: int = 4) -> list[str]:
    """Return up to `count` layers with maps, from shallow to deep: ends of stages, or blocks evenly over the depth.

    Args:
        model: From images to logits; left as found.
        images: ``(N, C, H, W)``, in the model's input space; only the first is used.
        count: How many are wanted.

    Raises:
        LayerError: If no layer has a spatial map.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.Flatten(),
        ...                     nn.Linear(200, 5))
        >>> layers_across_depth(net, torch.rand(1, 3, 16, 16), count=2)
        ['2', '3']
    """
    return feature_info(model, images).across_depth(count)


def find_layout(model: nn.Module, images: Tensor, layer: str | None = None) -> Layout:
    """Return how the output of a layer, named or the default one, becomes a map.

    Args:
        model: From images to logits; left as found.
        images: ``(N, C, H, W)``, in the model's input space; only the first is used.
        layer: A layer's name, see `find_layer`; None chooses as `default_layer` does.

    Returns:
        A `Layout`: its `layer` is the full name, its `to_map` serves outputs and gradients of any batch size.

    Raises:
        LayerError: If there is no such layer, it did not run, or it has no spatial map.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1568, 5))
        >>> find_layout(net, torch.rand(1, 3, 16, 16), "1").to_map(torch.rand(4, 8, 14, 14)).shape
        torch.Size([4, 8, 14, 14])
    """
    name = None if layer is None else find_layer(model, layer)[0]
    found = feature_info(model, images)
    return found.layout(found.default_layer() if name is None else name)
