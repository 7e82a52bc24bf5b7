"""Deletion, insertion, rank correlation and the shuffled layer, against closed forms and scipy."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from vis_callbacks.attribution.faithfulness import deletion_and_insertion, rank_correlation, shuffled_output_layer


def test_a_map_of_what_counts_ends_the_score_at_once_and_brings_it_back_at_once() -> None:
    images = torch.rand(2, 3, 32, 32).round() * 2 - 1

    def score(given: Tensor) -> Tensor:
        # The share of the left quarter that is as it was.
        return (given[..., :8] == images[..., :8]).float().mean((1, 2, 3))

    right = torch.zeros(2, 1, 32, 32)
    right[..., :8] = 1.0
    deletion, insertion = deletion_and_insertion(score, images, right, steps=4)
    # 1 at the start, 0 from the first quarter on; trapezoids.
    assert deletion.tolist() == [0.125, 0.125]
    assert insertion.tolist() == [0.875, 0.875]
    wrong, late = deletion_and_insertion(score, images, -right, steps=4)
    assert wrong.tolist() == [0.875, 0.875]
    assert late.tolist() == [0.125, 0.125]


def test_a_map_that_says_nothing_has_equal_areas() -> None:
    images = torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    order = torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    deletion, insertion = deletion_and_insertion(
        lambda given: (given == images).float().mean((1, 2, 3)), images, order, steps=8
    )
    assert torch.allclose(deletion, insertion, atol=0.01)


@pytest.mark.parametrize("rectified", [False, True], ids=["all different", "many zeros"])
def test_rank_correlation_is_that_of_scipy(rectified: bool) -> None:
    one, other = torch.randn(3, 2, 5, 7), torch.randn(3, 2, 5, 7)
    if rectified:
        one, other = (maps.sum(dim=1, keepdim=True).relu() for maps in (one, other))
    expected = [spearmanr(a.sum(0).flatten(), b.sum(0).flatten()).statistic for a, b in zip(one, other, strict=True)]
    assert rank_correlation(one, other).tolist() == pytest.approx(expected, abs=1e-5)
    assert rank_correlation(one, torch.zeros(3, 1, 5, 7)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("fails", [False, True])
def test_the_output_layer_is_put_back_bit_for_bit(fails: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def use() -> None:
        with shuffled_output_layer(model, 3, seed=0) as name:
            assert name == "2"
            weight = model[2].weight
            assert not torch.equal(weight, before["2.weight"])
            assert torch.equal(weight.flatten().sort().values, before["2.weight"].flatten().sort().values)
            assert torch.equal(model[0].weight, before["0.weight"])
            if fails:
                raise RuntimeError("no map")

    if fails:
        with pytest.raises(RuntimeError, match="no map"):
            use()
    else:
        use()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_without_a_layer_of_its_own_weights_nothing_is_shuffled() -> None:
    parametrised = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    for model in (nn.Sequential(nn.Linear(4, 5)), parametrised):
        with shuffled_output_layer(model, 3, seed=0) as name:
            assert name == ""
