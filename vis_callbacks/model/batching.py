"""Run many forward and backward passes in chunks of bounded memory, halved when memory runs out."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from vis_callbacks.errors import ConfigurationError
from vis_callbacks.model.attention import UNREAD, AttentionReads
from vis_callbacks.model.classifier import Targets, logits_of, resolve_targets, target_scores
from vis_callbacks.model.inputs import check_images, fixed_targets
from vis_callbacks.model.layout import Layout
from vis_callbacks.model.lean_graph import LeanGraph
from vis_callbacks.model.trace import Trace, joined, trace

R = TypeVar("R")

CPU_PIXELS = 8 * 224 * 224
"""Pixels (images x height x width) of one chunk on the CPU: larger chunks leave its caches and are slower."""

ACCELERATOR_PIXELS = 32 * 224 * 224
"""The same on other devices, which larger chunks keep busy."""

GRAPH_PIXELS = 2 * 224 * 224 - 1
"""Pixels (images x height x width) whose graph is held at a time: a graph of tens of MB.

This allows one image of 224x224, or many small ones, which would be far slower one by one.
"""

_SMALL_PIXELS = 224 * 224
"""Pixels (images x height x width) below which a graph is small."""

_GRAPH_BYTES = 4096
"""Bytes of a graph per pixel, generous enough for large models."""

_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "alloc_failed")


def in_chunks(
    work: Callable[[Tensor], R],
    items: int,
    *,
    pixels: int,
    device: torch.device | None = None,
    chunk_size: int | None = None,
) -> Iterator[tuple[Tensor, R]]:
    """Call a function for the items 0, 1, ... in chunks.

    When memory runs out the chunk size is halved, down to one item, and stays so for the remaining chunks.

    Args:
        work: From the indices of a chunk's items, ``(n,)`` long on the CPU, to its result.
        items: Number of items.
        pixels: Height x width of the image that the model sees per item.
        device: Device of the model; None for the CPU.
        chunk_size: Items per chunk; None for as many as `CPU_PIXELS` or `ACCELERATOR_PIXELS` allow.

    Yields:
        The indices of each chunk's items, and its result.

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
            # Try again outside of this handler: the error holds the frames, and so the tensors, of the failed chunk.
            size = len(chunk) // 2
            continue
        yield chunk, result
        start += len(chunk)


def in_small_chunks(
    work: Callable[[Tensor], R],
    items: int,
    *,
    pixels: int,
    device: torch.device,
    fitting: int = 0,
    chunk_size: int | None = None,
) -> Iterator[tuple[Tensor, R]]:
    """Call a function that runs forward and backward in small chunks, to keep peak memory low.

    Like `in_chunks`, but large images run one by one, inside `LeanGraph`, unless more are known to fit.

    Args:
        work: From the indices of a chunk's items to its result.
        items: Number of items.
        pixels: Height x width of the image that the model sees per item.
        device: Device of the model.
        fitting: Pixels (images x height x width) whose graph is known to fit, such as those of a training batch.
        chunk_size: Items per chunk; None: by the other arguments.

    Yields:
        The indices of each chunk's items, and its result.

    Example:
        >>> [count for _, count in in_small_chunks(len, 8, pixels=112 * 112, device=torch.device("cpu"))]
        [7, 1]
    """
    # Lean graphs are a little slower, which does not pay off where graphs are small or fit anyway.
    small = items * pixels < max(_SMALL_PIXELS, fitting + 1)

    def lean(chunk: Tensor) -> R:
        with LeanGraph():
            return work(chunk)

    size = chunk_size or max(small_chunk_size(pixels, device), fitting // pixels)
    return in_chunks(work if small else lean, items, pixels=pixels, chunk_size=size)


def small_chunk_size(pixels: int, device: torch.device) -> int:
    """Return how many items `in_small_chunks` puts in a chunk.

    On a CUDA device their graphs may fill the memory that torch has reserved and does not use at the moment.

    Args:
        pixels: Height x width of the image that the model sees per item.
        device: Device of the model.

    Example:
        >>> [small_chunk_size(side * side, torch.device("cpu")) for side in (32, 112, 224, 512)]
        [97, 7, 1, 1]
    """
    bound = GRAPH_PIXELS
    if device.type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        bound = max(bound, min(idle // _GRAPH_BYTES, ACCELERATOR_PIXELS))
    return max(1, bound // pixels)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error means that the memory of the CPU or of any other device ran out."""
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error).lower() for sign in _OUT_OF_MEMORY)


def trace_in_chunks(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    *,
    input_gradient: bool = False,
    activations: Sequence[str | Layout] = (),
    gradients: Sequence[str | Layout] = (),
    chunk_size: int | None = None,
    attention: AttentionReads = UNREAD,
) -> Trace:
    """Run `trace` on as many images at a time as `in_chunks` takes, and join the results; it takes the same arguments.

    Raises:
        LayerError: If a layer is not found, did not run, or its output holds no tensor.
        ConfigurationError: If the images are not ``(N, C, H, W)`` or the targets do not fit.
    """
    check_images(images)
    numbers = fixed_targets(model, images, targets) if isinstance(targets, (Tensor, Sequence)) else None
    run = partial(
        trace,
        model,
        input_gradient=input_gradient,
        activations=activations,
        gradients=gradients,
        attention=attention,
    )

    def work(items: Tensor) -> Trace:
        if len(items) == len(images):
            return run(images, targets)
        return run(images[items], targets if numbers is None else numbers[items])

    # Without images there is nothing to cut up.
    pixels = pixels_of(images) or 1
    parts = [
        part for _, part in in_chunks(work, len(images), pixels=pixels, device=images.device, chunk_size=chunk_size)
    ]
    return joined(parts) if parts else run(images, targets)


def scores_of(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Return the target logits ``(N,)`` of images, from one forward without a graph."""
    with torch.no_grad():
        logits = logits_of(model, images)
        return target_scores(logits, resolve_targets(targets, logits))


def gradients_of(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Return the gradients ``(N, C, H, W)`` of the target logits at images, from one forward and one backward."""
    return trace(model, images, targets, input_gradient=True).gradient_at_images


def add_by_row(total: Tensor, rows: Tensor, values: Tensor) -> None:
    """Add values ``(n, ...)`` to the rows of a total ``(N, ...)`` in place, always in the same order."""
    for row in sorted(set(rows.tolist())):
        total[row] += values[rows == row].sum(dim=0)


def pixels_of(images: Tensor) -> int:
    """Return height x width of images ``(N, C, H, W)``."""
    return images.shape[-2] * images.shape[-1]
