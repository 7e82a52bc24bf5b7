"""What the pictures cost: training with and without the callbacks, side by side in one run, and where the time goes.

    python benchmarks/overhead.py

Trainings with and without callbacks alternate, so that a busy machine slows both. Every training starts from the same
weights and sees the same batches. What the writing thread does beside training is in the wall time too.
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
from pathlib import Path

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from vis_callbacks import ClassAppearance, Filters, Report, Saliency

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

    bare, shown, parts = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        train([], 1, folder)  # the first fit pays for imports and allocations
        for _ in range(arguments.repeats):
            bare.append(train([], arguments.epochs, folder))
            report = Report()
            callbacks = [Filters(), Saliency(samples="per_class"), ClassAppearance(steps=16, progress=False), report]
            shown.append(train(callbacks, arguments.epochs, folder))
            assert report.path is not None
            parts.append(json.loads((report.path.parent / "run.json").read_text()))

    without, with_pictures = statistics.median(bare), statistics.median(shown)
    print(f"{arguments.epochs} epochs, {arguments.epochs + 1} events, {arguments.repeats} repeats, medians\n")
    print(f"without callbacks  {without:8.2f} s   ({', '.join(f'{value:.2f}' for value in bare)})")
    print(f"with callbacks     {with_pictures:8.2f} s   ({', '.join(f'{value:.2f}' for value in shown)})")
    print(f"difference         {with_pictures - without:8.2f} s   {with_pictures / without - 1:+.1%}\n")
    print("on the training thread:")
    for part in sorted(parts[0]["picture_seconds"], key=lambda name: -parts[0]["picture_seconds"][name]):
        seconds = statistics.median(run["picture_seconds"].get(part, 0.0) for run in parts)
        print(f"  {part:<20} {seconds:7.3f} s   {seconds / without:6.2%} of training")
    beside = statistics.median(run["thread_seconds"] for run in parts)
    print(f"beside it, drawing and writing: {beside:.3f} s, and the report at the end")


if __name__ == "__main__":
    main()
