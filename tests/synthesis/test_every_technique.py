from __future__ import annotations

import torch

from tests.synthesis.models import HALF, in_range
from vis_callbacks.synthesis.deep_dream import deep_dream
from vis_callbacks.synthesis.feature_appearance import feature_appearance
from vis_callbacks.synthesis.feature_inversion import feature_inversion
from vis_callbacks.synthesis.fool import fool
from vis_callbacks.synthesis.optimization.robustness import robustness


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
