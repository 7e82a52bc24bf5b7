"""What the pictures cost: training with and without the callbacks, side by side in one run, and where the time goes.

    python benchmarks/overhead.py

Trainings with and without callbacks alternate, so that a busy machine slows both. Every training starts from the same
weights and sees the same batches. What the writing thread does beside training is in the wall time too. One thread
unless `--threads` says more: two OpenMP threads on busy cores train small models many times slower.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from table import Tables, add_options
from torch.utils.data import DataLoader, Dataset, Subset

from vis_callbacks import ClassAppearance, Filters, Report, Saliency, default_suite

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from digits import DigitClassifier, digits


def train(callbacks: list[pl.Callback], epochs: int, folder: str, data: tuple[Dataset, Dataset]) -> float:
    """Train the example's model and return the wall time of the fit in seconds."""
    pl.seed_everything(0, verbose=False)
    model = DigitClassifier("test_resnet")
    trainer = pl.Trainer(
        max_epochs=epochs,
        default_root_dir=folder,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    loaders = DataLoader(data[0], batch_size=64, shuffle=True, drop_last=True), DataLoader(data[1], batch_size=250)
    start = time.perf_counter()
    trainer.fit(model, *loaders)
    return time.perf_counter() - start


SETS: dict[str, Callable[[], list[pl.Callback]]] = {
    "none": list,
    "default_suite()": default_suite,
    "default_suite(budget=None)": partial(default_suite, budget=None),
    "those of examples/digits.py": lambda: [
        Filters(),
        Saliency(samples="per_class"),
        ClassAppearance(steps=16, progress=False),
        Report(),
    ],
}


PARTS = ("ClassAppearance", "shared pass", "guard")
"""Of the seconds that training waits, see ``run.json``."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--only", nargs="*", choices=SETS, default=list(SETS), help="sets of callbacks; all unless given"
    )
    add_options(parser)
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.epochs, arguments.repeats, arguments.only = 1, 1, ["default_suite()"]
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tables = Tables(arguments, "pytorch-lightning", "timm", threads=arguments.threads, device=device)

    sets = {name: make for name, make in SETS.items() if name in ("none", *arguments.only)}
    walls: dict[str, list[float]] = {name: [] for name in sets}
    facts: dict[str, list[dict[str, Any]]] = {name: [] for name in sets}
    data: tuple[Dataset, Dataset] = digits()
    if arguments.tiny:
        data = Subset(data[0], range(64)), Subset(data[1], range(64))
    with tempfile.TemporaryDirectory() as folder:
        if not arguments.tiny:
            train([], 1, folder, data)  # the first fit pays for imports and allocations
        for _ in range(arguments.repeats):
            for name, make in sets.items():
                callbacks = make()
                if arguments.tiny:
                    for one in callbacks:
                        if isinstance(one, ClassAppearance):
                            one.steps = one.fresh_steps = 1
                walls[name].append(train(callbacks, arguments.epochs, folder, data))
                for report in callbacks:
                    if isinstance(report, Report) and report.path is not None:
                        facts[name].append(json.loads(report.path.with_name("run.json").read_text()))
    tables.put(
        "overhead",
        ("callbacks", "s on the clock", "training waited", *(f"of it {part}" for part in PARTS), "all else", "drawing"),
        [(f"`{name}`", *cells(walls[name], facts[name])) for name in sets],
        f"{arguments.epochs} epochs, {arguments.epochs + 1} events; medians of {arguments.repeats} trainings, in turn.",
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
