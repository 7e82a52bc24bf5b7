"""In which order labels come: against what is counted by hand, and orders of samplers and streams."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vis_callbacks.diagnostics.label_order import arrivals, order_facts


def shuffled(labels: Tensor, seed: int = 0) -> Tensor:
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]


def test_numbers_are_those_that_are_counted_by_hand() -> None:
    found = order_facts(torch.tensor([0, 0, 1, 1, 0, 0, 1, 1]), batch=2)
    assert found is not None
    assert (found.images, found.batches, found.present, found.runs) == (8, 4, 2, 4)
    assert found.random_runs == pytest.approx(1 + 7 / 2)
    # Batches one apart have no class in common, those two apart are the same.
    assert (found.share, found.random_share, found.kept) == (1.0, 0.5, 1.0)


def test_labels_that_are_unknown_are_left_out() -> None:
    assert order_facts(torch.tensor([-1, -1]), batch=2) is None
    found = order_facts(torch.tensor([3, -1, 3]), batch=2)
    assert found is not None
    assert (found.images, found.present, found.runs) == (2, 1, 1)


@pytest.mark.parametrize("batch", [1, 16, 64])
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_random_order_has_nothing_in_common(classes: int, batch: int) -> None:
    labels = torch.arange(2000) % classes
    for seed in range(20):
        found = order_facts(shuffled(labels, seed), batch)
        assert found is not None
        assert found.kept < 0.1
        assert abs(found.runs / found.random_runs - 1) < 0.1


def test_workers_that_take_turns_with_sorted_parts_are_seen() -> None:
    parts = torch.arange(10).repeat_interleave(160).view(5, 10, 32)
    found = order_facts(parts.transpose(0, 1).flatten(), batch=32)
    assert found is not None
    assert found.kept > 0.5


def test_samplers_of_some_classes_a_batch_are_not_sorted() -> None:
    batches = [torch.randperm(50, generator=torch.Generator().manual_seed(seed))[:8] for seed in range(100)]
    found = order_facts(torch.cat(batches).repeat_interleave(4), batch=32)
    assert found is not None
    assert found.kept < 0.1
    assert found.runs > 4 * found.present


def test_arrivals_are_shares_of_each_part() -> None:
    found = arrivals(torch.arange(4).repeat_interleave(100), classes=5)
    assert found.shape == (5, 58)
    torch.testing.assert_close(found.sum(dim=0), torch.ones(58))
    assert found[0, 0] == found[3, -1] == 1
    assert not found[4].any()
