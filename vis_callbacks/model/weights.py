"""The weights of a moment, kept and put back in place for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain

from torch import Tensor, nn


def copied_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all parameters and buffers on the CPU, by name."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in _tensors(model)}


@contextmanager
def swapped_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Give a model other weights for a while.

    The model's own tensors keep their identity and their storage is never written to, so they come back bit for bit.

    Example:
        >>> import torch
        >>> model = nn.Linear(1, 1)
        >>> with swapped_weights(model, {name: torch.zeros_like(t) for name, t in model.state_dict().items()}):
        ...     model(torch.ones(1, 1)).item()
        0.0
    """
    own = {name: (tensor, tensor.data) for name, tensor in _tensors(model)}
    try:
        for name, (tensor, data) in own.items():
            if name in weights:
                tensor.data = weights[name].to(data.device)
        yield
    finally:
        for tensor, data in own.values():
            tensor.data = data


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(model.named_parameters(), model.named_buffers())
