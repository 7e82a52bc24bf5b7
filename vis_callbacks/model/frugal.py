"""Work that builds graphs beside a training: it hardly raises the training's peak memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from vis_callbacks.model.batching import ACCELERATOR_PIXELS, in_chunks
from vis_callbacks.model.lean_graph import LeanGraph

R = TypeVar("R")

FRUGAL_PIXELS = 2 * 224 * 224 - 1
"""Pixels (images x height x width) whose graph is held at a time; it takes what a few such images take without one.

One image of 224x224, whose graph takes tens of MB, or many small ones, which one by one would take far longer.
"""

_SMALL_PIXELS = 224 * 224
"""Pixels (images x height x width) below which a graph is small."""

_GRAPH_BYTES = 4096
"""Bytes of a graph for each pixel, with room for large models."""


def in_small_chunks(
    work: Callable[[Tensor], R], items: int, *, pixels: int, device: torch.device
) -> Iterator[tuple[Tensor, R]]:
    """Do work on items as `in_chunks` does; large images one after the other, with leaner graphs.

    Args:
        work: From the numbers of a chunk's items to its result.
        items: How many there are.
        pixels: Of one item, as the model sees it.
        device: Where the model is.

    Yields:
        The numbers of each chunk's items, and its result.

    Example:
        >>> [count for _, count in in_small_chunks(len, 8, pixels=112 * 112, device=torch.device("cpu"))]
        [7, 1]
    """
    # Leaner graphs take a little longer, which is not worth it where they are small anyway.
    small = items * pixels < _SMALL_PIXELS

    def lean(chunk: Tensor) -> R:
        with LeanGraph():
            return work(chunk)

    return in_chunks(work if small else lean, items, pixels=pixels, chunk_size=small_chunk_size(pixels, device))


def small_chunk_size(pixels: int, device: torch.device) -> int:
    """Return how many items to work on at a time.

    On a CUDA device these may use what the training holds already and does not need at the moment.

    Args:
        pixels: Of one item, as the model sees it.
        device: Where the model is.

    Example:
        >>> [small_chunk_size(side * side, torch.device("cpu")) for side in (32, 112, 224, 512)]
        [97, 7, 1, 1]
    """
    bound = FRUGAL_PIXELS
    if device.type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        bound = max(bound, min(idle // _GRAPH_BYTES, ACCELERATOR_PIXELS))
    return max(1, bound // pixels)
