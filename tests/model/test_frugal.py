"""Which graphs are lean: those of an image of 224x224 and more, be it alone or one of several."""

from __future__ import annotations

import pytest
import torch

from vis_callbacks.model.frugal import in_small_chunks


@pytest.mark.parametrize(
    ("items", "side", "lean", "calls"),
    [(1, 224, True, 1), (4, 224, True, 4), (10, 96, True, 1), (4, 96, False, 1), (100, 8, False, 1)],
)
def test_large_graphs_are_lean(items: int, side: int, lean: bool, calls: int) -> None:
    def graph(_: torch.Tensor) -> str:
        node = torch.relu(torch.ones(1, requires_grad=True)).grad_fn
        assert node is not None
        return type(node).__name__

    plain = graph(torch.empty(0))
    found = [name for _, name in in_small_chunks(graph, items, pixels=side * side, device=torch.device("cpu"))]
    assert len(found) == calls
    assert all((name != plain) == lean for name in found)
