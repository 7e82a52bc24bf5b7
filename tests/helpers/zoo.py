"""The smallest model of every timm family, with random weights, and a runner of every technique on it."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import timm
import torch
from torch import Tensor, nn

from tests.helpers.techniques import attributions, few
from vis_callbacks import functional
from vis_callbacks.attribution.cam import CamCallback
from vis_callbacks.model.features import feature_info

# What small variants are called, from the smallest; the rest is decided by counting parameters.
_SMALL = (
    *("test", "atto", "femto", "pico", "zepto", "nano", "xxs", "xxt", "mini", "tiny", "_xt", "xs", "small"),
    *("lite0", "b0", "_s", "t_", "050", "035", "16", "18", "19", "m0", "26", "32"),
)
_SIZES = (128, 160, 192, 224)
CLASSES = 10

# Few steps, samples and channels: what is asked here is whether a model can be looked at, not how it looks.
_OPTIONS: dict[str, dict[str, Any]] = {
    "score_cam": {"top_k": 4},
    "deep_dream": {"octaves": 2, "steps": 1, "progress": False},
}
_SPECIAL: dict[str, Callable[[Any, nn.Module, Tensor, str], Tensor]] = {
    "filters": lambda function, model, images, layer: function(model),
    "occlusion": lambda function, model, images, layer: function(
        model, images, window=images.shape[-1] // 2, stride=images.shape[-1] // 2
    ),
    "maximal_patches": lambda function, model, images, layer: function(
        model, images, patch=images.shape[-1] // 2, stride=images.shape[-1] // 2
    )[1],
    "class_appearance": lambda function, model, images, layer: function(
        model, [1], image_size=tuple(images.shape[1:]), steps=2, progress=False
    ),
    "feature_appearance": lambda function, model, images, layer: function(
        model, layer, [0], image_size=tuple(images.shape[1:]), steps=2, progress=False
    ),
    "feature_inversion": lambda function, model, images, layer: function(
        model, images, [layer], steps=2, progress=False
    )[layer],
    "fool": lambda function, model, images, layer: function(model, images, 1, steps=2, progress=False).images,
}
_OWN_SHAPE = ("filters", "activations", "maximal_patches", "attention")
_ATTRIBUTIONS = {one.function.__name__: one for one in attributions()}


@dataclass
class Outcome:
    """What came of one family."""

    family: str
    model: str
    image_size: int = 0
    layer: str = ""
    map: str = ""
    failures: dict[str, str] = field(default_factory=dict)
    zero: list[str] = field(default_factory=list)
    unattended: list[str] = field(default_factory=list)
    seconds: float = 0.0


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
    """The model with seeded random weights, in eval mode, and one image of the smallest size that it takes."""
    channels, *_, own = timm.get_pretrained_cfg(name).input_size
    for size in [*(size for size in _SIZES if size < own), own]:
        for options in ({"img_size": size}, {}) if size != own else ({},):
            torch.manual_seed(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    model = timm.create_model(name, num_classes=CLASSES, **options).eval()
                except TypeError:
                    continue
                images = torch.rand(1, channels, size, size) * 2 - 1
                _fill_zeros(model)
                try:
                    settle(model, images)
                except (RuntimeError, AssertionError, ValueError):
                    continue
            return model, images
    raise RuntimeError(f"{name} does not run at {own}x{own}")


def try_family(family: str) -> Outcome:
    """Run every technique on the smallest model of a family and tell what failed."""
    outcome = try_model(*build(smallest(family)))
    outcome.family, outcome.model = family, smallest(family)
    return outcome


def try_model(model: nn.Module, images: Tensor) -> Outcome:
    """Run every technique on a model in train mode, half frozen, and tell what failed."""
    start = time.perf_counter()
    outcome = Outcome(type(model).__name__, type(model).__name__, images.shape[-1])
    _fill_zeros(model)
    _as_in_training(model)
    before = State(model)
    for name in functional.__all__:
        try:
            if not outcome.layer:
                found = feature_info(model, images)
                outcome.layer = found.default_layer()
                layout = found.layout(outcome.layer)
                outcome.map = f"{layout.axes} {layout.size[0]}x{layout.size[1]}"
            result = _call(name, model, images, outcome.layer)
            problem = _problem(name, result, images)
            # Nothing positive is left of negative evidence: these maps may be zero everywhere.
            if problem == "zero" and issubclass(_ATTRIBUTIONS.get(name, object), CamCallback):
                outcome.zero.append(name)
            elif problem:
                outcome.failures[name] = problem
        except Exception as error:
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            if "has no attention" in said or "is between channels" in said:
                outcome.unattended.append(name)
            else:
                outcome.failures[name] = said
        changed = before.changes(model)
        if changed:
            outcome.failures[name] = f"left changed: {', '.join(changed[:3])}"
            before = State(model)
    outcome.seconds = time.perf_counter() - start
    return outcome


class State:
    """All that a technique must leave as it was."""

    def __init__(self, model: nn.Module) -> None:
        self.values = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.facts = self._facts(model)

    def changes(self, model: nn.Module) -> list[str]:
        """Names of what is no longer so."""
        values = model.state_dict()
        changed = [name for name in values if not torch.equal(values[name], self.values[name])]
        facts = self._facts(model)
        return changed + [name for name in facts if facts[name] != self.facts.get(name)]

    @staticmethod
    def _facts(model: nn.Module) -> dict[str, Any]:
        facts: dict[str, Any] = {"random numbers": torch.get_rng_state().tolist()}
        for name, module in model.named_modules():
            hooks = len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
            facts[f"{name} (mode, hooks)"] = (module.training, hooks)
        for name, parameter in model.named_parameters():
            facts[f"{name} (frozen, gradient)"] = (parameter.requires_grad, id(parameter.grad))
        return facts


def _as_in_training(model: nn.Module) -> None:
    """Train mode, the first half of the parameters frozen, a gradient on the last."""
    model.train()
    parameters = list(model.parameters())
    for parameter in parameters[: len(parameters) // 2]:
        parameter.requires_grad_(False)
    parameters[-1].grad = torch.ones_like(parameters[-1])


def _call(name: str, model: nn.Module, images: Tensor, layer: str) -> Tensor:
    function = getattr(functional, name)
    if name in _SPECIAL:
        return _SPECIAL[name](function, model, images, layer)
    result: Tensor = function(model, images, **{**few(function), **_OPTIONS.get(name, {})})
    return result


def _problem(name: str, result: Tensor, images: Tensor) -> str:
    count, channels, height, width = images.shape
    one = name in _ATTRIBUTIONS and _ATTRIBUTIONS[name].one_channel
    shape = (count, 1 if one else channels, height, width)
    if name not in _OWN_SHAPE and result.shape != shape:
        return f"shape {tuple(result.shape)} instead of {shape}"
    if result.requires_grad or result.dtype != torch.float32:
        return f"{result.dtype}, requires_grad={result.requires_grad}"
    if not result.isfinite().all():
        return f"{int((~result.isfinite()).sum())} of {result.numel()} values are not finite"
    if name != "maximal_patches" and result.numel() > 1 and result.min() == result.max():
        return "zero" if float(result.max()) == 0 else f"constant {float(result.max()):.3g}"
    return ""


def settle(model: nn.Module, images: Tensor) -> None:
    """Give batch norms the statistics of random images, as training would: without, deep stacks fade to nothing."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        model(torch.cat([images, *(torch.randn_like(images) for _ in range(3))]))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _fill_zeros(model: nn.Module) -> None:
    # Some families start with a head of zeros, or with zero as the factor of a residual branch, which no gradient can
    # reach through.
    for name, parameter in model.named_parameters():
        if parameter.any():
            continue
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02)
        elif name.rpartition(".")[2] in ("weight", "gamma"):
            nn.init.ones_(parameter)


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
