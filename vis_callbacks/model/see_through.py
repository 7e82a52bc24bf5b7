"""See through what hides the logits and their gradients: a softmax or sigmoid at the end, and ``no_grad`` inside."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NamedTuple, TypeAlias
from weakref import ref

import torch
from torch import Tensor
from torch.nn import Parameter, functional as F

from vis_callbacks.model.torch_functions import (
    COMPLEMENTS,
    CONVERSIONS,
    CUTS,
    EXCHANGES,
    GRAD_MODE,
    JOINS,
    SHAPES,
    SIGMOIDS,
    SOFTMAXES,
    Function,
    FunctionMode,
)

Through: TypeAlias = Literal["", "softmax", "sigmoid"]
"""What the logits of a model go through at its end."""

_NUMBERS = 2**15
"""Largest number of values per image that are remembered: classes, not the weights of an attention."""

_EPSILON = 0.01
"""Largest distance from 0 and 1 at which probabilities are clamped to be safe for a logarithm."""


class Origin(NamedTuple):
    """What a tensor of probabilities was computed from.

    Attributes:
        through: The function.
        logits: What went in, in the shape of the probabilities.
        dim: The axis of a softmax; None once the shape has changed.
    """

    through: Through
    logits: Tensor
    dim: int | None = None


@dataclass(frozen=True)
class _Entry:
    of: "ref[Tensor]"
    version: int
    origin: Origin


class SeeThrough(FunctionMode):
    """While a model runs, remember what went into softmax and sigmoid, and keep gradients enabled.

    Nothing that the model computes changes. Probabilities are followed through changes of shape and type, slices,
    ``cat`` of p and 1 - p, ``log``, ``exp`` and clamps. ``no_grad`` inside the model has no effect if gradients were
    enabled outside; code that only runs without gradients, such as a change of a leaf in place, then raises.

    Args:
        images: Number of images.
        lifts: Whether gradients stay enabled.

    Attributes:
        disables: Whether the model disables gradients anywhere.
        lifted: Whether that had no effect.
        cuts: Whether the model goes on with a tensor without its gradient anywhere.
        cut: The last place where a gradient is lost by that, such as ``detach() in train.py, line 12``; "" if none is.

    Example:
        >>> z = torch.tensor([[1.0, -2.0]])
        >>> with SeeThrough(1) as mode:
        ...     p = z.softmax(dim=1).squeeze()
        >>> mode.origin(p).logits
        tensor([ 1., -2.])
    """

    def __init__(self, images: int, *, lifts: bool = True) -> None:
        super().__init__({})
        self._most = _NUMBERS * max(images, 1)
        self._entries: dict[int, _Entry] = {}
        self._enabled = torch.is_grad_enabled()
        self._lifts = lifts and self._enabled
        self._inner = 0
        self._linear: ref[Tensor] | None = None
        self.disables = self.lifted = self.cuts = False
        self.cut = ""

    def __exit__(self, *error: Any) -> None:
        """Set back what the model may have left."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        GRAD_MODE(self._enabled)

    def __torch_function__(
        self, func: Function, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function of torch."""
        handle = _HANDLERS.get(func)
        return func(*args, **(kwargs or {})) if handle is None else handle(self, func, args, kwargs or {})

    def origin(self, tensor: Any) -> Origin | None:
        """Return what a tensor of probabilities was computed from, if that was seen."""
        entry = self._entries.get(id(tensor))
        known = entry.of() if entry is not None else None
        same = entry is not None and known is not None and known is tensor and entry.version == version_of(known)
        return entry.origin if entry is not None and same else None

    def is_linear(self, tensor: Tensor) -> bool:
        """Whether a tensor is what the last linear layer returned, so that there is nothing to see through."""
        return self._linear is not None and self._linear() is tensor

    def _remember(self, tensor: Any, origin: Origin | None) -> None:
        if origin is None or not isinstance(tensor, Tensor) or tensor.shape != origin.logits.shape:
            return
        if tensor.ndim > 2 and tensor.numel() > self._most:
            return
        key, entries = id(tensor), self._entries
        # Weak: what went into an attention's softmax must not live as long as the graph.
        entries[key] = _Entry(ref(tensor, lambda _: entries.pop(key, None)), version_of(tensor), origin)

    def _set_grad_enabled(self, func: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        enabled = bool((*args, *kwargs.values())[0])
        self.disables |= not enabled
        if enabled or not self._lifts or self._inner:
            # The forward of an autograd function runs without gradients, which it may enable and disable again.
            if self._lifts and enabled != torch.is_grad_enabled():
                self._inner += 1 if enabled else -1
            func(enabled)
        elif torch.is_grad_enabled():
            self.lifted = True

    def _apply_linear(self, func: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        result = func(*args, **kwargs)
        self._linear = ref(result)
        return result

    def _resize(self, func: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        tensor = _first(args, kwargs)
        if self.lifted and tensor.grad_fn is not None:
            # Nothing of the graph is left in a tensor that is made larger for other values.
            tensor.detach_()
        return func(*args, **kwargs)

    def _cut(self, func: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        tensor = _first(args, kwargs)
        # Where none was computed, as in a pass without gradients, another pass may lose one.
        if isinstance(tensor, Tensor) and not isinstance(tensor, Parameter) and (place := _place_of_call()):
            self.cuts = True
            if tensor.requires_grad:
                self.cut = f"{CUTS[func]} in {place}"
        return func(*args, **kwargs)

    def _softmax(self, func: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        result, inputs = func(*args, **kwargs), _first(args, kwargs)
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if isinstance(inputs, Tensor) and inputs.ndim:
            # Without an axis torch takes the second one of a matrix.
            dim = (1 if inputs.ndim in (2, 4) else 0) if dim is None else dim % inputs.ndim
            if dim or inputs.ndim == 1:
                self._remember(result, Origin("softmax", inputs, dim))
        return result

    def _sigmoid(self, func: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        inputs = _first(args, kwargs)
        before = inputs.clone() if _in_place(func) and isinstance(inputs, Tensor) else inputs
        result = func(*args, **kwargs)
        if isinstance(before, Tensor):
            self._remember(result, Origin("sigmoid", before))
        return result

    def _shape(self, func: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        origin = self.origin(args[0]) if args else None
        result = func(*args, **kwargs)
        if origin is None or (result is args[0] and not _in_place(func)):
            return result
        if func in CONVERSIONS and result.device == origin.logits.device:
            self._remember(result, origin)
            return result
        shaped = func(origin.logits.clone() if _in_place(func) else origin.logits, *args[1:], **kwargs)
        if isinstance(result, Tensor):
            self._remember(result, self._shaped(origin, shaped, func, args, kwargs))
        elif origin.through == "sigmoid":
            for part, logits in zip(result, shaped, strict=True):
                self._remember(part, Origin("sigmoid", logits))
        return result

    def _shaped(
        self, origin: Origin, shaped: Tensor, func: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Origin | None:
        logits, dim = origin.logits, origin.dim
        if origin.through == "sigmoid" or shaped.numel() == logits.numel():
            return Origin(origin.through, shaped, dim if shaped.shape == logits.shape else None)
        if dim is None:
            return None
        # Some classes or some images were selected: numbers in the place of the probabilities tell which.
        count = logits.shape[dim]
        places = [1] * logits.ndim
        places[dim] = count
        classes = torch.arange(count, device=logits.device).view(places).expand(logits.shape)
        chosen = func(classes, *args[1:], **kwargs)
        if len(chosen.unique()) == count:
            return Origin("softmax", shaped)
        if len(chosen.unique()) == 1 and count == 2:
            # The probability of one of two classes is the sigmoid of their difference.
            return Origin("sigmoid", func(logits - logits.flip(dim), *args[1:], **kwargs))
        return None

    def _exchange(self, func: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        origin = self.origin(args[0]) if args else None
        result = func(*args, **kwargs)
        if origin is not None and _keeps(func, args[1:], kwargs):
            self._remember(result, origin)
        return result

    def _complement(self, func: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        result = func(*args, **kwargs)
        if len(args) == 2 and not kwargs:
            one, probabilities = args[::-1] if func in _REVERSED else args
            origin = self.origin(probabilities)
            if origin is not None and origin.through == "sigmoid" and _is_one(one):
                self._remember(result, Origin("sigmoid", -origin.logits))
        return result

    def _join(self, func: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        result, parts = func(*args, **kwargs), args[0] if args else ()
        origins = [self.origin(part) for part in parts] if isinstance(parts, (list, tuple)) else []
        known = [origin for origin in origins if origin is not None and origin.through == "sigmoid"]
        if not known or len(known) < len(origins):
            return result
        if len(known) == 2 and torch.equal(known[0].logits, -known[1].logits):
            # p and 1 - p: the probabilities of two classes.
            halves = func([origin.logits / 2 for origin in known], *args[1:], **kwargs)
            self._remember(result, Origin("softmax", halves))
        else:
            self._remember(result, Origin("sigmoid", func([one.logits for one in known], *args[1:], **kwargs)))
        return result


_Handler: TypeAlias = Callable[[SeeThrough, Function, tuple[Any, ...], Mapping[str, Any]], Any]

_HANDLERS: Mapping[Function, _Handler] = {
    GRAD_MODE: SeeThrough._set_grad_enabled,
    F.linear: SeeThrough._apply_linear,
    **dict.fromkeys(CUTS, SeeThrough._cut),
    **dict.fromkeys((Tensor.resize_, Tensor.resize_as_), SeeThrough._resize),
    **dict.fromkeys(SOFTMAXES, SeeThrough._softmax),
    **dict.fromkeys(SIGMOIDS, SeeThrough._sigmoid),
    **dict.fromkeys(SHAPES, SeeThrough._shape),
    **dict.fromkeys(EXCHANGES, SeeThrough._exchange),
    **dict.fromkeys(COMPLEMENTS, SeeThrough._complement),
    **dict.fromkeys(JOINS, SeeThrough._join),
}

_SUMS = (torch.add, Tensor.add, Tensor.__radd__)
_REVERSED = (torch.rsub, Tensor.__rsub__)


def version_of(tensor: Tensor) -> int:
    """Return a number that changes when a tensor is changed in place."""
    return 0 if tensor.is_inference() else tensor._version


def _first(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return args[0] if args else kwargs.get("input", kwargs.get("self"))


def _place_of_call() -> str:
    """Return the file and the line from which the model calls a function of torch; "" if we do."""
    frame = sys._getframe()
    while frame.f_back is not None and (frame.f_code.co_filename == __file__ or _is_torch(frame)):
        frame = frame.f_back
    if frame.f_globals.get("__name__", "").startswith("vis_callbacks."):
        return ""
    return f"{Path(frame.f_code.co_filename).name}, line {frame.f_lineno}"


def _is_torch(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith("torch.")


def _in_place(func: Function) -> bool:
    return func.__name__.endswith("_") and not func.__name__.endswith("__")


def _is_one(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.requires_grad and bool((value == 1).all())
    return isinstance(value, (int, float)) and value == 1


def _keeps(func: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a logarithm, an exponential, a clamp or a sum leaves the order of probabilities as it is."""
    ends = (0,) if func in _SUMS else (0, 1)
    bounds = [bound for bound in (*args, *kwargs.values()) if bound is not None]
    return all(
        isinstance(bound, (int, float)) and min(abs(bound - end) for end in ends) <= _EPSILON for bound in bounds
    )
