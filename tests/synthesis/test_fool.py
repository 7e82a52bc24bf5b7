from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.synthesis.models import HALF, in_range
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.synthesis.fool import fool


@pytest.mark.parametrize("bound", [{}, {"linf": 8 / 255}, {"l2": 1.0}, {"linf": 0.02, "l2": 0.5}])
def test_fooling_stays_in_range_and_bounds(model, bound):
    pixels = torch.rand(3, 3, 16, 16)
    result = fool(model, HALF.to_model(pixels), [0, 1, 2], normalization=HALF, steps=20, **bound)
    changed = HALF.to_pixels(result.images)
    assert in_range(changed)
    change = (changed - pixels).flatten(1)
    assert torch.allclose(result.distance, change.norm(dim=1), atol=1e-4)
    assert torch.allclose(result.largest, change.abs().amax(dim=1), atol=1e-5)
    assert (result.largest <= bound.get("linf", 1) + 1e-5).all()
    assert (result.distance <= bound.get("l2", 1e9) + 1e-4).all()


def test_fooling_holds_after_saving_as_8_bit():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5))
    pixels = torch.rand(2, 3, 16, 16)
    result = fool(model, HALF.to_model(pixels), [0, 3], normalization=HALF, min_probability=0.6)
    model.eval()
    saved = (HALF.to_pixels(result.images) * 255).round().byte()
    with torch.no_grad():
        found = model(HALF.to_model(saved.float() / 255)).softmax(dim=1)
    assert torch.allclose(found[[0, 1], [0, 3]], result.probabilities, atol=1e-5)
    assert (result.probabilities > 0.6).all()
    assert (result.steps < 500).all()
    assert (result.steps > 0).all()


def test_fooling_refuses_bounds_that_allow_nothing(model):
    with pytest.raises(ConfigurationError, match="linf=0"):
        fool(model, torch.rand(1, 3, 16, 16), 0, linf=0)
