from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

SIDE, PATCH, CLASSES = 28, 8, 4


@dataclass(frozen=True)
class Planted:
    """A net that was trained on noise in which the stripes of a small patch say the class, and images new to it."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    corners: Tensor

    def hit_rate(self, maps: Tensor) -> float:
        """The pointing game: how often the value of largest magnitude lies in the patch."""
        best = maps.abs().amax(dim=1).flatten(1).argmax(dim=1)
        inside = torch.stack([best // SIDE, best % SIDE], dim=1) - self.corners
        return ((inside >= 0) & (inside < PATCH)).all(dim=1).float().mean().item()


def planted_images(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    images = 0.4 * torch.randn(count, 1, SIDE, SIDE, generator=random)
    labels = torch.randint(CLASSES, (count,), generator=random)
    corners = torch.randint(SIDE - PATCH + 1, (count, 2), generator=random)
    rows, columns = torch.meshgrid(torch.arange(PATCH), torch.arange(PATCH), indexing="ij")
    patches = torch.stack([rows % 2, columns % 2, (rows + columns) % 2, (rows // 2 + columns // 2) % 2])
    for image, label, (top, left) in zip(images, labels, corners.tolist(), strict=True):
        image[:, top : top + PATCH, left : left + PATCH] += 2.0 * patches[label] - 1.0
    return images, labels, corners


def planted_net() -> nn.Module:
    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]

    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES)]
    return nn.Sequential(*block(1, 8), nn.MaxPool2d(2), *block(8, 16), *head)


@pytest.fixture(scope="session")
def planted() -> Planted:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = planted_net()
    images, labels, _ = planted_images(1024, seed=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=4e-3)
    for step in range(150):
        batch = torch.arange(step * 64, step * 64 + 64) % len(images)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
    model.eval().zero_grad()
    images, labels, corners = planted_images(256, seed=2)
    with torch.no_grad():
        accuracy = (model(images).argmax(dim=1) == labels).float().mean().item()
    assert accuracy >= 0.97
    return Planted(model, images, labels, corners)
