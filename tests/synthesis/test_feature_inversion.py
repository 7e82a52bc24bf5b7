from __future__ import annotations

import torch
from torch import nn

from vis_callbacks.synthesis.feature_inversion import feature_inversion


def psnr(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float(-10 * (found - wanted).square().mean().log10())


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
