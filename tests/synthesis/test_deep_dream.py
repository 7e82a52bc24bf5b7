from __future__ import annotations

import pytest
import torch

from vis_callbacks.errors import ConfigurationError
from vis_callbacks.synthesis.deep_dream import deep_dream


def test_dream_of_no_steps_is_the_image(model):
    images = torch.rand(2, 3, 23, 31)
    assert torch.equal(deep_dream(model, images, steps=0), images)


def test_dream_makes_the_layer_more_active(model):
    images = torch.rand(1, 3, 33, 47)
    dream = deep_dream(model, images, "conv2", octaves=3, steps=4)
    model.eval()
    with torch.no_grad():
        before, after = (model.conv2(torch.relu(model.bn1(model.conv1(x)))).square().mean() for x in (images, dream))
    assert dream.shape == images.shape
    assert after > before


def test_unknown_channels_are_named(model):
    with pytest.raises(ConfigurationError, match="channel 99"):
        deep_dream(model, torch.rand(1, 3, 16, 16), "conv2", 99, steps=1)
