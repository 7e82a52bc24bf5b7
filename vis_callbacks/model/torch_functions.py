"""Replace functions of torch while a model runs, whether it calls them as modules, functions, methods or in place."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Function: TypeAlias = Callable[..., Any]

RELUS: frozenset[Function] = frozenset({F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_})
CLIPPED: frozenset[Function] = frozenset({F.relu6, F.hardtanh, F.hardtanh_})
"""Activations with a lower and an upper bound; `nn.ReLU6` calls ``F.hardtanh`` from 0 to 6."""

OTHER_ACTIVATIONS: frozenset[Function] = frozenset(
    {F.gelu, F.silu, F.mish, F.hardswish, F.softplus, F.leaky_relu, F.leaky_relu_, F.elu, F.elu_, F.celu, F.celu_}
)
OTHER_ACTIVATIONS |= {F.selu, F.selu_, F.prelu, torch.prelu, torch.selu, torch.celu, Tensor.prelu}


class FunctionMode(TorchFunctionMode):
    """While active, call other functions instead of some of torch's. Compiled C++ and scripted code are not affected.

    Args:
        replacements: From a function of torch to what is called instead, with the same arguments.

    Example:
        >>> with FunctionMode({torch.relu: torch.abs}):
        ...     torch.relu(torch.tensor(-2.0))
        tensor(2.)
    """

    def __init__(self, replacements: Mapping[Function, Function]) -> None:
        super().__init__()
        self._replacements = replacements

    def __torch_function__(
        self, func: Function, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function of torch, or its replacement."""
        return self._replacements.get(func, func)(*args, **(kwargs or {}))


def is_rectifier(function: Function, *args: Any, **kwargs: Any) -> bool:
    """Return whether an activation, called with these arguments behind its input, is 0 for all negative inputs.

    Example:
        >>> is_rectifier(F.relu), is_rectifier(F.hardtanh, 0.0, 6.0), is_rectifier(F.hardtanh, max_val=6.0)
        (True, True, False)
    """
    if function in CLIPPED and function is not F.relu6:
        return bool((*args, kwargs.get("min_val", -1.0))[0] == 0)
    return function in RELUS | CLIPPED


def is_in_place(function: Function, **kwargs: Any) -> bool:
    """Return whether an activation, called with these options, writes to its input.

    Example:
        >>> is_in_place(torch.relu_), is_in_place(F.relu, inplace=True), is_in_place(F.relu)
        (True, True, False)
    """
    return function.__name__.endswith("_") or bool(kwargs.get("inplace"))
