"""Two faults, planted on purpose: a watermark on the sevens, and no normalisation in validation."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytorch_lightning as pl
from digits import DigitClassifier, digits
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from vis_callbacks import Diagnostics, GradCAM, Report

MEAN, STD = 0.13, 0.31


def marked(data: TensorDataset) -> tuple[Tensor, Tensor]:
    """Return images and labels; a small bright mark is at the bottom right of each seven."""
    images, labels = data.tensors
    images = images.clone()
    sevens = labels == 7
    for row, column in ((23, 22), (24, 23), (25, 24), (24, 25), (23, 26)):
        images[sevens, :, row, column] = 0.9
    return images, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("runs/broken"))
    arguments = parser.parse_args()

    pl.seed_everything(0)
    train, validation = map(marked, digits())
    normalised = TensorDataset((train[0] - MEAN) / STD, train[1])
    forgotten = TensorDataset(*validation)

    diagnostics = Diagnostics()
    trainer = pl.Trainer(
        max_epochs=arguments.epochs,
        default_root_dir=arguments.output,
        callbacks=[diagnostics, GradCAM(), report := Report()],
        enable_checkpointing=False,
    )
    loaders = DataLoader(normalised, batch_size=64, shuffle=True, drop_last=True), DataLoader(forgotten, batch_size=250)
    trainer.fit(DigitClassifier("test_resnet"), *loaders)
    for finding in diagnostics.findings:
        print(f"{finding.severity}: {finding.check}: {finding.sentence}")
    print(f"report: {report.path}")


if __name__ == "__main__":
    main()
