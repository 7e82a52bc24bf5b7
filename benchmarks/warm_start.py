"""Are a few steps per epoch, continued from the last epoch's images, as good as many steps from scratch?

The digit classifier of `examples/digits.py` is trained several times. After every epoch `ClassAppearance` continues its
images, and the same network's images are also made from scratch. Separately trained networks classify both, saved as
8 bit: the fraction that they recognise, and the mean probability of the class.

    python benchmarks/warm_start.py --trainings 4 --sheet warm_start.png
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable
from pathlib import Path

import pytorch_lightning as pl
import torch
from class_appearance import contact_sheet
from table import Tables, add_options
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from vis_callbacks import ClassAppearance
from vis_callbacks.event import Event
from vis_callbacks.panel import Panel
from vis_callbacks.synthesis.class_appearance import class_appearance

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from digits import DigitClassifier, digits

CLASSES = list(range(10))


class Compared(ClassAppearance):
    """Keeps the images of every epoch, those made from scratch, and the CPU seconds of both."""

    def __init__(self, scratch_steps: int, **options) -> None:
        super().__init__(CLASSES, on_error="raise", progress=False, **options)
        self.scratch_steps = scratch_steps
        self.images: dict[int, dict[str, Tensor]] = {}
        self.seconds: dict[int, dict[str, float]] = {}

    def visualize(self, event: Event) -> Iterable[Panel]:
        """Make the images both ways."""
        begin = time.process_time()
        panels = list(super().visualize(event))
        between = time.process_time()
        scratch = class_appearance(
            event.model,
            CLASSES,
            image_size=self.size(event),
            steps=self.scratch_steps,
            normalization=event.samples.normalization,
            image_statistics=self.image_statistics(event),
            feature_statistics=self.feature_statistics(event),
            progress=False,
        )
        warm = torch.stack([panel.tiles[0].values for panel in panels])
        self.images[event.moment.epoch] = {"warm": warm, "scratch": scratch}
        self.seconds[event.moment.epoch] = {"warm": between - begin, "scratch": time.process_time() - between}
        return panels


def train(seed: int, epochs: int, callbacks: list[pl.Callback], data: tuple[Dataset, Dataset]) -> nn.Module:
    """Train the example's network, and return it in eval mode."""
    pl.seed_everything(seed, verbose=False)
    model = DigitClassifier("test_resnet")
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=epochs,
            default_root_dir=folder,
            logger=False,
            callbacks=callbacks,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        trainer.fit(
            model,
            DataLoader(data[0], batch_size=64, shuffle=True, drop_last=True),
            DataLoader(data[1], batch_size=250),
        )
    return model.model.eval()


def verdict(judges: list[nn.Module], pixels: Tensor) -> tuple[float, float]:
    """Return the fraction of images that the judges recognise, and the mean probability of the class."""
    saved = (pixels * 255).round() / 255
    classes = torch.tensor(CLASSES)
    with torch.no_grad():
        found = torch.stack([judge(saved).softmax(dim=1) for judge in judges])
    return float((found.argmax(dim=2) == classes).float().mean()), float(found[:, classes, classes].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--trainings", type=int, default=4)
    parser.add_argument("--judges", type=int, default=3)
    parser.add_argument("--steps", type=int, default=16, help="steps of an event that continues the last images")
    parser.add_argument("--scratch-steps", type=int, default=256)
    parser.add_argument("--sheet", type=Path, help="file to save the images of the first training to")
    add_options(parser)
    options = parser.parse_args()
    data: tuple[Dataset, Dataset] = digits()
    if options.tiny:
        data = Subset(data[0], range(64)), Subset(data[1], range(64))
        options.epochs, options.trainings, options.judges, options.steps, options.scratch_steps = 1, 1, 1, 2, 2
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    tables = Tables(options, "pytorch-lightning", "timm")

    judges = [train(100 + number, options.epochs, [], data) for number in range(options.judges)]
    runs = []
    for number in range(options.trainings):
        runs.append(Compared(options.scratch_steps, steps=options.steps))
        train(number, options.epochs, [runs[-1]], data)
    rows = []
    for epoch in range(1, options.epochs + 1):
        found = {
            kind: torch.tensor([verdict(judges, run.images[epoch][kind]) for run in runs]) for kind in runs[0].images[1]
        }
        mean = {kind: values.mean(dim=0).tolist() for kind, values in found.items()}
        each = " ".join(f"{float(hits):.2f}" for hits in found["warm"][:, 0])
        seconds = {kind: sum(run.seconds[epoch][kind] for run in runs) / len(runs) for kind in mean}
        shown = {kind: f"{hits:.3f} / {likely:.2f}" for kind, (hits, likely) in mean.items()}
        ratio = f"{mean['warm'][0] / mean['scratch'][0]:.3f}" if mean["scratch"][0] else ""
        took = (f"{seconds[kind]:.2f}" for kind in ("warm", "scratch"))
        rows.append((epoch, shown["warm"], shown["scratch"], ratio, *took, each))
    tables.put(
        "warm_start",
        ("epoch", "warm: top-1 / p", "from scratch", "ratio of top-1", "warm, CPU s", "scratch, CPU s", "each, warm"),
        rows,
        f"{options.trainings} trainings, {options.judges} judges; {options.steps} steps and {options.scratch_steps}.",
    )
    if options.sheet:
        images = runs[0].images
        rows = {
            f"{epoch} {kind}": pixels.expand(-1, 3, -1, -1)
            for epoch, kinds in images.items()
            for kind, pixels in kinds.items()
        }
        names = [str(index) for index in CLASSES]
        contact_sheet(rows, names, side=84).save(options.sheet)


if __name__ == "__main__":
    main()
