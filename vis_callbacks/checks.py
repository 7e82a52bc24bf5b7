"""Checks of options in one wording: the option, its value, and what was expected."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from numbers import Integral, Real
from typing import Any, TypeVar, get_args

from vis_callbacks.errors import ConfigurationError

T = TypeVar("T")


def refused(name: str, value: object, expected: str) -> ConfigurationError:
    """Return the error for a wrong value.

    Example:
        >>> str(refused("steps", 1.5, "a whole number from 1"))
        'steps=1.5: expected a whole number from 1'
    """
    shown = " ".join(repr(value).split())
    return ConfigurationError(f"{name}={shown if len(shown) <= 100 else shown[:99] + '…'}: expected {expected}")


def optional(check: Callable[..., T], name: str, value: Any, *bounds: Any, **more: Any) -> T | None:
    """Return None for None, else what a check returns."""
    return None if value is None else check(name, value, *bounds, **more)


def whole(name: str, value: Any, least: int | None = 1) -> int:
    """Return a whole number, also one of NumPy's."""
    if isinstance(value, bool) or not isinstance(value, Integral) or (least is not None and value < least):
        raise refused(name, value, "a whole number" if least is None else f"a whole number from {least}")
    return int(value)


def number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: bool = False,
    what: str = "a number",
) -> float:
    """Return a finite number from `low`, or above it, to `high`."""
    known = float(value) if not isinstance(value, bool) and isinstance(value, Real) else math.nan
    if not math.isfinite(known) or not low <= known <= high or (above and known == low):
        start = " that is finite" if low == -math.inf else f" above {low:g}" if above else f" from {low:g}"
        end = "" if high == math.inf else f" and up to {high:g}" if above else f" to {high:g}"
        raise refused(name, value, what + start + end)
    return known


def one_of(name: str, value: T, words: Any) -> T:
    """Return one of the words of a ``Literal``."""
    if not isinstance(value, str) or value not in get_args(words):
        raise refused(name, value, "one of " + ", ".join(map(repr, get_args(words))))
    return value


def text(name: str, value: Any, what: str = "a string") -> str:
    """Return a string that is not empty."""
    if not isinstance(value, str) or not value:
        raise refused(name, value, f"{what}, not empty")
    return value


def several(name: str, value: Any, check: Callable[[str, Any], T], expected: str, *, least: int = 1) -> tuple[T, ...]:
    """Return the items of a list, an array or a tensor, each of them checked; not of a string."""
    items = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(items, (str, bytes, Mapping, set, frozenset)) or not isinstance(items, Iterable):
        raise refused(name, value, expected)
    found = tuple(check(name, item) for item in items)
    if len(found) < least:
        raise refused(name, value, expected)
    return found


def per_channel(name: str, value: Any, **bounds: Any) -> tuple[float, ...]:
    """Return a number, or one per channel, also of an array or a tensor of any shape."""
    items = value.flatten() if hasattr(value, "flatten") else [value] if isinstance(value, Real) else value
    return several(name, items, lambda name, item: number(name, item, **bounds), "a number, or one per channel")


def switch(name: str, value: Any) -> bool:
    """Return True or False."""
    if not isinstance(value, bool):
        raise refused(name, value, "True or False")
    return value


def function(name: str, value: T) -> T:
    """Return something that can be called."""
    if not callable(value):
        raise refused(name, value, "a function")
    return value


def sides(name: str, value: Any) -> tuple[int, int]:
    """Return height and width, from both or from one number for both."""
    expected = "a whole number from 1, or two of them: height and width"
    try:
        found = several(name, [value, value] if isinstance(value, Integral) else value, whole, expected)
    except ConfigurationError:
        found = ()
    if len(found) != 2:
        raise refused(name, value, expected)
    return found[0], found[1]


def class_spec(name: str, value: Any, expected: str = "a class number or a class name") -> int | str:
    """Return a class by number, from 0, or by name."""
    if isinstance(value, bool) or not isinstance(value, (Integral, str)) or value == "":
        raise refused(name, value, expected)
    return value if isinstance(value, str) else whole(name, value, 0)


def channel_numbers(name: str, value: Any, expected: str = "a list of channel numbers") -> tuple[int, ...]:
    """Return numbers of channels, from 0."""
    return several(name, value, lambda name, item: whole(name, item, 0), expected)


def bands(name: str, value: Any) -> tuple[int, ...]:
    """Return the number of the channel that is shown, or those of three: as red, green and blue."""
    expected = "three channel numbers, for red, green and blue, or one"
    found = several(name, [value] if isinstance(value, Integral) else value, partial(whole, least=0), expected)
    if len(found) not in (1, 3):
        raise refused(name, value, expected)
    return found


def layer_name(name: str, value: Any) -> str:
    """Return the name of a layer; whether the model has it is checked at `setup`."""
    return text(name, value, "the name of a layer")


def layer_names(name: str, value: Any) -> tuple[str, ...]:
    """Return names of layers; a single one may stand alone."""
    return several(name, [value] if isinstance(value, str) else value, layer_name, "names of layers")
