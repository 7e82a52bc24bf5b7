"""What the labels in a batch look like."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from vis_callbacks.model.nested import tensors_in

LabelKind = Literal["numbers", "rows", "values"]


@dataclass(frozen=True)
class Labels:
    """What the labels of a batch look like.

    Attributes:
        kind: ``"numbers"`` of classes ``(N,)``, ``"rows"`` of zeros and ones ``(N, K)``, or other ``"values"``.
        least: Number of classes that there are at least.
        width: Width K of rows and values.
        several: Whether a row has several ones, or none.
    """

    kind: LabelKind
    least: int
    width: int
    several: bool = False

    @classmethod
    def of(cls, tensor: Tensor) -> "Labels":
        """Describe labels ``(N,)`` or ``(N, K)``.

        Example:
            >>> Labels.of(torch.tensor([4, 0]))
            Labels(kind='numbers', least=5, width=1, several=False)
        """
        column = tensor.ndim == 1 or tensor.shape[1] == 1
        width = 1 if column else tensor.shape[1]
        if column and not tensor.is_floating_point() and tensor.dtype != torch.bool:
            return cls("numbers", int(tensor.max()) + 1, 1)
        tensor = tensor.float()
        zero_one = (tensor == 0) | (tensor == 1)
        if column:
            return cls("numbers", 2, 1) if bool(zero_one.all()) else cls("values", 0, 1)
        # Some data sets mark what is uncertain by -1 or NaN.
        binary = bool((zero_one | (tensor == -1) | tensor.isnan()).all())
        # One-hot rows, and those that mixup blends, sum to one.
        blended = bool((tensor >= 0).all()) and bool(((tensor.sum(dim=1) - 1).abs() < 1e-3).all())
        return cls("rows", width, width, several=not blended) if binary or blended else cls("values", 0, width)


def together(first: Sequence[Labels], second: Sequence[Labels]) -> tuple[Labels, ...]:
    """Return the labels of several batches: what is alike in all of them is described once.

    Example:
        >>> together([Labels.of(torch.tensor([0, 1]))], [Labels.of(torch.tensor([4, 0]))])
        (Labels(kind='numbers', least=5, width=1, several=False),)
    """
    alike = [(one.kind, one.width) for one in first] == [(one.kind, one.width) for one in second]
    if not alike:
        return (*first, *second)
    return tuple(
        replace(one, least=max(one.least, other.least), several=one.several or other.several)
        for one, other in zip(first, second, strict=True)
    )


def labels_in(batch: Any) -> tuple[Labels, ...]:
    """Describe everything in a batch that may be its labels.

    Example:
        >>> [one.kind for one in labels_in((torch.zeros(2, 3, 8, 8), torch.tensor([4, 0]), torch.rand(2)))]
        ['numbers', 'values']
    """
    tensors = list(tensors_in(batch))
    count = next((len(tensor) for tensor in tensors if tensor.ndim == 4), None)
    return tuple(Labels.of(tensor) for tensor in tensors if tensor.ndim in (1, 2) and len(tensor) == count)
