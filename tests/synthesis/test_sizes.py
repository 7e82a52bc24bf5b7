"""Where a model states the size of its images, none need be given; layers neither."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from vis_callbacks import ConfigurationError
from vis_callbacks.functional import class_appearance, feature_appearance, feature_inversion
from vis_callbacks.model import layers_across_depth


def test_images_have_the_size_that_a_timm_model_states() -> None:
    model = timm.create_model("test_resnet")
    size = model.pretrained_cfg["input_size"]
    assert class_appearance(model, [1], steps=2, progress=False).shape == (1, *size)
    assert feature_appearance(model, "layer2", [0, 3], steps=2, progress=False).shape == (2, *size)


def test_another_model_says_that_a_size_is_missing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ConfigurationError, match="Sequential states no input size: give image_size="):
        class_appearance(model, [1], steps=2)


def test_layers_over_the_depth_are_inverted() -> None:
    model, images = timm.create_model("test_resnet"), torch.rand(1, 3, 64, 64)
    found = feature_inversion(model, images, steps=2, progress=False)
    assert list(found) == layers_across_depth(model, images, len(found))
    assert len(found) > 1
