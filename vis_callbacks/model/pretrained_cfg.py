"""What timm models state about themselves, in their ``pretrained_cfg``."""

from collections.abc import Iterator
from typing import Any

from torch import nn


def pretrained_cfgs(model: nn.Module) -> Iterator[tuple[nn.Module, dict[str, Any]]]:
    """Yield the modules of a model, itself included, that have a ``pretrained_cfg``, with it."""
    for module in model.modules():
        config = getattr(module, "pretrained_cfg", None)
        if isinstance(config, dict):
            yield module, config


def stated_input_size(model: nn.Module) -> tuple[int, ...] | None:
    """Return the ``(C, H, W)`` of the images that a model was made for; None if it does not state it.

    Example:
        >>> model = nn.Sequential(nn.Identity())
        >>> model[0].pretrained_cfg = {"input_size": (3, 64, 64)}
        >>> stated_input_size(model)
        (3, 64, 64)
    """
    return next((tuple(size) for _, config in pretrained_cfgs(model) if (size := config.get("input_size"))), None)
