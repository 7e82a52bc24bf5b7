"""Tensors in nested tuples, lists, dicts, dataclasses and objects: batches and outputs of models."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from torch import Tensor

_DEPTH = 4


def tensors_in(value: Any, depth: int = _DEPTH) -> Iterator[Tensor]:
    """Yield the tensors of a nested structure, in order.

    Example:
        >>> import torch
        >>> [len(tensor) for tensor in tensors_in({"a": torch.zeros(2), "b": [torch.zeros(3)]})]
        [2, 3]
    """
    for _, tensor in named_tensors_in(value, depth):
        yield tensor


def named_tensors_in(value: Any, depth: int = _DEPTH, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a nested structure, in order, each with the name of its nearest key or attribute.

    Example:
        >>> import torch
        >>> [name for name, _ in named_tensors_in({"a": torch.zeros(2), "b": [torch.zeros(3)]})]
        ['a', 'b']
    """
    if isinstance(value, Tensor):
        yield name, value
    elif depth:
        for key, item in _items(value):
            yield from named_tensors_in(item, depth - 1, name if key is None else str(key))


def shapes_in(value: Any) -> str:
    """Return the shapes of the tensors in an output or a batch as text, for error messages.

    Example:
        >>> import torch
        >>> shapes_in({"logits": torch.zeros(2, 5), "extra": (torch.zeros(3), None)})
        '{logits: tensor (2, 5), extra: (tensor (3,), NoneType)}'
    """
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + _listed(f"{key}: {shapes_in(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "(" + _listed(map(shapes_in, value)) + ")"
    return type(value).__name__


def _items(value: Any) -> Sequence[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, (list, tuple)):
        return list(zip(getattr(value, "_fields", [None] * len(value)), value, strict=True))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(item.name, getattr(value, item.name)) for item in dataclasses.fields(value)]
    return list(getattr(value, "__dict__", {}).items())


def _listed(items: Iterable[str]) -> str:
    first = list(islice(items, 6))
    return ", ".join([*first[:5], "..."] if len(first) > 5 else first)
