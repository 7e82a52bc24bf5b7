"""What a model takes: image shapes, their place and their normalization."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from vis_callbacks.data.normalization import Normalization, normalization_of
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.model.classifier import logits_of
from vis_callbacks.model.layers import filter_layers, filter_weight


def image_shape(model: nn.Module, image_size: int | Sequence[int]) -> tuple[int, int, int]:
    """Return ``(C, H, W)`` of the images to be made.

    Args:
        model: Tells the number of channels by its first filters; 3 where it has none.
        image_size: An int, ``(H, W)`` or ``(C, H, W)``.

    Raises:
        ConfigurationError: If the size is none of these.

    Example:
        >>> image_shape(nn.Sequential(nn.Conv2d(1, 8, 3)), (32, 48))
        (1, 32, 48)
    """
    sizes = (image_size, image_size) if isinstance(image_size, int) else tuple(int(size) for size in image_size)
    if len(sizes) == 2:
        sizes = (_channels(model), *sizes)
    if len(sizes) != 3 or min(sizes) < 1:
        raise ConfigurationError(f"image_size={image_size}: expected an int, (H, W) or (C, H, W), each above 0")
    return sizes


def takes_shape(model: nn.Module, shape: Sequence[int], device: torch.device) -> bool:
    """Try whether a model takes images of a shape. To be called inside `undisturbed`.

    Args:
        model: From images to logits.
        shape: ``(C, H, W)`` of the images.
        device: Where the model is.
    """
    try:
        with torch.no_grad():
            logits_of(model, torch.zeros(1, *shape, device=device))
    except (RuntimeError, ValueError, AssertionError, IndexError):
        return False
    return True


def normalization_for(model: nn.Module, channels: int, given: Normalization | None) -> Normalization:
    """Return the given normalization, else the model's own if it suits the channels, else identity."""
    if given is not None:
        return given
    found = normalization_of(model)
    return found if found is not None and found.suits(channels) else Normalization()


def _channels(model: nn.Module) -> int:
    for module in filter_layers(model).values():
        weight = filter_weight(module)
        if weight is not None:
            return weight.shape[1] * int(getattr(module, "groups", 1))
    return 3
