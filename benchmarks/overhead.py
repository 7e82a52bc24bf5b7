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
from torch.utils.data import DataLoader

from vis_callbacks import ClassAppearance, Filters, Report, Saliency, default_suite

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from digits import DigitClassifier, digits


def train(callbacks: list[pl.Callback], epochs: int, folder: str) -> float:
    """Train the example's model and return the wall time of the fit in seconds."""
    pl.seed_everything(0, verbose=False)
    training, validation = digits()
    model = DigitClassifier("test_resnet")
    trainer = pl.Trainer(
        max_epochs=epochs,
        default_root_dir=folder,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    loaders = DataLoader(training, batch_size=64, shuffle=True, drop_last=True), DataLoader(validation, batch_size=250)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--only", nargs="*", choices=SETS, default=list(SETS), help="sets of callbacks; all unless given"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

    sets = {name: make for name, make in SETS.items() if name in ("none", *arguments.only)}
    walls: dict[str, list[float]] = {name: [] for name in sets}
    facts: dict[str, list[dict[str, Any]]] = {name: [] for name in sets}
    shown: dict[str, dict[str, list[int]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        train([], 1, folder)  # the first fit pays for imports and allocations
        for _ in range(arguments.repeats):
            for name, make in sets.items():
                callbacks = make()
                report = next((one for one in callbacks if isinstance(one, Report)), None)
                walls[name].append(train(callbacks, arguments.epochs, folder))
                if report is not None and report.path is not None:
                    facts[name].append(json.loads((report.path.parent / "run.json").read_text()))
                    shown[name] = epochs_of(report.path.parent / "panels.jsonl")

    bare = statistics.median(walls["none"])
    print(f"{arguments.epochs} epochs, {arguments.epochs + 1} events, {arguments.repeats} repeats, medians")
    for name, seconds in walls.items():
        took = statistics.median(seconds)
        print(f"\n{name}: {took:.2f} s on the clock ({', '.join(f'{value:.2f}' for value in seconds)}), ", end="")
        print(f"{took / bare - 1:+.1%}")
        if not facts[name]:
            continue
        parts = {part for run in facts[name] for part in run["picture_seconds"]}
        medians = {
            part: statistics.median(run["picture_seconds"].get(part, 0.0) for run in facts[name]) for part in parts
        }
        total = sum(medians.values())
        print(f"  training waited {total:.2f} s, {total / bare:.1%} of training without pictures:")
        for part, spent in sorted(medians.items(), key=lambda item: -item[1]):
            print(f"    {part:<20} {spent:7.3f} s  {spent / bare:6.2%}")
        beside = statistics.median(run["thread_seconds"] for run in facts[name])
        print(f"  beside it, drawing and writing: {beside:.2f} s, and the report at the end")
        took = facts[name][-1]["training_seconds"]
        print(f"  of {took:.1f} s of training: {(total + beside) / took:.1%}, waiting and drawing together")
        for callback, epochs in shown[name].items():
            print(f"  {callback} in epochs {epochs}")
        for note in facts[name][-1]["notes"]:
            print(f"  {note}")


def epochs_of(panels: Path) -> dict[str, list[int]]:
    """Return the epochs in which each callback has made pictures."""
    epochs: dict[str, set[int]] = {}
    for line in panels.read_text().splitlines():
        record = json.loads(line)
        if record["file"]:
            epochs.setdefault(record["callback"], set()).add(record["epoch"])
    return {callback: sorted(found) for callback, found in epochs.items()}


if __name__ == "__main__":
    main()
