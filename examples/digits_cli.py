"""The digits example, set up by a YAML file: python examples/digits_cli.py fit --config examples/digits.yaml."""

from __future__ import annotations

from digits import DigitClassifier, digits
from pytorch_lightning import LightningDataModule
from pytorch_lightning.cli import LightningCLI
from torch.utils.data import DataLoader


class Digits(LightningDataModule):
    def setup(self, stage: str) -> None:
        self.training, self.validation = digits()

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.training, batch_size=64, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.validation, batch_size=250)


if __name__ == "__main__":
    LightningCLI(DigitClassifier, Digits)
