"""What Grad-CAM must be where it has a closed form, computed with plain PyTorch and nothing of the package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def closed_form(
    model: nn.Module,
    images: Tensor,
    target: int,
    last: str,
    *,
    weights: Tensor | None = None,
    prefix: int = 0,
) -> Tensor:
    """ReLU of the sum of w * h over the channels, ``(N, 1, H, W)``, for a head that reads the mean of the last map.

    It also asserts that this is the truth: that the gradient of the logit is the same at all places of the map, and,
    where the head is linear, that it is the head's weights.

    Args:
        model: From images to logits, or to an output that holds them.
        images: ``(N, C, H, W)``.
        target: The class.
        last: Name of the module whose output is the last map.
        weights: Weights ``(K, C)`` of the head, where it is linear.
        prefix: Number of tokens before those of the map.
    """
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        kept.append(output if isinstance(output, Tensor) else output[0])

    handle = model.get_submodule(last).register_forward_hook(keep)
    images = images.clone().requires_grad_()
    logits = logits_in(model(images))
    handle.remove()
    (output,) = kept
    (gradient,) = torch.autograd.grad(logits[:, target].sum(), output)
    activation, gradient = (_as_map(one, prefix).detach() for one in (output, gradient))
    alpha = gradient.sum(dim=(2, 3))
    at_all_places = alpha[:, :, None, None] / (gradient.shape[2] * gradient.shape[3])
    assert torch.allclose(gradient, at_all_places.expand_as(gradient), rtol=1e-3, atol=1e-3 * float(gradient.std()))
    if weights is not None:
        assert torch.allclose(alpha, weights[target].expand_as(alpha), rtol=1e-3, atol=1e-6)
    return resized((alpha[:, :, None, None] * activation).sum(dim=1, keepdim=True).relu(), images)


def resized(maps: Tensor, images: Tensor) -> Tensor:
    """Resize maps ``(N, 1, h, w)`` bilinearly to the images' size."""
    return F.interpolate(maps, images.shape[-2:], mode="bilinear", align_corners=False).detach()


def logits_in(output: Any) -> Tensor:
    """Return what a model gives as logits, by their name."""
    for name in ("logits", "last_hidden_state"):
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(found, Tensor):
            return found
    assert isinstance(output, Tensor)
    return output


def correlation(first: Tensor, second: Tensor) -> float:
    """Correlation of two maps over all their pixels."""
    assert first.shape == second.shape
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]).double())[0, 1])


def settled(model: nn.Module, images: Tensor) -> nn.Module:
    """Give a model fresh weights and the batch norms the statistics of images, as training would.

    Deep stacks of weights as small as some libraries' initial ones fade to nothing.
    """
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.reset_parameters()
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        model(images)
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def _as_map(tensor: Tensor, prefix: int) -> Tensor:
    if tensor.ndim == 3:
        tensor = tensor[:, prefix:]
        side = round(tensor.shape[1] ** 0.5)
        return tensor.reshape(len(tensor), side, side, -1).permute(0, 3, 1, 2)
    return tensor
