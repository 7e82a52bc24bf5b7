"""Work of many passes: cut to a memory bound, and cut smaller when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from vis_callbacks.errors import ConfigurationError
from vis_callbacks.model.classifier import logits_of, resolve_targets, target_scores
from vis_callbacks.model.trace import trace

R = TypeVar("R")

CPU_PIXELS = 8 * 224 * 224
"""Pixels (images x height x width) of one chunk on the CPU: larger ones do not stay in its caches and take longer."""

ACCELERATOR_PIXELS = 32 * 224 * 224
"""The same on other devices, which need large chunks to be busy."""

_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "alloc_failed")


def in_chunks(
    work: Callable[[Tensor], R],
    items: int,
    *,
    pixels: int,
    device: torch.device | None = None,
    chunk_size: int | None = None,
) -> Iterator[tuple[Tensor, R]]:
    """Do work on the items 0, 1, ... in chunks.

    When memory runs out the chunk is halved, for the rest of the work too, down to one item.

    Args:
        work: From the numbers of a chunk's items, ``(n,)`` long on the CPU, to its result.
        items: How many there are.
        pixels: Size of one item, in pixels of an image that the model sees.
        device: Where the work is done; None: the CPU.
        chunk_size: Items in a chunk; None: as many as `CPU_PIXELS` or `ACCELERATOR_PIXELS` allow.

    Yields:
        The numbers of each chunk's items, and its result.

    Raises:
        ConfigurationError: If the chunk size is below 1.

    Example:
        >>> [length for _, length in in_chunks(len, 5, pixels=9, chunk_size=2)]
        [2, 2, 1]
    """
    if chunk_size is not None and chunk_size < 1:
        raise ConfigurationError(f"chunk_size {chunk_size}: expected at least 1")
    bound = CPU_PIXELS if device is None or device.type == "cpu" else ACCELERATOR_PIXELS
    size = chunk_size or max(1, bound // pixels)
    start = 0
    while start < items:
        chunk = torch.arange(start, min(start + size, items))
        try:
            result = work(chunk)
        except RuntimeError as error:
            if len(chunk) == 1 or not is_out_of_memory(error):
                raise
            # Tried again outside of this handler: the error holds the frames, and so the tensors, of the failed chunk.
            size = len(chunk) // 2
            continue
        yield chunk, result
        start += len(chunk)


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error says that memory ran out, of any device."""
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error).lower() for sign in _OUT_OF_MEMORY)


def scores_of(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Return the target logits ``(N,)`` of images in one forward, without a graph."""
    with torch.no_grad():
        logits = logits_of(model, images)
        return target_scores(logits, resolve_targets(targets, logits))


def gradients_of(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Return the gradients ``(N, C, H, W)`` of the target logits at images in one forward and one backward."""
    gradient = trace(model, images, targets, input_gradient=True).input_gradient
    assert gradient is not None
    return gradient


def add_by_row(total: Tensor, rows: Tensor, values: Tensor) -> None:
    """Add values ``(n, ...)`` to the rows of a total ``(N, ...)``, in an order that is always the same."""
    for row in sorted(set(rows.tolist())):
        total[row] += values[rows == row].sum(dim=0)


def pixels_of(images: Tensor) -> int:
    """Return height x width."""
    return images.shape[-2] * images.shape[-1]
