"""A technique of one's own: how the prediction changes when the image is shifted. One class, one method."""

from __future__ import annotations

from collections.abc import Iterable

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from vis_callbacks import Event, Panel, Report, Tile, VisualizationCallback


class ShiftSensitivity(VisualizationCallback):
    """Shows the probability of the predicted class for images shifted by up to three pixels each way."""

    def visualize(self, event: Event) -> Iterable[Panel]:
        images, predicted = event.samples.images, event.trace.targets[:, None]
        rows = []
        for down in range(-3, 4):
            shifted = [event.model(images.roll((down, right), dims=(2, 3))) for right in range(-3, 4)]
            rows.append(torch.stack([logits.softmax(1).gather(1, predicted)[:, 0] for logits in shifted], dim=-1))
        maps = torch.stack(rows, dim=1)
        for index in range(len(images)):
            yield event.sample_panel(index, Tile(maps[index], "heat", caption="shifted by ±3 pixels", limit=1.0))


class Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        features = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.model = nn.Sequential(features, nn.Linear(128, 2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def bars(count: int) -> TensorDataset:
    """Return images of a bright bar, upright or lying, at a random place."""
    images, labels = torch.rand(count, 1, 16, 16) * 0.3, torch.arange(count) % 2
    for image, label, place in zip(images, labels, torch.randint(3, 13, (count,)), strict=True):
        image[0, :, place] += 0.7 * label
        image[0, place, :] += 0.7 * (1 - label)
    return TensorDataset(images, labels)


def main() -> None:
    pl.seed_everything(0)
    report = Report()
    callbacks = [ShiftSensitivity(samples=4), report]
    trainer = pl.Trainer(max_epochs=3, default_root_dir="runs/custom_technique", callbacks=callbacks)
    trainer.fit(Classifier(), DataLoader(bars(512), batch_size=32, shuffle=True), DataLoader(bars(64), batch_size=64))
    print(f"report: {report.path}")


if __name__ == "__main__":
    main()
