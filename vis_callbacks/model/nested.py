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
    if isinstance(value, Tensor):
        yield value
    elif depth:
        for item in _items(value):
            yield from tensors_in(item, depth - 1)


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


def _items(value: Any) -> Sequence[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, (list, tuple)):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, item.name) for item in dataclasses.fields(value)]
    return list(getattr(value, "__dict__", {}).values())


def _listed(items: Iterable[str]) -> str:
    first = list(islice(items, 6))
    return ", ".join([*first[:5], "..."] if len(first) > 5 else first)
