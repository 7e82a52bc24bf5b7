from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vis_callbacks.functional as V
from vis_callbacks.errors import ConfigurationError
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


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 7, 4), nn.ReLU(), nn.Conv2d(4, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()  # fmt: skip


@pytest.mark.parametrize(
    "targets", [None, 3, [n % 5 for n in range(10)], torch.arange(10) % 5, torch.tensor([[1, 2]] * 10)]
)
def test_functions_of_many_large_images_work_in_chunks(targets: Any) -> None:
    model, images = net(), torch.rand(10, 3, 224, 224)
    seen: list[int] = []
    model[0].register_forward_hook(lambda _, inputs, output: seen.append(len(output)) if output.requires_grad else None)
    expected = [
        V.saliency(
            model,
            images[index : index + 1],
            targets[index : index + 1] if isinstance(targets, (list, Tensor)) else targets,
        )
        for index in range(10)
    ]
    seen.clear()
    torch.testing.assert_close(V.saliency(model, images, targets), torch.cat(expected))
    assert seen == [8, 2]
    maps = V.grad_cam(model, images, targets, layer="3")
    torch.testing.assert_close(
        maps[9:],
        V.grad_cam(model, images[9:], targets[9:] if isinstance(targets, (list, Tensor)) else targets, layer="3"),
    )


def test_when_memory_runs_out_a_function_works_in_smaller_chunks() -> None:
    model, images = net(), torch.rand(8, 3, 32, 32)
    seen: list[int] = []

    def scarce(_: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        seen.append(len(output))
        if len(output) > 2:
            raise torch.OutOfMemoryError("out of memory")

    expected = V.saliency(model, images, 1)
    model[0].register_forward_hook(scarce)
    torch.testing.assert_close(V.saliency(model, images, 1), expected)
    assert seen == [8, 4, 2, 2, 2, 2]


def test_targets_that_do_not_fit_are_named_with_all_images() -> None:
    with pytest.raises(ConfigurationError, match=r"targets of shape \(9,\): expected \(10,\), one per image"):
        V.saliency(net(), torch.rand(10, 3, 224, 224), [1] * 9)
