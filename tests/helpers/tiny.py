"""Small models, data and trainers for both Lightning packages, and the picture stores that their runs leave."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

PACKAGES = ("pytorch_lightning", "lightning.pytorch")
CLASSES = ("circle", "square", "star", "cross")
SIDE = 8
ACCELERATOR = os.environ.get("TINY_ACCELERATOR", "cpu")
"""Where small models are trained; ``benchmarks/gpu.py`` sets it."""


class Net(nn.Module):
    """Two convolutions and one attention, so that every technique has something to show."""

    def __init__(
        self, *, channels: int = 1, dropout: float = 0.0, drop_path: float = 0.0, checkpointed: bool = False
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.dropout, self.drop_path = nn.Dropout(dropout), drop_path
        self.checkpointed = checkpointed
        self.head = nn.Linear(4, len(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(images)))
        branch = checkpoint(self.branch, x, use_reentrant=False) if self.checkpointed else self.branch(x)
        if self.training and self.drop_path:
            branch = branch * (torch.rand(len(x), 1, 1, 1) >= self.drop_path)
        return self.head(self.dropout((x + branch).amax(dim=(2, 3))))

    def branch(self, x: Tensor) -> Tensor:
        maps = torch.relu(self.bn2(self.conv2(x)))
        # Each place of a large image looking at each other would take gigabytes.
        small = nn.functional.adaptive_avg_pool2d(maps, SIDE)
        tokens = small.flatten(2).transpose(1, 2)
        seen = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).transpose(1, 2).view_as(small)
        return maps + nn.functional.interpolate(seen, maps.shape[-2:])


class Shapes(Dataset[tuple[Tensor, Tensor]]):
    """Noisy images of which one quarter is bright, which says the class; augmented with every random generator."""

    def __init__(self, count: int, *, seed: int = 0, channels: int = 1, augmented: bool = False) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(count) % len(CLASSES)
        self.images = 0.3 * torch.rand(count, channels, SIDE, SIDE, generator=generator)
        for image, label in zip(self.images, self.labels.tolist(), strict=True):
            top, left = SIDE // 2 * (label // 2), SIDE // 2 * (label % 2)
            image[:, top : top + SIDE // 2, left : left + SIDE // 2] += 0.2 + 0.15 * label
        self.classes = list(CLASSES)
        self.augmented = augmented

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.images[index]
        if self.augmented:
            image = image * (1 - 0.1 * random.random()) * (1 - 0.1 * np.random.rand()) * (1 - 0.1 * torch.rand(()))
        return image, self.labels[index]


def loader(
    count: int = 32, *, seed: int = 0, batch_size: int = 8, augmented: bool = False, **options: Any
) -> DataLoader[Any]:
    return DataLoader(Shapes(count, seed=seed, augmented=augmented), batch_size=batch_size, **options)


@cache
def module_class(package: str) -> Any:
    """The LightningModule that most tests train, of a package."""

    class TinyModule(import_module(package).LightningModule):  # type: ignore[misc]
        def __init__(self, net: nn.Module | None = None, *, lr: float = 0.05) -> None:
            super().__init__()
            self.net = Net() if net is None else net
            self.lr = lr

        def forward(self, images: Tensor) -> Any:
            return self.net(images)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
            self.log("train_loss", loss, on_step=False, on_epoch=True)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            logits = self(batch[0])
            self.log("val_loss", nn.functional.cross_entropy(logits, batch[1]))
            self.log("val_accuracy", (logits.argmax(dim=1) == batch[1]).float().mean())

        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.log("test_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=self.lr)

    return TinyModule


def module(package: str = PACKAGES[0], net: nn.Module | None = None, **options: Any) -> Any:
    torch.manual_seed(0)
    return module_class(package)(net, **options)


def trainer(folder: Path, callbacks: Sequence[Any], *, package: str = PACKAGES[0], **options: Any) -> Any:
    settings: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": ACCELERATOR,
        "deterministic": ACCELERATOR != "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    }
    return import_module(package).Trainer(default_root_dir=folder, callbacks=list(callbacks), **(settings | options))


def records(folder: Path) -> list[dict[str, Any]]:
    """What the picture store in or below a folder says; there is one at most."""
    stores = sorted(folder.rglob("visualizations/panels.jsonl"))
    assert len(stores) <= 1
    # Not splitlines: class names may hold characters that it takes for line ends.
    return [json.loads(line) for store in stores for line in store.read_text().split("\n") if line]


def files_of(folder: Path, found: Sequence[dict[str, Any]]) -> Iterator[Path]:
    (store,) = folder.rglob("visualizations")
    return (store / record["file"] for record in found if record["file"])
