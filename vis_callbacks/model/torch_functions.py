"""The table of torch functions that matter here, and the mode that replaces them while a model runs."""

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

SOFTMAXES: frozenset[Function] = frozenset(
    {F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax, F.log_softmax, torch.log_softmax}
)
SOFTMAXES |= {Tensor.log_softmax, torch.special.log_softmax}
PRODUCTS_OF_MATRICES: frozenset[Function] = frozenset(
    {torch.matmul, torch.bmm, torch.baddbmm, torch.einsum, torch.linalg.matmul, Tensor.matmul, Tensor.bmm}
)
PRODUCTS_OF_MATRICES |= {Tensor.baddbmm, Tensor.__matmul__, Tensor.__rmatmul__}
SIGMOIDS: frozenset[Function] = frozenset(
    {F.sigmoid, torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_, torch.special.expit, F.logsigmoid}
)
GRAD_MODE: Function = torch._C._set_grad_enabled
"""What ``no_grad``, ``enable_grad`` and ``set_grad_enabled`` call, as contexts, decorators or functions."""

CUTS: Mapping[Function, str] = {
    **dict.fromkeys((torch.detach, Tensor.detach, torch.detach_, Tensor.detach_), "detach()"),
    Tensor.data.__get__: ".data",  # type: ignore[attr-defined]
}
"""Functions whose result has no gradient, and how they are written."""

EXCHANGES: frozenset[Function] = frozenset(
    {torch.exp, Tensor.exp, torch.log, Tensor.log, torch.clamp, Tensor.clamp, torch.clip, Tensor.clip}
)
EXCHANGES |= {torch.clamp_min, Tensor.clamp_min, torch.clamp_max, Tensor.clamp_max, Tensor.clamp_, Tensor.clip_}
EXCHANGES |= {torch.add, Tensor.add, Tensor.__radd__}
"""Functions that turn probabilities into log-probabilities, back, or keep them from being exactly 0 or 1."""

COMPLEMENTS: frozenset[Function] = frozenset({torch.sub, Tensor.sub, torch.rsub, Tensor.__rsub__})
"""Differences: 1 - p is the probability of the other of two classes."""

JOINS: frozenset[Function] = frozenset({torch.cat, torch.concat, torch.concatenate, torch.stack, torch.hstack})
CONVERSIONS: frozenset[Function] = frozenset(
    {Tensor.float, Tensor.double, Tensor.half, Tensor.bfloat16, Tensor.to, Tensor.type, Tensor.type_as}
)
SHAPES: frozenset[Function] = CONVERSIONS | frozenset(
    {
        *(getattr(torch, name) for name in ("squeeze", "unsqueeze", "reshape", "flatten", "clone", "permute")),
        *(getattr(torch, name) for name in ("transpose", "movedim", "select", "narrow", "chunk", "split", "unbind")),
        *(getattr(torch, name) for name in ("t", "unflatten", "ravel", "swapaxes", "tensor_split", "atleast_2d")),
    }
)
SHAPES |= {
    *(getattr(Tensor, name) for name in ("squeeze", "unsqueeze", "reshape", "flatten", "clone", "permute", "view")),
    *(getattr(Tensor, name) for name in ("transpose", "movedim", "select", "narrow", "chunk", "split", "unbind")),
    *(getattr(Tensor, name) for name in ("t", "unflatten", "ravel", "swapaxes", "tensor_split", "view_as", "expand")),
    *(getattr(Tensor, name) for name in ("contiguous", "reshape_as", "cpu", "cuda", "squeeze_", "unsqueeze_")),
    Tensor.__getitem__,
    Tensor.T.__get__,  # type: ignore[attr-defined]
    Tensor.mT.__get__,  # type: ignore[attr-defined]
}
"""Functions that change the shape, the selection or the type of a tensor, and nothing else."""

_COMPARISONS: Mapping[Function, str] = {
    **dict.fromkeys((torch.gt, Tensor.gt, torch.ge, Tensor.ge), ">"),
    **dict.fromkeys((torch.lt, Tensor.lt, torch.le, Tensor.le), "<"),
}
_PRODUCTS: frozenset[Function] = frozenset({torch.mul, torch.multiply, Tensor.mul, Tensor.mul_, Tensor.multiply})
_LARGER: frozenset[Function] = frozenset({torch.maximum, torch.max, torch.fmax, Tensor.maximum, Tensor.max})
_LARGER |= {Tensor.fmax}
_CLAMPS: frozenset[Function] = frozenset(
    {torch.clamp, torch.clamp_, torch.clip, torch.clip_, Tensor.clamp, Tensor.clamp_, Tensor.clip, Tensor.clip_}
)
_CLAMPS |= {torch.clamp_min, torch.clamp_min_, Tensor.clamp_min, Tensor.clamp_min_}
_THRESHOLDS: frozenset[Function] = frozenset(
    {F.threshold, F.threshold_, torch.threshold}  # type: ignore[attr-defined]
)
_FILLS: frozenset[Function] = frozenset(
    {torch.masked_fill, Tensor.masked_fill, Tensor.masked_fill_, Tensor.__setitem__}
)
_CHOICES: frozenset[Function] = frozenset({torch.where, Tensor.where})
_SLOPES: frozenset[Function] = frozenset({F.leaky_relu, F.leaky_relu_})

Call: TypeAlias = tuple[Function, tuple[Any, ...], Mapping[str, Any]]
"""A function with its arguments."""


class FunctionMode(TorchFunctionMode):
    """While active, call other functions instead of some of torch's. Compiled C++ and scripted code are not affected.

    Args:
        replacements: From a function of torch to what is called instead, with the same arguments.
        spellings: Whether a rectifier in any spelling counts as ``torch.relu``, ``torch.relu_``, ``F.hardtanh`` or
            ``F.hardtanh_``: see `RectifierSpellings`.

    Example:
        >>> with FunctionMode({torch.relu: torch.abs}):
        ...     torch.relu(torch.tensor(-2.0))
        tensor(2.)
        >>> with FunctionMode({torch.relu: torch.abs}, spellings=True):
        ...     torch.tensor([-2.0]).clamp(min=0)
        tensor([2.])
    """

    def __init__(self, replacements: Mapping[Function, Function], *, spellings: bool = False) -> None:
        super().__init__()
        self._replacements = replacements
        self._spellings = RectifierSpellings() if spellings else None

    def __torch_function__(
        self, func: Function, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function of torch, or its replacement."""
        kwargs = kwargs or {}
        if self._spellings is not None and func in RectifierSpellings.functions:
            found = self._spellings.read(func, args, kwargs)
            if found is not None:
                func, args, kwargs = found
        result = self._replacements.get(func, func)(*args, **kwargs)
        if self._spellings is not None and func in RectifierSpellings.functions:
            self._spellings.note(func, args, kwargs, result)
        return result


class RectifierSpellings:
    """Reads calls that compute a rectifier, such as ``clamp(min=0)``, ``where(h > 0, h, 0)`` and ``h * (h > 0)``.

    Attributes:
        functions: The functions that such calls may call.
    """

    functions: frozenset[Function] = frozenset(
        _CLAMPS | _LARGER | _THRESHOLDS | _FILLS | _CHOICES | _PRODUCTS | _SLOPES | CONVERSIONS | set(_COMPARISONS)
    )

    def __init__(self) -> None:
        # By identity of a mask: the mask, so that no other gets its identity, its sign, and where the values were.
        self._masks: dict[int, tuple[Tensor, str, tuple[Any, ...]]] = {}

    def note(self, func: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        """Remember a mask such as ``h > 0``, and the numbers that it is turned into."""
        if func in _COMPARISONS and len(args) == 2 and not kwargs:
            for values, bound, sign in ((*args, _COMPARISONS[func]), (*args[::-1], "<>"[_COMPARISONS[func] == "<"])):
                if _is_data(values) and _is_zero(bound):
                    self._masks[id(result)] = result, sign, _place(values)
                    return
        elif func in CONVERSIONS and args and (known := self._masks.get(id(args[0]))) is not None:
            self._masks[id(result)] = result, *known[1:]

    def read(self, func: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call | None:
        """Return a rectifier as a call of ``torch.relu``, ``F.hardtanh`` or their forms in place; None for others."""
        found = self._values(func, args, kwargs) if args or kwargs else None
        if found is None:
            return None
        values, *above = found
        # nn.Threshold gives ``inplace`` by position.
        in_place = is_in_place(func, **kwargs) or any(value is True for value in args)
        if above:
            return F.hardtanh_ if in_place else F.hardtanh, (values, 0.0, above[0]), {}
        return torch.relu_ if in_place else torch.relu, (values,), {}

    def _values(self, func: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """Return the tensor that a call rectifies, and the upper bound if there is one."""
        first, *others = (*args, *(kwargs[name] for name in ("input", "self") if name in kwargs and not args))
        if func in _CHOICES:
            condition, values, other = (first, *others)[:3] if len(others) == 2 else (None, None, None)
            if func is Tensor.where:
                condition, values = values, condition
            return self._masked(condition, values, other)
        if func in _PRODUCTS and others:
            return next(
                (
                    (values,)
                    for values, mask in ((first, others[0]), (others[0], first))
                    if self._sign(mask, values) == ">" and (values is first or not is_in_place(func))
                ),
                None,
            )
        if func in _FILLS and len(others) == 2:
            return (first,) if self._sign(others[0], first) == "<" and _is_zero(others[1]) else None
        if not _is_data(first):
            return None
        if func in _CLAMPS:
            least = others[0] if others else kwargs.get("min")
            most = others[1] if len(others) > 1 else kwargs.get("max")
            if least is None or not _is_zero(least) or isinstance(most, Tensor):
                return None
            return (first,) if most is None else (first, most)
        if func in _LARGER:
            other = others[0] if others else kwargs.get("other")
            if not isinstance(other, Tensor):
                return None
            return (first,) if _is_zero(other) else (other,) if _is_zero(first) and _is_data(other) else None
        if func in _THRESHOLDS:
            bounds = (*others, *(kwargs[name] for name in ("threshold", "value") if name in kwargs))[:2]
            return (first,) if len(bounds) == 2 and all(map(_is_zero, bounds)) else None
        if func in _SLOPES:
            slope = others[0] if others else kwargs.get("negative_slope", 0.01)
            return (first,) if slope == 0 else None
        return None

    def _masked(self, condition: Any, values: Any, other: Any) -> tuple[Any, ...] | None:
        if self._sign(condition, values) == ">" and _is_zero(other):
            return (values,)
        return (other,) if self._sign(condition, other) == "<" and _is_zero(values) else None

    def _sign(self, mask: Any, values: Any) -> str | None:
        known = self._masks.get(id(mask))
        return known[1] if known is not None and _is_data(values) and known[2] == _place(values) else None


def _is_data(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 0


def _is_zero(value: Any) -> bool:
    """Whether a number or a tensor is zero; tensors that depend on the images are not looked at."""
    if isinstance(value, Tensor):
        return not value.requires_grad and not bool(value.any())
    return isinstance(value, (int, float)) and value == 0


def _place(tensor: Tensor) -> tuple[Any, ...]:
    # Not the identity: a mask may have been made from ``h.detach()`` or ``h.data``.
    return tensor.data_ptr(), tensor.shape, tensor.stride()


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
