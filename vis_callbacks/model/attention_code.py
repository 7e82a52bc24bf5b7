"""Whether the code of a model may compute attention, as far as can be told without running it."""

import re
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

from torch import nn

from vis_callbacks.model.classifier import unwrapped

_SIGNS = re.compile(r"softmax|attention|attn", re.IGNORECASE)
_TORCHS = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
_DEPTH = 6


def may_attend(model: nn.Module) -> bool:
    """Return whether a forward may compute attention; True where that is not known.

    It looks for the names of attention and softmax in the code of each module's ``forward`` and of what that calls.

    Example:
        >>> may_attend(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())), may_attend(nn.MultiheadAttention(8, 2))
        (False, True)
    """
    return any(map(_may, {type(part): part for part in unwrapped(model).modules()}.values()))


def _may(module: nn.Module) -> bool:
    kind = type(module)
    if isinstance(module, _TORCHS):
        return True
    if isinstance(module, nn.Softmax):
        # Of axis 1 it is the one of the classes.
        return module.dim not in (None, 1)
    if kind.__module__.startswith("torch.nn.modules."):
        return False
    if "forward" in vars(module):
        return True
    return any(_SIGNS.search(name) for name in _names(kind, "forward"))


def _names(kind: type, method: str) -> Iterator[str]:
    """Yield the names in the code of a method, and in that of the functions and methods that it names."""
    seen: set[Any] = set()
    todo = [(function, 0) for function in _methods(kind, method)]
    while todo:
        function, depth = todo.pop()
        function = getattr(function, "__func__", function)
        function = getattr(function, "__wrapped__", function)
        if not isinstance(function, FunctionType) or function.__code__ in seen:
            continue
        seen.add(function.__code__)
        for name in _named_in(function.__code__):
            yield name
            if depth < _DEPTH:
                known = [*_methods(kind, name), function.__globals__.get(name)]
                todo += [(one, depth + 1) for one in known if not _is_torchs(one)]


def _methods(kind: type, name: str) -> list[Any]:
    """Return a method, and those of the same name that it overrides and may call."""
    return [vars(base)[name] for base in kind.__mro__ if name in vars(base) and not _is_torchs(base)]


def _is_torchs(value: Any) -> bool:
    return str(getattr(value, "__module__", "torch.")).startswith("torch.")


def _named_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _named_in(constant)
