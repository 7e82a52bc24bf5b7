"""A picture store of any size, written by the store's own writer, as a training of many epochs leaves it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vis_callbacks.output.record import Record
from vis_callbacks.output.store import Picture, PictureStore

ROWS = 20
"""Pictures an event: those of the default set, of small images."""


def write_store(folder: str | Path, pictures: int, rows: int = ROWS) -> PictureStore:
    """Write a store of so many pictures in rows, of as many events as that takes."""
    store = PictureStore(folder)
    events = -(-pictures // rows)
    for epoch in range(events):
        for record, picture in event(epoch, rows=rows):
            if epoch * rows + (record.sample or 0) < pictures:
                store.add(record, picture)
        store.add_metrics(epoch, 100 * epoch, {"val_loss": 1 / (1 + epoch), "val_accuracy": epoch / events})
    store.write_facts({"model": "synthetic", "parameters": 1, "epochs": events, "status": "finished"})
    return store


def event(epoch: int, seed: int = 0, rows: int = ROWS) -> Iterator[tuple[Record, Picture]]:
    """Yield the records and pictures of an event: a digit and its map, each pixel of them enlarged."""
    random = np.random.default_rng((seed, epoch))
    for row in range(rows):
        small = random.integers(0, 256, (14, 28, 3), dtype=np.uint8)
        tag = f"Saliency/sample {row}"
        facts = {"sample": row, "label": str(row % 10), "predicted": "3", "probability": 0.5}
        record = Record(tag, "Saliency", epoch, 100 * epoch, captions=("image", "saliency"), **facts)
        yield record, small.repeat(2, axis=0).repeat(2, axis=1)
