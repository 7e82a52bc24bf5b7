from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

SIDE, PATCH, CLASSES = 32, 6, 4


@dataclass(frozen=True)
class Planted:
    """A net that was trained on noise in which a small textured patch says the class, and images it has not seen."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    corners: Tensor
    accuracy: float

    def hit_rate(self, maps: Tensor) -> float:
        """The pointing game: how often the largest value of a map lies in the patch."""
        magnitude = maps.abs().amax(dim=1).flatten(1)
        best = magnitude.argmax(dim=1)
        inside = torch.stack([best // SIDE, best % SIDE], dim=1) - self.corners
        return ((inside >= 0) & (inside < PATCH)).all(dim=1).float().mean().item()


def planted_images(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    images = 0.4 * torch.randn(count, 3, SIDE, SIDE, generator=random)
    labels = torch.randint(CLASSES, (count,), generator=random)
    corners = torch.randint(SIDE - PATCH + 1, (count, 2), generator=random)
    rows, columns = torch.meshgrid(torch.arange(PATCH), torch.arange(PATCH), indexing="ij")
    stripes = torch.stack([rows // 2 % 2, columns // 2 % 2, (rows // 2 + columns // 2) % 2, (rows + columns) // 2 % 2])
    for image, label, (top, left) in zip(images, labels, corners.tolist(), strict=True):
        image[:, top : top + PATCH, left : left + PATCH] += 2.0 * stripes[label] - 1.0
    return images, labels, corners


def planted_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, CLASSES),
    )


@pytest.fixture(scope="session")
def planted() -> Planted:
    model = planted_net()
    images, labels, _ = planted_images(2048, seed=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(400):
        batch = torch.arange(step * 64, step * 64 + 64) % len(images)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
    images, labels, corners = planted_images(256, seed=2)
    with torch.no_grad():
        accuracy = (model(images).argmax(dim=1) == labels).float().mean().item()
    return Planted(model.eval(), images, labels, corners, accuracy)
