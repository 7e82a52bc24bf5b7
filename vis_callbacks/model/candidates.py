"""What may be the network of a module, before anything was seen of it."""

from contextlib import suppress
from typing import Any

import torch
from torch import nn

from vis_callbacks.model.calls import is_trained
from vis_callbacks.model.classifier import classifier_in, has_forward
from vis_callbacks.model.layers import known_as
from vis_callbacks.model.subject import Forward, Subject, network_of, part_of


def guesses(module: nn.Module, forward: Forward = None) -> list[nn.Module]:
    """Return what may be the network that pictures show, before anything was seen; the likeliest first.

    Raises:
        ConfigurationError: If the option names nothing, or nothing can be called.
    """
    if forward is not None:
        return [network_of(module, Subject(str(forward)), forward)]
    parts = [known_as(part_of(module, name), name) for name in candidates(module, frozenset())]
    return parts if module in parts else [*parts, module]


def candidates(module: nn.Module, optimized: frozenset[int]) -> list[str]:
    """Return what may be the network, by name, the likeliest first."""
    children = _children(module, optimized)
    if not has_forward(module):
        return children or [next(name for name, part in module.named_modules() if part is classifier_in(module))]
    return [*children, ""] if switches_gradients_off(module) and children else ["", *children]


def switches_gradients_off(part: nn.Module) -> bool:
    """Whether a part's ``forward`` is decorated with ``no_grad`` or ``inference_mode``."""
    function: Any = part.forward
    while function is not None:
        for cell in getattr(function, "__closure__", None) or ():
            with suppress(ValueError):  # of a variable without value
                # torch's decorator keeps a method of what makes the context.
                context = getattr(cell.cell_contents, "__self__", None)
                if isinstance(context, torch.no_grad):
                    return True
                if isinstance(context, (torch.inference_mode, torch.set_grad_enabled)):
                    return context.mode is isinstance(context, torch.inference_mode)
        function = getattr(function, "__wrapped__", None)
    return False


def _children(module: nn.Module, optimized: frozenset[int]) -> list[str]:
    found: dict[str, nn.Module] = {}
    pending = [(name, child) for name, child in module.named_children()]
    while pending:
        name, child = pending.pop(0)
        if has_forward(child) and not isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            found[name] = child
        else:
            pending += [(f"{name}.{inner}", part) for inner, part in child.named_children()]

    def rank(name: str) -> tuple[bool, int]:
        return is_trained(found[name], optimized), sum(parameter.numel() for parameter in found[name].parameters())

    weighted = [name for name, part in found.items() if next(part.parameters(), None) is not None]
    return sorted(weighted or found, key=rank, reverse=True)
