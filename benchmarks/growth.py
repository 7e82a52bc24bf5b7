"""How the cost of pictures grows: with samples, classes, layers, epochs, and pictures in the store.

    python benchmarks/growth.py [--only samples store]

Each row is one training of small images for each of its sizes. The slope is that of a line through the larger half of
the sizes, both axes logarithmic: 1 is linear, and what is above 1.15 is in bold. *Waited* is what training waited for
at an event, by the median of the events after the first; *drawn* the CPU seconds of the drawing thread.
"""

from __future__ import annotations

import argparse
import gc
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from fit import Classifier
from synthetic_store import event, write_store
from table import Tables, add_options
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import vis_callbacks as vc
from vis_callbacks.output.encoding import Picture
from vis_callbacks.output.record import Record
from vis_callbacks.output.store import PictureStore
from vis_callbacks.report.html import write_report
from vis_callbacks.run.run import Run

SIDE = 32
LIMIT = 1.15
"""A steeper slope is more than linear growth."""


class Blocks(nn.Module):
    """A residual network of any depth."""

    def __init__(self, depth: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()) for _ in range(depth)
        )
        self.head = nn.Linear(8, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        maps = torch.relu(self.stem(images))
        for block in self.blocks:
            maps = maps + block(maps) / len(self.blocks)  # else the values of many overflow
        return self.head(maps.mean(dim=(2, 3)))


@dataclass
class Cost:
    """What the events of a training took, in seconds."""

    waited: list[float] = field(default_factory=list)
    drawn: list[float] = field(default_factory=list)

    @property
    def later(self) -> tuple[float, float]:
        """Of an event after the first: what training waited, and drawing."""
        return statistics.median(self.waited[1:]), statistics.median(self.drawn[1:])


class Meter(pl.Callback):
    """Reads what each event took, when it is drawn."""

    def __init__(self) -> None:
        self.cost = Cost()
        self._before = 0.0, 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The first event is that of the untrained network."""
        self._read(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Each other one ends an epoch."""
        if not trainer.sanity_checking:
            self._read(trainer)

    def _read(self, trainer: pl.Trainer) -> None:
        run = Run.of(trainer)
        output = run.recorder.output
        assert output is not None
        assert output.drain(600)
        now = run.timer.total, sum(output.drawing_seconds.values())
        self.cost.waited.append(now[0] - self._before[0])
        self.cost.drawn.append(now[1] - self._before[1])
        self._before = now


def train(
    callbacks: Sequence[pl.Callback], *, depth: int = 4, classes: int = 10, images: int = 64, epochs: int = 3
) -> Cost:
    """Return what the events of a training took: one before it, and one an epoch."""
    torch.manual_seed(0)
    data = TensorDataset(torch.rand(images, 3, SIDE, SIDE), torch.arange(images) % classes)
    meter = Meter()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            limit_train_batches=1,
            default_root_dir=folder,
            callbacks=[*callbacks, meter],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        loaders = DataLoader(data, batch_size=64), DataLoader(data, batch_size=64)
        trainer.fit(Classifier(Blocks(depth, classes)), *loaders)
    return meter.cost


def looking(samples: int) -> list[pl.Callback]:
    """Return callbacks that show each of some samples."""
    return [make(samples=samples, on_error="raise") for make in (vc.Saliency, vc.GradCAM, vc.LayerCAM)]


def with_samples(count: int) -> tuple[float, ...]:
    """Seconds of an event of so many samples: waited and drawn."""
    return train(looking(count)).later


def with_classes(count: int) -> tuple[float, ...]:
    """Seconds of an event of the default set on a network of so many classes: waited and drawn."""
    return train(vc.default_suite(budget=None), classes=count, images=max(count, 64)).later


def with_class_images(count: int) -> tuple[float, ...]:
    """Seconds of an event that shows every class, a step each: waited and drawn."""
    pictures = vc.ClassAppearance(range(count), steps=1, fresh_steps=1, progress=False, on_error="raise")
    return train([pictures], classes=count, images=max(count, 64)).later


def with_layers(depth: int) -> tuple[float, ...]:
    """Seconds of the first event, which finds out about the layers, and of a later one."""
    # A full collection looks at each object of torch too, for half a second, in whichever event it comes.
    gc.collect()
    gc.freeze()
    cost = train([*looking(4), vc.Activations(samples=4, depth=2, on_error="raise"), vc.Filters()], depth=depth)
    return cost.waited[0], cost.later[0]


def with_epochs(epochs: int) -> tuple[float, ...]:
    """Seconds of all events of a training of so many epochs: waited and drawn."""
    cost = train([vc.Filters(), vc.Saliency(samples=2)], epochs=epochs)
    return sum(cost.waited), sum(cost.drawn)


def with_store(pictures: int) -> tuple[float, ...]:
    """Seconds to write one more event, to open the store, to make an event again after resuming, and to report."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = write_store(folder, pictures)
        last = pictures // 20
        added = seconds(lambda: [store.add(*one) for one in event(last)])
        opened = seconds(lambda: PictureStore(folder).holds(*next(iter(event(0)))))
        resumed = PictureStore(folder)
        again = seconds(lambda: make_again(resumed, event(last, seed=1)))
        reported = seconds(lambda: write_report(folder))
    return added, opened, again, reported


def make_again(store: PictureStore, pictures: Iterable[tuple[Record, Picture]]) -> None:
    """Write the pictures of an event that differ from those that are stored, as a resumed run does."""
    for one in pictures:
        if not store.holds(*one):
            store.add(*one)
    store.drop_replaced()


def seconds(work: Callable[[], object]) -> float:
    """Return the seconds of something on the clock."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@dataclass(frozen=True)
class Growth:
    """What is measured at several sizes."""

    measure: Callable[[int], tuple[float, ...]]
    columns: tuple[str, ...]
    sizes: tuple[int, ...]


EVENT = ("event: waited", "event: drawn")
GROWTHS: Mapping[str, Growth] = {
    "samples": Growth(with_samples, EVENT, (4, 8, 16, 32, 64)),
    "classes, the default set": Growth(with_classes, EVENT, (10, 30, 100, 300, 1000)),
    "classes, an image of each": Growth(with_class_images, EVENT, (10, 30, 100, 300, 1000)),
    "layers": Growth(with_layers, ("first event: waited", "later: waited"), (8, 32, 128, 256, 512)),
    "epochs": Growth(with_epochs, ("all events: waited", "all events: drawn"), (10, 30, 100, 300, 1000)),
}
STORE = Growth(
    with_store,
    ("writing an event", "opening", "an event made again after resuming", "the report"),
    (1000, 5000, 20_000, 50_000, 100_000),
)


def slope(sizes: Sequence[int], values: Sequence[float]) -> str:
    """Return the slope of the larger half of the sizes, in bold if it is more than linear."""
    half = (len(sizes) - 1) // 2
    found = float(np.polyfit(np.log(sizes[half:]), np.log(np.maximum(values[half:], 1e-9)), 1)[0])
    return f"**{found:.2f}**" if found > LIMIT else f"{found:.2f}"


def rows_of(name: str, growth: Growth) -> Iterable[tuple[str, ...]]:
    """Yield a row for each column of what is measured: its seconds at each size, and the slope."""
    measured = []
    for size in growth.sizes:
        measured.append(growth.measure(size))
        print(name, size, *(f"{value:.3f} s" for value in measured[-1]), flush=True)
    for column, values in zip(growth.columns, zip(*measured, strict=True), strict=True):
        cells = (f"{size:,}: {value:.3g}" for size, value in zip(growth.sizes, values, strict=True))
        yield name, column, ", ".join(cells), slope(growth.sizes, values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = (*(name.partition(",")[0] for name in GROWTHS), "store")
    parser.add_argument("--only", nargs="+", choices=sorted(set(names)), help="some of them; writes nothing")
    parser.add_argument("--threads", type=int, default=1)
    add_options(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    if options.only:
        options.write = None
    tables = Tables(options, "pytorch-lightning", threads=options.threads)
    growths = {**GROWTHS, "pictures in the store": STORE}
    if options.tiny:
        few = {"layers": (1, 2), "epochs": (1, 2), "pictures in the store": (20, 40)}
        growths = {name: replace(growths[name], sizes=sizes) for name, sizes in few.items()}
    chosen = {
        name: one
        for name, one in growths.items()
        if not options.only or any(word in name.split() or f"{word}," in name for word in options.only)
    }
    rows = [row for name, one in chosen.items() for row in rows_of(name, one)]
    tables.put("growth", ("with", "seconds of", "at each size", "slope"), rows)


if __name__ == "__main__":
    main()
