"""The smallest model of every timm family, with random weights."""

from __future__ import annotations

import re
import warnings
from functools import cache

import timm
import torch
from torch import Tensor, nn

# What small variants are called, from the smallest; the rest is decided by counting parameters.
_SMALL = (
    "test atto femto pico zepto nano xxs xxt mini tiny _xt xs small lite0 b0 _s t_ 050 035 16 18 19 m0 26 32".split()
)
_SIZES = (128, 160, 192, 224)


def families() -> list[str]:
    """Every family (module) of timm."""
    return [family for family in timm.list_modules() if timm.list_models(module=family)]


@cache
def smallest(family: str) -> str:
    """The name of the family's smallest model; candidates are built without memory to count their parameters."""
    names = sorted(timm.list_models(module=family), key=lambda name: (_rank(name), len(name), name))
    numbered = min(names, key=lambda name: (sum(map(int, re.findall(r"\d+", name))) or 9999, name))
    return min(dict.fromkeys([*names[:4], numbered]), key=_parameters)


def build(name: str) -> tuple[nn.Module, Tensor]:
    """The model with 10 classes and seeded random weights, in eval mode, and an image of the smallest size that it takes."""
    config = timm.get_pretrained_cfg(name)
    channels, *_, own = config.input_size
    for size in [*(size for size in _SIZES if size < own), own]:
        for options in ({"img_size": size}, {}) if size != own else ({},):
            torch.manual_seed(0)
            try:
                model = timm.create_model(name, num_classes=10, **options).eval()
            except TypeError:
                continue
            images = torch.rand(1, channels, size, size) * 2 - 1
            try:
                with torch.no_grad():
                    model(images)
            except (RuntimeError, AssertionError, ValueError):
                continue
            return model, images
    raise RuntimeError(f"{name} does not run at {own}x{own}")


def _rank(name: str) -> int:
    return next((rank for rank, part in enumerate(_SMALL) if part in name), len(_SMALL))


def _parameters(name: str) -> float:
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        try:
            return sum(parameter.numel() for parameter in timm.create_model(name).parameters())
        except (RuntimeError, NotImplementedError):
            # A few models compute with their initial weights, which the meta device has not.
            return float("inf")
