"""The page of runs as the live page shows it: pictures have addresses and are not packed."""

import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment
from PIL import Image

from vis_callbacks.live.runs import Run
from vis_callbacks.report.comparison import AXES
from vis_callbacks.report.content import Book, content_of, environment
from vis_callbacks.report.history import Row
from vis_callbacks.report.html import MOST_RUNS
from vis_callbacks.report.pictures import SMALL_SIDE, Album, Packed
from vis_callbacks.report.reading import read_history


def live_content(runs: Sequence[Run], axis: str) -> dict[str, Any]:
    """Return the content of the page, the data for its script, and the pictures with their addresses.

    Args:
        runs: One run, or up to six to compare.
        axis: ``"epoch"`` or ``"step"``.
    """
    shown = runs[:MOST_RUNS]
    histories = [read_history(run.store) for run in shown]
    album = _linked([(run, history.rows) for run, history in zip(shown, histories, strict=True)])
    book = Book.of(histories, [run.name for run in shown], axis if axis in AXES else AXES[0])
    values = content_of(book, album, live=True)
    return {
        "html": _environment().get_template("content.html.j2").render(values),
        "data": json.loads(values["data"]),
        "pictures": json.loads(values["pictures"]),
        "title": values["title"],
        "running": [run.run.status == "running" for run in book.runs],
    }


@cache
def _environment() -> Environment:
    return environment()


def _linked(runs: Iterable[tuple[Run, Sequence[Row]]]) -> Album:
    """Return an album of addresses. All pictures of a row count as large as its first one."""
    pictures: list[Packed] = []
    index: dict[Path, int] = {}
    for run, rows in runs:
        store = run.store.resolve()
        for row in rows:
            files = [one for one in row.pictures.values() if one.file is not None]
            width, height = next(filter(None, (_size(one.file) for one in files if one.file)), (1, 1))
            for one in files:
                if one.file is None or one.file in index:
                    continue
                index[one.file] = len(pictures)
                crisp = one.file.suffix == ".png" or max(width, height) <= SMALL_SIDE
                # A resumed run makes pictures again, under the same name.
                query = {"run": run.name, "file": one.file.relative_to(store).as_posix(), "at": one.record.time}
                pictures.append(Packed(f"picture?{urlencode(query)}", width, height, crisp))
    return Album(tuple(pictures), index, {}, fits=True)


def _size(file: Path) -> tuple[int, int] | None:
    try:
        with Image.open(file) as image:
            return image.size
    except Exception:  # decoders raise many types on damaged data
        return None
