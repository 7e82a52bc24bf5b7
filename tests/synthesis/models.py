"""Small models of every kind that the synthesis techniques must support."""

from __future__ import annotations

from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn

from vis_callbacks.data.normalization import Normalization

HALF = Normalization((0.5,), (0.5,))


def in_range(images: Tensor) -> bool:
    return bool(torch.isfinite(images).all() and images.min() >= 0 and images.max() <= 1)


class ConvNet(nn.Module):
    """A small network with BatchNorm and functional activations, for any image size."""

    def __init__(self, channels: int = 3, classes: int = 5) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 16, 3, padding=1, stride=2), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, classes)
        # Logits with the spread of a trained network's.
        self.head.weight.data *= 30

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.bn1(self.conv1(images)))
        features = torch.relu(self.bn2(self.conv2(features)))
        return self.head(features.mean(dim=(2, 3)))


def _transformer() -> nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5
    )


def _without_batchnorm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


def _fully_connected() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 5))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int], str]] = {
    "colour": (ConvNet, (3, 32, 32), "conv2"),
    "grayscale": (lambda: ConvNet(1), (1, 28, 28), "conv2"),
    "8x8": (lambda: ConvNet(1), (1, 8, 8), "conv2"),
    "non-square": (ConvNet, (3, 20, 34), "conv2"),
    "transformer": (_transformer, (3, 32, 32), "blocks.1"),
    "no BatchNorm": (_without_batchnorm, (3, 16, 16), "2"),
    "fully connected": (_fully_connected, (1, 8, 8), "1"),
}
