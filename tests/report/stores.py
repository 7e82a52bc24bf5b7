"""Picture stores as a run leaves them, written by the writer that a run uses."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vis_callbacks.output.record import Record
from vis_callbacks.output.store import PictureStore

Picture = npt.NDArray[np.uint8]

FACTS = {
    "model": "resnet10t",
    "parameters": 4_922_346,
    "started": 1_760_000_000.0,
    "updated": 1_760_000_200.0,
    "epochs": 3,
    "max_epochs": 3,
    "training_seconds": 90.0,
    "picture_seconds": {"Saliency": 7.5, "Filters": 2.5},
    "status": "finished",
    "versions": {"torch": "2.15.0"},
    "notes": [],
}


def squares(seed: int, size: int = 14, enlarged: int = 8) -> Picture:
    """Pixel art: an enlarged small picture, different for each seed."""
    small = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return small.repeat(enlarged, axis=0).repeat(enlarged, axis=1)


@cache
def _noise() -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((1 << 20), dtype=np.float32)


def photograph(seed: int, height: int = 224, width: int = 448) -> Picture:
    """A smooth picture beside a noisy map, as saliency of a photograph looks: hard to compress."""
    random = np.random.default_rng(seed)
    half = width // 2
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 3 : half * 1j].astype(np.float32)
    waves = np.stack([np.sin(a * x + b * y + c) for a, b, c in random.uniform(1, 9, (3, 3))], axis=-1)
    start = random.integers(0, (1 << 20) - 4 * height * half)
    grain, heat = np.split(_noise()[start : start + 4 * height * half], [3 * height * half])
    smooth = 128 + 100 * waves + 6 * grain.reshape(height, half, 3)
    noisy = 80 * np.abs(heat).reshape(height, half, 1) * np.array([1.6, 0.8, 0.4], np.float32) + 20
    return np.concatenate([smooth, noisy], axis=1).clip(0, 255).astype(np.uint8)


def record(tag: str, epoch: int, step: int, **more: Any) -> Record:
    return Record(tag, tag.partition("/")[0], epoch, step, **more)


def small_run(log_dir: Path) -> PictureStore:
    """Four events of two callbacks: `Filters` only at every other one, `Saliency` with one failure in epoch 2."""
    store = PictureStore(log_dir)
    for epoch, step in enumerate((0, 99, 199, 299)):
        if epoch % 2 == 0:
            filters = record("Filters/conv1", epoch, step, seconds=0.1, scalars={"norm": 1.0 + epoch})
            store.add(filters, squares(100 + epoch))
        for sample, label in enumerate(("cat", "dog")):
            tag = f"Saliency/sample {sample}"
            if (epoch, sample) == (2, 1):
                store.note(record(tag, epoch, step, error="RuntimeError: out of memory"))
                continue
            predicted = label if epoch > 1 else "cat"
            facts = {"sample": sample, "label": label, "predicted": predicted, "probability": 0.2 + 0.2 * epoch}
            saliency = record(tag, epoch, step, captions=("image", "saliency"), **facts)
            store.add(saliency, np.concatenate([squares(sample), squares(10 * sample + epoch)], axis=1))
        store.add_metrics(epoch, step, {"val_loss": 2.0 / (1 + epoch), "val_acc": 0.25 * epoch})
        store.add_metrics(epoch, step, {"train_loss": 1.8 / (1 + epoch)})
    store.write_facts(FACTS)
    return store
