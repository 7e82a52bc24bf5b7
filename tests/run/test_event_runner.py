from __future__ import annotations

import pytest
import torch

from vis_callbacks import Panel, Tile
from vis_callbacks.run.event_runner import logged_numbers


def panels(count: int, **numbers: float) -> list[Panel]:
    tile = Tile(torch.zeros(1, 2, 2))
    return [Panel(str(at), tile, scalars={name: value + at for name, value in numbers.items()}) for at in range(count)]


def test_a_handful_of_numbers_is_logged_beside_each_picture() -> None:
    assert logged_numbers("Filters", panels(2, dead=1, alike=5)) == [
        {"Filters/0/dead": 1, "Filters/0/alike": 5},
        {"Filters/1/dead": 2, "Filters/1/alike": 6},
    ]
    assert logged_numbers("Saliency", panels(3)) == [{}, {}, {}]
    assert logged_numbers("Saliency", []) == []


def test_of_many_numbers_the_means_are_logged_once() -> None:
    *others, last = logged_numbers("ClassAppearance", panels(10, logit=0, trust=0.5))
    assert others == [{}] * 9
    assert last == {"ClassAppearance/mean/logit": pytest.approx(4.5), "ClassAppearance/mean/trust": pytest.approx(5)}


def test_numbers_of_many_names_are_a_handful_too() -> None:
    (numbers,) = logged_numbers("FeatureInversion", panels(1, **{f"layer{at}": at for at in range(20)}))
    assert list(numbers) == [f"FeatureInversion/mean/layer{at}" for at in range(6)]
