from __future__ import annotations

import pytest
import torch
from torch import nn

from vis_callbacks.errors import ConfigurationError, LayerError
from vis_callbacks.synthesis.feature_appearance import feature_appearance


def test_feature_appearance_excites_its_channels(model):
    found: list[torch.Tensor] = []
    model.bn2.register_forward_hook(lambda _, __, output: found.append(output.mean(dim=(2, 3))))
    ends = []
    for steps in (0, 20):
        images = feature_appearance(model, "bn2", [3, 9], image_size=24, steps=steps)
        with torch.no_grad():
            model.eval()(images)
        ends.append(found[-1])
    before, after = ends
    assert after[0, 3] > before[0, 3]
    assert after[1, 9] > before[1, 9]


def test_only_the_receptive_field_of_a_unit_changes():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = feature_appearance(model, "0", 1, image_size=12, position=(2, 3), recipe="simonyan", steps=5)
    changed = images[0].amax(dim=0) > 0
    assert changed[1:4, 2:5].any()
    changed[1:4, 2:5] = False
    assert not changed.any()


def test_dead_units_get_a_gradient():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.constant_(model[0].bias, -1.0)
    nn.init.constant_(model[0].weight, 0.1)
    images = feature_appearance(model, "1", 0, image_size=12, recipe="simonyan", steps=30)
    with torch.no_grad():
        assert model[:2](torch.zeros(1, 3, 12, 12)).max() == 0
        assert model[:2](images).max() > 0.5


def test_diversity_makes_images_of_one_channel_differ(model):
    same, diverse = (
        feature_appearance(model, "bn2", [3, 3], image_size=24, steps=20, diversity=weight) for weight in (0.0, 20.0)
    )

    def likeness(images: torch.Tensor) -> torch.Tensor:
        model.eval()
        with torch.no_grad():
            maps = model.bn2(model.conv2(torch.relu(model.bn1(model.conv1(images))))).flatten(2)
        grams = nn.functional.normalize((maps @ maps.mT).flatten(1), dim=1)
        return grams[0] @ grams[1]

    assert likeness(diverse) < likeness(same)


def test_the_forward_pass_stops_at_the_layer(model):
    ran: list[str] = []
    model.conv2.register_forward_hook(lambda *_: ran.append("conv2"))
    feature_appearance(model, "conv2", 0, image_size=16, steps=2)  # probes the layers too
    ran.clear()
    feature_appearance(model, "conv2", 0, image_size=16, steps=2)
    with_two_steps = len(ran)
    ran.clear()
    model.head.register_forward_hook(lambda *_: ran.append("head"))
    feature_appearance(model, "conv2", 0, image_size=16, steps=12)
    assert ran.count("conv2") == with_two_steps + 10
    assert ran.count("head") < 10


def test_unknown_layers_and_channels_are_named(model):
    with pytest.raises(LayerError, match="no layer 'conv3'"):
        feature_appearance(model, "conv3", 0, image_size=16)
    with pytest.raises(ConfigurationError, match="channel 99 of layer 'conv2': expected 0 to 15"):
        feature_appearance(model, "conv2", 99, image_size=16, steps=1)
