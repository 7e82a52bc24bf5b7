from __future__ import annotations

import pytest
import torch
from torch import nn

from vis_callbacks.data.normalization import Normalization
from vis_callbacks.errors import ConfigurationError, LayerError
from vis_callbacks.synthesis.deep_dream import deep_dream
from vis_callbacks.synthesis.feature_appearance import feature_appearance
from vis_callbacks.synthesis.feature_inversion import feature_inversion
from vis_callbacks.synthesis.fool import fool
from vis_callbacks.synthesis.optimization.robustness import robustness

HALF = Normalization((0.5,), (0.5,))


def in_range(images: torch.Tensor) -> bool:
    return bool(torch.isfinite(images).all() and images.min() >= 0 and images.max() <= 1)


def psnr(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float(-10 * (found - wanted).square().mean().log10())


def test_every_technique_works_with_every_kind_of_model(case):
    model, shape, layer = case
    images = torch.rand(2, *shape) * 2 - 1
    appearance = feature_appearance(model, layer, [0, 3], image_size=shape, steps=2, normalization=HALF)
    dream = deep_dream(model, images, layer, octaves=2, steps=1, normalization=HALF)
    inverse = feature_inversion(model, images, [layer], steps=2, normalization=HALF)[layer]
    fooled = fool(model, images, 1, steps=2, linf=0.05, normalization=HALF)
    for made in (appearance, dream, inverse, HALF.to_pixels(fooled.images)):
        assert made.shape == images.shape
        assert in_range(made)
    assert deep_dream(model, images, octaves=1, steps=1, normalization=HALF).shape == images.shape
    assert ((robustness(model, appearance, 1).score >= 0) & (robustness(model, appearance, 1).score <= 1)).all()


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
    with pytest.raises(ConfigurationError, match="channel 99"):
        deep_dream(model, torch.rand(1, 3, 16, 16), "conv2", 99, steps=1)


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


def test_an_identity_layer_gives_the_image_back():
    model = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(3 * 24 * 24, 5))
    images = torch.rand(1, 3, 3, 3).repeat_interleave(8, 2).repeat_interleave(8, 3)
    assert psnr(feature_inversion(model, images, "0")["0"], images) > 35


def test_shallow_layers_come_back_better_than_deep_ones():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(12, 5)),
    )
    images = torch.rand(1, 3, 3, 3).repeat_interleave(8, 2).repeat_interleave(8, 3)
    found = feature_inversion(model, images, ["0", "3", "8"], steps=100)
    assert psnr(found["0"], images) > psnr(found["3"], images) + 1 > psnr(found["8"], images) + 2


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


def test_robustness_of_a_class_that_every_image_has_is_high():
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    nn.init.constant_(model[2].weight, 0)
    nn.init.constant_(model[2].bias[0:1], 10.0)
    seen = robustness(model, torch.rand(2, 3, 16, 16), 0)
    assert (seen.score > 0.99).all()
    assert seen.logits.shape == seen.probabilities.shape == (2,)
