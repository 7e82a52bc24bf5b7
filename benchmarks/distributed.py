"""Class appearance of many classes on one process and on several that train together, each with one thread.

Run as ``python benchmarks/distributed.py``. Wall time is that of the whole event as training waits for it; CPU time
of the training threads tells how the work was split even where other programs take the cores.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytorch_lightning as pl
import torch
import torchvision
from table import Tables, add_options
from torch.utils.data import DataLoader, TensorDataset

from vis_callbacks import ClassAppearance


class Classifier(pl.LightningModule):
    """A ResNet-18 with initial weights: what an image costs does not depend on them."""

    def __init__(self, classes: int) -> None:
        """Make the network."""
        super().__init__()
        self.net = torchvision.models.resnet18(num_classes=classes)

    def forward(self, images: torch.Tensor) -> Any:
        """Return logits."""
        return self.net(images)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Look at a batch, as training does before pictures are made."""
        self(batch[0])


class Clock(pl.Callback):
    """Measures what happens from the last batch of a validation to its end, where pictures are made before its turn."""

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Note the times, with all processes together."""
        trainer.strategy.barrier()
        self.wall, self.cpu = time.perf_counter(), time.thread_time()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the differences, with all processes together."""
        self.cpu = time.thread_time() - self.cpu
        trainer.strategy.barrier()
        self.wall = time.perf_counter() - self.wall


def measure(processes: int, options: argparse.Namespace) -> tuple[float, list[float]]:
    """Return the wall seconds of an event, and the CPU seconds of each process."""
    torch.manual_seed(0)
    model = Classifier(options.classes)
    images = torch.rand(32, 3, options.size, options.size)
    loader = DataLoader(TensorDataset(images, torch.arange(32) % options.classes), batch_size=8)
    pictures = ClassAppearance(
        range(options.classes), steps=options.steps, fresh_steps=options.steps, progress=False
    ).with_handler(lambda *_: None)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=processes,
            strategy="ddp" if processes > 1 else "auto",
            default_root_dir=Path(folder),
            logger=False,
            callbacks=[pictures, clock],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.validate(model, loader, verbose=False)
    spent = torch.tensor(clock.cpu, dtype=torch.float64)
    everyone = trainer.strategy.all_gather(spent).flatten().tolist() if processes > 1 else [float(spent)]
    return clock.wall, everyone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    add_options(parser)
    options = parser.parse_args()
    if options.tiny:
        options.classes, options.size, options.steps, options.repeats = 4, 32, 1, 1
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    tables = Tables(options, "torchvision", "pytorch-lightning")
    alone = []
    if "LOCAL_RANK" not in os.environ:
        # Before the other processes are there, and not in them.
        alone = [measure(1, options) for _ in range(options.repeats)]
    together = [measure(options.processes, options) for _ in range(options.repeats)]
    if not alone:
        return
    one, several = min(alone), min(together)
    rows = [
        (processes, f"{wall:.2f}", f"{wall / one[0]:.2f}", f"{max(cpu):.2f}", f"{max(cpu) / max(one[1]):.2f}")
        for processes, (wall, cpu) in ((1, one), (options.processes, several))
    ]
    what = f"{options.classes} classes of {options.size}x{options.size} on ResNet-18, {options.steps} steps."
    tables.put("distributed", ("processes", "s", "ratio", "CPU s of the busiest", "ratio"), rows, what)


if __name__ == "__main__":
    main()
