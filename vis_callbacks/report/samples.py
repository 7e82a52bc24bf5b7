"""The same sample in several runs, found by what its picture shows."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from vis_callbacks.report.history import History, Row

_SIDE = 16
_SAME = 3.0
"""Mean difference of gray levels up to which two pictures are the same one: JPEG, and another normalisation."""

Print = npt.NDArray[np.float32]


def matched_names(histories: Sequence[History]) -> list[dict[tuple[str, str], str]]:
    """Return new names of rows, by callback and name, for each run: the same sample has the name of the first run.

    A sample is known by the first tile of its pictures, its image; where tiles stand in several lines, by another
    technique's row of the same sample. Rows of other things, such as layers and classes, keep their names.
    """
    known: dict[str, Print] = {}
    return [_matched(history, known) for history in histories]


def _matched(history: History, known: dict[str, Print]) -> dict[tuple[str, str], str]:
    """Match the samples of a run to the known ones, by name, and add those that are new."""
    earlier = dict(known)
    names: dict[tuple[str, int], str] = {}
    renamed: dict[tuple[str, str], str] = {}
    for row in history.rows:
        sample = _sample_of(row)
        image = None if sample is None else _image_of(row)
        if sample is None or image is None:
            continue
        name = next((name for name, other in earlier.items() if _difference(image, other) <= _SAME), None)
        if name is None:
            taken = row.name in earlier
            name = f"{row.name} (another image)" if taken else row.name
            known.setdefault(name, image)
        renamed[row.callback, row.name] = names[row.name, sample] = name
    for row in history.rows:
        sample = _sample_of(row)
        if sample is not None and (row.name, sample) in names:
            renamed.setdefault((row.callback, row.name), names[row.name, sample])
    return renamed


def _sample_of(row: Row) -> int | None:
    return next((picture.record.sample for picture in row.pictures.values() if picture.record.sample is not None), None)


def _image_of(row: Row) -> Print | None:
    found = ((one.file, len(one.record.captions)) for one in row.pictures.values() if one.file is not None)
    return next((_first_tile(file, tiles) for file, tiles in found), None)


def _first_tile(file: Path, tiles: int) -> Print | None:
    try:
        with Image.open(file) as image:
            width, height = image.size
            gap = min(max(2, height // 14), 10)
            side = round((width - gap * (tiles - 1)) / max(1, tiles))
            if tiles < 2 or side < 1 or not 1 / 3 < side / height < 3:
                return None
            tile = image.convert("L").crop((0, 0, side, height)).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    except Exception:  # decoders raise many types on damaged data
        return None
    return np.asarray(tile, np.float32)


def _difference(first: Print, second: Print) -> float:
    return float(np.abs(first - second).mean())
