"""What takes passes: a fault is tried on all images, anything else on a few."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vis_callbacks.diagnostics.passes import answers, repair_facts


class Upside(nn.Module):
    """Tells in which quarter of an image that stands on its head the bright spot is, and counts images."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return self.scale * F.adaptive_avg_pool2d(images.flip(2), 2).flatten(1)


def test_only_a_way_that_mends_is_tried_on_all_images() -> None:
    # Sorted by class, as images from folders are.
    labels = torch.arange(160) // 40
    images = torch.zeros(160, 1, 16, 16)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 8 * (label // 2) : 8 * (label // 2) + 8, 8 * (label % 2) : 8 * (label % 2) + 8] = 1
    model = Upside()
    plain = answers(model, images)
    model.seen = 0
    found = {one.name: one for one in repair_facts(model, images, labels, plain)}
    upside = found["turned upside down"]
    assert (upside.better, upside.worse, upside.tried) == (160, 0, 160)
    mirrored = found["mirrored left to right"]
    assert mirrored.better == 0
    assert mirrored.tried < 60
    assert model.seen == sum(one.tried for one in found.values()) < 8 * 160
