"""Checks and defaults of what techniques take: images, targets, baselines and sizes in pixels."""

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from vis_callbacks.errors import ConfigurationError
from vis_callbacks.model.classifier import Targets, as_numbers, logits_of, resolve_targets

Sides: TypeAlias = int | tuple[int, int]
"""Height and width in pixels, or one number for both."""


def check_images(images: Tensor) -> None:
    """Raise a `ConfigurationError` if images are not float ``(N, C, H, W)``."""
    if not isinstance(images, Tensor):
        raise ConfigurationError(f"images of type {type(images).__name__}: expected a tensor (N, C, H, W)")
    if images.ndim != 4:
        raise ConfigurationError(f"images of shape {tuple(images.shape)}: expected (N, C, H, W)")
    if not images.is_floating_point():
        raise ConfigurationError(f"images of dtype {images.dtype}: expected floating point, in the model's input space")


def fixed_targets(model: nn.Module, images: Tensor, targets: Targets) -> Tensor:
    """Return the targets of images before other passes, with a forward only if they depend on the logits.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)``.
        targets: See `Targets`.

    Returns:
        ``(N,)`` or ``(N, 2)`` long on the images' device.

    Raises:
        ConfigurationError: If the images are not ``(N, C, H, W)``, or there is not one target per image.
    """
    check_images(images)
    if isinstance(targets, int):
        return torch.full((len(images),), targets, device=images.device)
    if isinstance(targets, (Tensor, Sequence)):
        targets = as_numbers(targets)
        if targets.shape not in ((len(images),), (len(images), 2)):
            raise ConfigurationError(
                f"targets of shape {tuple(targets.shape)}: expected ({len(images)},), one per image"
            )
        return targets.to(images.device)
    with torch.no_grad():
        return resolve_targets(targets, logits_of(model, images))


def baseline_for(images: Tensor, baseline: Tensor | float | None) -> Tensor:
    """Return the baseline of each image, ``(N, C, H, W)`` float32: zero in the model's input space by default.

    Raises:
        ConfigurationError: If it does not broadcast to the images.

    Example:
        >>> baseline_for(torch.rand(2, 3, 4, 4), None).sum()
        tensor(0.)
    """
    values = torch.as_tensor(0.0 if baseline is None else baseline, dtype=torch.float32, device=images.device)
    try:
        return values.detach().expand(images.shape)
    except RuntimeError:
        raise ConfigurationError(
            f"baseline of shape {tuple(values.shape)}: expected a number, or a shape that broadcasts to "
            f"{tuple(images.shape)}"
        ) from None
