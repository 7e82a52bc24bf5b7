"""Where the positions of maps are in the image: followed through convolutions, poolings, padding and resizing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

Centres: TypeAlias = tuple[float, float]
"""Along one side: the pixel at the centre of what the first position sees, and the pixels between two positions."""


class GeometryWatch(TorchFunctionMode):
    """While active, follows the positions of maps ``(N, C, h, w)`` through the functions of torch that a model calls.

    Args:
        images: The images that go into the model.

    Attributes:
        convolves: Whether there was a convolution.

    Example:
        >>> images = torch.rand(1, 1, 28, 28)
        >>> with GeometryWatch(images) as watch:
        ...     output = torch.nn.Conv2d(1, 4, 5, stride=2)(images)
        >>> watch.centres(output)
        ((2.0, 2.0), (2.0, 2.0))
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.convolves = False
        self._known: Any = WeakTensorKeyDictionary({images: ((0.0, 1.0), (0.0, 1.0))})

    def centres(self, tensor: Tensor) -> tuple[Centres, Centres] | None:
        """Return the centres along height and width; None where they are not known."""
        found: tuple[Centres, Centres] | None = self._known.get(tensor)
        return found

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function of torch."""
        output = func(*args, **(kwargs or {}))
        self.convolves = self.convolves or func in _CONVOLUTIONS
        if isinstance(output, Tensor) and output.ndim == 4:
            found = self._followed(func, output, args, kwargs or {})
            if found is not None:
                self._known[output] = found
        return output

    def _followed(
        self, func: Any, output: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Centres, Centres] | None:
        given = [
            item for arg in (*args, *kwargs.values()) for item in (arg if isinstance(arg, (tuple, list)) else [arg])
        ]
        known = [(item, self._known[item]) for item in given if isinstance(item, Tensor) and item in self._known]
        if not known:
            return None
        source, (down, across) = known[0]
        moves = _MOVES.get(func)
        if moves is None:
            # Whatever keeps the size of a map leaves its positions where they are.
            same = (centres for item, centres in known if item.shape[2:] == output.shape[2:])
            return next(same, None)
        try:
            (start_down, step_down), (start_across, step_across) = moves(source, output, *args[1:], **kwargs)
        except TypeError:
            return None
        return (
            (down[0] + start_down * down[1], down[1] * step_down),
            (across[0] + start_across * across[1], across[1] * step_across),
        )


def unevenly(
    centres: tuple[Centres, Centres] | None, size: tuple[int, int], image_size: tuple[int, int]
) -> tuple[Centres, Centres] | None:
    """Return centres, if the outermost lie half a position or more from those of a map that spreads evenly; else None.

    Those of convolutions with padding always lie nearer than that.

    Example:
        >>> unevenly(((7.5, 4.0), (7.5, 4.0)), (4, 4), (28, 28))
        ((7.5, 4.0), (7.5, 4.0))
        >>> unevenly(((0.0, 32.0), (0.0, 32.0)), (7, 7), (224, 224)) is None
        True
    """
    for (first, step), places, length in zip(centres or (), size, image_size, strict=False):
        evenly = length / places
        ends = ((first + place * step, (place + 0.5) * evenly - 0.5) for place in (0, places - 1))
        if sum(abs(centre - even) for centre, even in ends) >= step:
            return centres
    return None


def _pair(value: Any) -> tuple[Any, Any]:
    pair = tuple(value) if isinstance(value, Sequence) else (value, value)
    return pair[0], pair[-1]


def _window(size: Any, stride: Any, padding: Any, dilation: Any) -> list[Centres]:
    sides = zip(_pair(size), _pair(stride), _pair(padding), _pair(dilation), strict=True)
    return [(around * (kernel - 1) / 2 - before, step) for kernel, step, before, around in sides]


def _convolution(
    _: Tensor,
    __: Tensor,
    weight: Tensor,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
    **___: Any,
) -> list[Centres]:
    del bias, groups
    size = weight.shape[2:]
    if isinstance(padding, str):
        sides = zip(size, _pair(dilation), strict=True)
        padding = [around * (kernel - 1) // 2 if padding == "same" else 0 for kernel, around in sides]
    return _window(tuple(size), stride, padding, dilation)


def _max_pool(
    _: Tensor,
    __: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    *___: Any,
    **____: Any,
) -> list[Centres]:
    return _window(kernel_size, stride or kernel_size, padding, dilation)


def _avg_pool(
    _: Tensor, __: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, *___: Any, **____: Any
) -> list[Centres]:
    return _window(kernel_size, stride or kernel_size, padding, 1)


def _padded(_: Tensor, __: Tensor, pad: Sequence[int], *___: Any, **____: Any) -> list[Centres]:
    left, top = (*pad, 0, 0, 0)[0:3:2]
    return [(-top, 1), (-left, 1)]


def _resized(source: Tensor, output: Tensor, *_: Any, **__: Any) -> list[Centres]:
    ratios = [before / after for before, after in zip(source.shape[2:], output.shape[2:], strict=True)]
    return [((ratio - 1) / 2, ratio) for ratio in ratios]


_CONVOLUTIONS = frozenset({torch.conv1d, torch.conv2d, torch.conv3d})
_MOVES: dict[Callable[..., Any], Callable[..., list[Centres]]] = {
    torch.conv2d: _convolution,
    F.max_pool2d: _max_pool,
    torch.max_pool2d: _max_pool,
    F.avg_pool2d: _avg_pool,
    F.pad: _padded,
    F.interpolate: _resized,
}
