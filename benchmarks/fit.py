"""What the nine single-pass techniques cost together in a real training, event by event.

    python benchmarks/fit.py [--threads 1] [--device cpu]

`Trainer.fit` in batches of 16 with nine callbacks of 8 samples and 9 events. Just before each event as many bare passes
are timed as it shows samples, in the batch size at which they are cheapest. Seconds on the clock, as training waits;
nothing is drawn while bare passes are timed. Models as in `attribution.py`.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from bare import MODELS, BarePasses, largest_batch, photographs, tiny_model
from table import Tables, add_options
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import vis_callbacks as vc
from vis_callbacks.run.run import Run

SINGLE_PASS = (
    *("Activations", "Saliency", "GradientXInput"),
    *("GradCAM", "GradCAMPlusPlus", "HiResCAM", "LayerCAM", "XGradCAM", "EigenCAM"),
)
SAMPLES, BATCH = 8, 16


class Classifier(pl.LightningModule):
    """Trains a model hardly at all: one step an epoch."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        return self.model(images)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the loss."""
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Look at a batch."""
        self(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return an optimizer that changes little."""
        return torch.optim.SGD(self.parameters(), lr=1e-5)


class Ahead(pl.Callback):
    """Times bare passes before the events; stands before the callbacks that make pictures."""

    def __init__(self, bare: BarePasses) -> None:
        self._bare = bare
        self.seconds: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The first event is that of the untrained network."""
        self._time()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Each other one ends an epoch."""
        if not trainer.sanity_checking:
            output = Run.of(trainer).recorder.output
            assert output is not None
            assert output.drain(600)
            self._time()

    def _time(self) -> None:
        self.seconds.append(SAMPLES * self._bare.seconds_a_pass(self._bare.batch[True], backward=True))


class Behind(pl.Callback):
    """Reads after each event what it took; stands behind the callbacks that make pictures."""

    def __init__(self) -> None:
        self.events: list[Counter[str]] = []
        self.drawing: dict[str, float] = {}
        self._before: Counter[str] = Counter()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The first event is that of the untrained network."""
        self._read(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Each other one ends an epoch."""
        if not trainer.sanity_checking:
            self._read(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """By now all is drawn."""
        output = Run.of(trainer).recorder.output
        assert output is not None
        assert output.drain(600)
        self.drawing = dict(output.drawing_seconds)

    def _read(self, trainer: pl.Trainer) -> None:
        seconds = Counter(Run.of(trainer).timer.seconds)
        self.events.append(seconds - self._before)
        self._before = seconds


def measure(
    model: nn.Module, images: Tensor, largest: int, events: int
) -> tuple[list[float], list[Counter[str]], list[float]]:
    """Return, of each event, the seconds of bare passes and those of its parts; and CPU seconds to draw a picture.

    These are of a map beside its image, and of a layer's channels side by side.
    """
    labels = torch.arange(len(images), device=images.device) % 10
    bare = BarePasses(model, images[:SAMPLES], largest, time.perf_counter)
    ahead, behind = Ahead(bare), Behind()
    callbacks = [getattr(vc, name)(samples=SAMPLES, on_error="raise") for name in SINGLE_PASS]
    loader = DataLoader(TensorDataset(images, labels), batch_size=BATCH)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="gpu" if images.is_cuda else "cpu",
            devices=1,
            max_epochs=events - 1,  # one shows the untrained network
            default_root_dir=folder,
            callbacks=[ahead, *callbacks, behind],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        trainer.fit(Classifier(model), loader, loader)
        (store,) = Path(folder).rglob("panels.jsonl")
        pictures = Counter(record["callback"] for record in map(json.loads, store.open()) if record["file"])
    assert len(ahead.seconds) == len(behind.events) == events
    channels = "Activations"
    drawing = [
        sum(seconds for name, seconds in behind.drawing.items() if (name == channels) is many)
        / sum(count for name, count in pictures.items() if (name == channels) is many)
        for many in (False, True)
    ]
    return ahead.seconds, behind.events, drawing


def row(name: str, bare: list[float], events: list[Counter[str]], drawing: list[float]) -> tuple[Any, ...]:
    """Return a model's cells: ratios to bare passes, of the first event and the median of the others."""
    passes = [event["shared pass"] / least for event, least in zip(events, bare, strict=True)]
    guarded = [(event["shared pass"] + event["guard"]) / least for event, least in zip(events, bare, strict=True)]
    waited = [sum(event.values()) / least for event, least in zip(events, bare, strict=True)]
    first = [f"{values[0]:.2f}" for values in (passes, guarded, waited)]
    later = [f"{statistics.median(values[1:]):.2f}" for values in (passes, guarded, waited)]
    return (name, f"{1e3 * statistics.median(bare):.0f}", *first, *later, *(f"{1e3 * one:.1f}" for one in drawing))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    add_options(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    tables = Tables(options, "pytorch-lightning", "timm", threads=options.threads, device=options.device)
    images = photographs(BATCH, 64 if options.tiny else None).to(options.device)
    models = {"ResNet-18": tiny_model} if options.tiny else MODELS
    torch.manual_seed(0)
    parts = ("pass", "with guard", "all that training waits")
    heads = ("", "8 bare, ms", *(f"first event: {part}" for part in parts), *(f"later: {part}" for part in parts))
    events = 2 if options.tiny else 9
    largest = largest_batch(options.device, tiny=options.tiny)
    rows = [row(name, *measure(make().to(images), images, largest, events)) for name, make in models.items()]
    drawn = ("drawing, CPU ms: a map beside its image", "64 channels")
    tables.put("fit", (*heads, *drawn), rows)


if __name__ == "__main__":
    main()
