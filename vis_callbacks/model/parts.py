"""The tensors in the output of a layer, and where in it they are."""

import copy
import dataclasses
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, TypeAlias

from torch import Tensor, nn

Path: TypeAlias = tuple[Hashable, ...]
"""Where a tensor is in an output: indices of tuples and lists, keys, and names of attributes; () is the output."""

_DEPTH = 4


def parts_of(output: Any) -> list[tuple[Path, Tensor]]:
    """Return the tensors of an output, with their places in it; whole numbers count only where there is nothing else.

    Example:
        >>> import torch
        >>> [path for path, _ in parts_of({"maps": [torch.rand(1), torch.rand(1)], "size": torch.tensor(3)})]
        [('maps', 0), ('maps', 1)]
    """
    found = list(_tensors(output))
    return [(path, tensor) for path, tensor in found if tensor.is_floating_point()] or found


def part_at(output: Any, path: Path | None) -> Tensor | None:
    """Return the tensor at a place of an output, or the first for None; None if there is none.

    Example:
        >>> import torch
        >>> part_at((None, {"map": torch.tensor(1.0)}), (1, "map"))
        tensor(1.)
    """
    return next((tensor for at, tensor in parts_of(output) if path is None or at == path), None)


def with_part(output: Any, part: Tensor, tensor: Tensor) -> Any:
    """Return an output in which one of its tensors is replaced, wherever it occurs. The output itself stays as it is.

    Example:
        >>> import torch
        >>> one, two = torch.tensor(1), torch.tensor(2)
        >>> with_part({"last": one, "all": (two, one)}, one, two)
        {'last': tensor(2), 'all': (tensor(2), tensor(2))}
    """
    return _replaced(output, part, tensor, _DEPTH)


def _tensors(value: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif len(path) < _DEPTH:
        for key, item in _items(value):
            yield from _tensors(item, (*path, key))


def _replaced(value: Any, part: Tensor, tensor: Tensor, depth: int) -> Any:
    if value is part:
        return tensor
    items = _items(value) if depth and not isinstance(value, Tensor) else []
    changed = {key: new for key, item in items if (new := _replaced(item, part, tensor, depth - 1)) is not item}
    if not changed:
        return value
    if isinstance(value, (tuple, list)):
        new = [changed.get(index, item) for index, item in enumerate(value)]
        return type(value)(*new) if hasattr(value, "_fields") else type(value)(new)
    value = copy.copy(value)
    for key, item in changed.items():
        if isinstance(value, Mapping):
            value[key] = item  # type: ignore[index]
        else:
            object.__setattr__(value, str(key), item)
    return value


def _items(value: Any) -> list[tuple[Hashable, Any]]:
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, (tuple, list)):
        return list(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(item.name, getattr(value, item.name)) for item in dataclasses.fields(value)]
    # Objects that hold the outputs as attributes; a module holds its weights.
    plain = not isinstance(value, (type, nn.Module)) and not callable(value)
    return list(vars(value).items()) if plain and hasattr(value, "__dict__") else []
