"""What the pictures cost: training with and without the callbacks, side by side in one run, and where the time goes.

    python benchmarks/overhead.py

Trainings with and without callbacks alternate, so that a busy machine slows both. Every training starts from the same
weights and sees the same batches. What the writing thread does beside training is in the wall time too. One thread
unless `--threads` says more: two OpenMP threads on busy cores train small models many times slower.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import timm
import torch
from bare import photographs
from fit import Classifier
from table import Tables, add_options
from torch.utils.data import DataLoader, Subset, TensorDataset

from vis_callbacks import ClassAppearance, Diagnostics, Filters, FineCAM, Report, default_suite

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from digits import DigitClassifier, digits


@dataclass(frozen=True)
class Training:
    """A network, its data, and how often and how long it is trained with some sets of callbacks."""

    module: Callable[[], pl.LightningModule]
    loaders: Callable[[], tuple[DataLoader, DataLoader]]
    sets: tuple[str, ...]
    epochs: int
    repeats: int

    def fit(self, callbacks: list[pl.Callback], folder: str) -> float:
        """Return the seconds on the clock of one fit."""
        pl.seed_everything(0, verbose=False)
        module = self.module()
        trainer = pl.Trainer(
            max_epochs=self.epochs,
            default_root_dir=folder,
            callbacks=callbacks,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        loaders = self.loaders()
        start = time.perf_counter()
        trainer.fit(module, *loaders)
        return time.perf_counter() - start


SETS: dict[str, Callable[[], list[pl.Callback]]] = {
    "none": list,
    "default_suite()": default_suite,
    "default_suite(budget=None)": partial(default_suite, budget=None),
    "those of examples/digits.py": lambda: [
        Diagnostics(),
        Filters(),
        FineCAM(samples="per_class"),
        ClassAppearance(steps=16, progress=False),
        Report(),
    ],
}


PARTS = ("ClassAppearance", "shared pass", "guard")
"""Of the seconds that training waits, see ``run.json``."""


def digit_loaders(images: int | None = None) -> tuple[DataLoader, DataLoader]:
    """Return the loaders of the digits example, or of its first images."""
    training, validation = digits()
    if images is not None:
        training, validation = Subset(training, range(images)), Subset(validation, range(images))
    return DataLoader(training, batch_size=64, shuffle=True, drop_last=True), DataLoader(validation, batch_size=250)


def photograph_loaders(images: int, side: int | None = None) -> tuple[DataLoader, DataLoader]:
    """Return loaders of photographs in batches of 16."""
    loader = DataLoader(TensorDataset(photographs(images, side), torch.arange(images) % 10), batch_size=16)
    return loader, loader


LARGE = ("none", "default_suite()", "default_suite(budget=None)")
TRAININGS = {
    "overhead": Training(lambda: DigitClassifier("test_resnet"), digit_loaders, tuple(SETS), epochs=5, repeats=3),
    "overhead: ResNet-18": Training(
        lambda: Classifier(timm.create_model("resnet18", num_classes=10)),
        partial(photograph_loaders, 64),
        LARGE,
        epochs=3,
        repeats=1,
    ),
}
TINY = {
    "overhead": Training(lambda: DigitClassifier("test_resnet"), partial(digit_loaders, 64), LARGE[:2], 1, 1),
    "overhead: ResNet-18": Training(
        lambda: Classifier(timm.create_model("test_resnet", num_classes=10)),
        partial(photograph_loaders, 16, 64),
        LARGE[:2],
        epochs=1,
        repeats=1,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=TRAININGS, default=list(TRAININGS), help="all unless given")
    add_options(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tables = Tables(arguments, "pytorch-lightning", "timm", threads=arguments.threads, device=device)
    for name, training in (TINY if arguments.tiny else TRAININGS).items():
        if name in arguments.only:
            measure(tables, name, training, tiny=arguments.tiny)


def measure(tables: Tables, table: str, training: Training, *, tiny: bool) -> None:
    """Train with each set of callbacks, in turn, and make a table."""
    walls: dict[str, list[float]] = {name: [] for name in training.sets}
    facts: dict[str, list[dict[str, Any]]] = {name: [] for name in training.sets}
    with tempfile.TemporaryDirectory() as folder:
        if not tiny:
            # The first fit pays for imports and allocations.
            dataclasses.replace(training, epochs=1).fit([], folder)
        for _ in range(training.repeats):
            for name in training.sets:
                callbacks = SETS[name]()
                if tiny:
                    for one in callbacks:
                        if isinstance(one, ClassAppearance):
                            one.steps = one.fresh_steps = 1
                walls[name].append(training.fit(callbacks, folder))
                for report in callbacks:
                    if isinstance(report, Report) and report.path is not None:
                        facts[name].append(json.loads(report.path.with_name("run.json").read_text()))
    events = f"{training.epochs} epochs, {training.epochs + 1} events"
    tables.put(
        table,
        ("callbacks", "s on the clock", "training waited", *(f"of it {part}" for part in PARTS), "all else", "drawing"),
        [(f"`{name}`", *cells(walls[name], facts[name])) for name in training.sets],
        f"{events}; medians of {training.repeats} trainings, in turn." if training.repeats > 1 else f"{events}.",
        *(f"`{name}`: {note}" for name, found in facts.items() if found for note in found[-1]["notes"]),
    )


def cells(walls: list[float], facts: list[dict[str, Any]]) -> list[str]:
    """Return medians of trainings: seconds on the clock, waited, by part, and of drawing beside the training."""
    waited = [one["picture_seconds"] for one in facts]
    parts = [[seconds.get(part, 0.0) for seconds in waited] for part in PARTS]
    totals = [sum(seconds.values()) for seconds in waited]
    others = [total - sum(known) for total, *known in zip(totals, *parts, strict=True)]
    columns = [walls, totals, *parts, others, [one["thread_seconds"] for one in facts]]
    return [f"{statistics.median(values):.2f}" if values else "" for values in columns]


if __name__ == "__main__":
    main()
