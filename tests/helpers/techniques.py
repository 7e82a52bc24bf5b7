"""The public techniques, as the package exports them: a new one is in every table by itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import vis_callbacks
from vis_callbacks import AttributionCallback, VisualizationCallback


def callback_classes(*, watchers: bool = False) -> list[type[VisualizationCallback]]:
    """Every technique's callback; with `watchers`, also those that show what passes by in a training."""
    exported = [getattr(vis_callbacks, name) for name in vis_callbacks.__all__]
    classes = [one for one in exported if isinstance(one, type) and issubclass(one, VisualizationCallback)]
    abstract = {one for one in classes for value in _members(one) if getattr(value, "__isabstractmethod__", False)}
    return [one for one in classes if one not in abstract and (watchers or not hasattr(one, "batch_starts"))]


def attributions() -> list[type[AttributionCallback]]:
    """Those that show a map beside each sample."""
    return [one for one in callback_classes() if issubclass(one, AttributionCallback)]


def options_of(callback: type) -> dict[str, inspect.Parameter]:
    """Every option of a callback, its own and the shared ones."""
    made = [vars(one)["__init__"] for one in reversed(callback.__mro__) if "__init__" in vars(one)]
    options = [option for init in made for option in inspect.signature(init).parameters.values()]
    return {option.name: option for option in options if option.default is not option.empty}


def few(function: Callable[..., Any], count: int = 2) -> dict[str, int]:
    """Arguments that make a technique fast: steps, samples, masks and the like are few, where it has many."""
    options = inspect.signature(function).parameters.values()
    return {option.name: count for option in options if type(option.default) is int and option.default > 8}


def _members(one: type) -> list[Any]:
    return [getattr(one, name) for name in dir(one)]
