from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor

from vis_callbacks.model import batching
from vis_callbacks.model.batching import in_chunks, in_small_chunks


def test_chunks_keep_to_the_bound_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "CPU_PIXELS", 1000)
    assert [len(items) for items, _ in in_chunks(len, 10, pixels=300)] == [3, 3, 3, 1]
    assert [len(items) for items, _ in in_chunks(len, 2, pixels=5000)] == [1, 1]
    monkeypatch.setattr(batching, "ACCELERATOR_PIXELS", 2000)
    assert [len(items) for items, _ in in_chunks(len, 10, pixels=300, device=torch.device("cuda"))] == [6, 4]
    assert [len(items) for items, _ in in_chunks(len, 0, pixels=5000)] == []


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["cuda", "windows", "mps", "linux"],
)
def test_a_chunk_is_halved_until_it_fits_and_stays_small(error: RuntimeError) -> None:
    tried = []

    def work(items: Tensor) -> int:
        tried.append(len(items))
        if len(items) > 2:
            raise error
        return int(items.sum())

    assert sum(total for _, total in in_chunks(work, 12, pixels=1, chunk_size=12)) == sum(range(12))
    assert tried == [12, 6, 3, 1, *[1] * 11]


def test_other_errors_and_memory_for_not_even_one_are_raised() -> None:
    def fail(_: Tensor) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        list(in_chunks(fail, 4, pixels=1))

    def full(_: Tensor) -> None:
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        list(in_chunks(full, 4, pixels=1))


def test_what_the_failed_chunk_held_is_free_before_the_next_is_tried() -> None:
    held: list[weakref.ref[Tensor]] = []

    def work(items: Tensor) -> None:
        assert not any(reference() is not None for reference in held)
        large = torch.ones(len(items))
        held.append(weakref.ref(large))
        if len(items) > 1:
            raise torch.OutOfMemoryError("out of memory")

    list(in_chunks(work, 4, pixels=1, chunk_size=4))


@pytest.mark.parametrize(
    ("items", "side", "lean", "calls"),
    [(1, 224, True, 1), (4, 224, True, 4), (10, 96, True, 1), (4, 96, False, 1), (100, 8, False, 1)],
)
def test_large_graphs_are_lean(items: int, side: int, lean: bool, calls: int) -> None:
    """Those of images of 224x224 or more, and of several smaller ones together."""

    def graph(_: Tensor) -> str:
        node = torch.relu(torch.ones(1, requires_grad=True)).grad_fn
        assert node is not None
        return type(node).__name__

    plain = graph(torch.empty(0))
    found = [name for _, name in in_small_chunks(graph, items, pixels=side * side, device=torch.device("cpu"))]
    assert len(found) == calls
    assert all((name != plain) == lean for name in found)
