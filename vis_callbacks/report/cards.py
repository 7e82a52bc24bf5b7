"""The pictures as the page shows them: sections, cards, and the data for its script."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import Any

from vis_callbacks.output.record import Record
from vis_callbacks.report.charts import Chart, Scale, path_of, scale_of
from vis_callbacks.report.history import History, HistoryEvent, Picture, Row, shorten
from vis_callbacks.report.pictures import Album, Packed
from vis_callbacks.report.titles import title_of

NAME, SENTENCE, REASON = 120, 400, 600  # characters of the longest texts shown

_MOST_SCALARS = 4
_MOST_CAPTIONS = 12
_READABLE = 310  # CSS pixels at which text inside a picture can be read


@dataclass(frozen=True)
class Spark:
    """A small curve of one number of a row over time, with one value and one height per event."""

    name: str
    path: str
    values: tuple[float | None, ...]
    heights: tuple[float | None, ...]


@dataclass(frozen=True)
class Card:
    """One row of the history as the page shows it.

    Attributes:
        key: Its tag, ``<callback>/<name>``.
        name: Name of the sample, layer or class.
        run: Index of its run.
        aspect: Width divided by height of its pictures.
        frames: The data for the page's script, one entry per event.
        sparks: Its numbers over time.
        right: SVG path of the events with a right prediction.
        wrong: SVG path of the events with a wrong prediction.
    """

    key: str
    name: str
    run: int
    aspect: float
    frames: tuple[dict[str, Any] | None, ...]
    sparks: tuple[Spark, ...]
    right: str
    wrong: str


@dataclass(frozen=True)
class Section:
    """One callback as the page shows it.

    Attributes:
        name: Name of the callback in words.
        anchor: Id of the section in the page.
        groups: Its rows, each with one card for each run; empty if it shows nothing. None: the run has no such row.
        width: Preferred width of a card, in CSS pixels.
        square: Whether two cards fit side by side on a small screen.
        about: One sentence about its pictures.
        remarks: Why it shows nothing, or was left out at times.
    """

    name: str
    anchor: str
    groups: tuple[tuple[Card | None, ...], ...]
    width: int
    square: bool
    about: str
    remarks: tuple[str, ...]

    @property
    def cards(self) -> tuple[Card, ...]:
        """The cards in the order of the page."""
        return tuple(card for group in self.groups for card in group if card is not None)


def sections_of(runs: Sequence[History], album: Album) -> list[Section]:
    """Return one section per callback: those with pictures, then those that show nothing and say why.

    Args:
        runs: The histories to show side by side, of the same events.
        album: Their pictures.
    """
    shown = dict.fromkeys(row.callback for run in runs for row in run.rows)
    callbacks = dict.fromkeys([*shown, *(name for run in runs for name in run.run.remarks)])
    return [_section(f"section-{number}", callback, runs, album) for number, callback in enumerate(callbacks, start=1)]


def _section(anchor: str, callback: str, runs: Sequence[History], album: Album) -> Section:
    rows = [(at, row) for at, run in enumerate(runs) for row in run.sections.get(callback, [])]
    aspects = {id(row): _aspect(row, album) for _, row in rows}
    usual = median([aspect for aspect in aspects.values() if aspect is not None] or [1.0])
    sparks = _sparks([row for _, row in rows], len(runs[0].events))
    groups: dict[str, list[Card | None]] = {}
    for (at, row), curves in zip(rows, sparks, strict=True):
        card = _card(at, row, aspects[id(row)] or usual, curves, len(runs[0].events), album)
        groups.setdefault(row.name, [None] * len(runs))[at] = card
    wide = 340 * usual**0.5 if len(groups) <= 2 else 170 * usual**0.75
    if any(picture.record.captions_inside for _, row in rows for picture in row.pictures.values()):
        wide = max(wide, _READABLE)
    remarks = dict.fromkeys(shorten(run.run.remarks.get(callback, ""), REASON) for run in runs)
    return Section(
        name=shorten(title_of(callback), NAME),
        anchor=anchor,
        groups=tuple(map(tuple, groups.values())),
        width=round(min(max(wide, 150), 640)),
        square=usual < 1.4 and len(groups) > 1,
        about=shorten(next(filter(None, (run.run.about.get(callback) for run in runs)), ""), REASON),
        remarks=tuple(filter(None, remarks)),
    )


def _card(run: int, row: Row, aspect: float, sparks: tuple[Spark, ...], events: int, album: Album) -> Card:
    frames = tuple(_frame(row.pictures.get(index), album) for index in range(events))
    return Card(
        key=row.tag,
        name=shorten(row.name or title_of(row.callback), NAME),
        run=run,
        aspect=aspect,
        frames=frames,
        sparks=sparks,
        right=_cells(frames, right=True),
        wrong=_cells(frames, right=False),
    )


def _cells(frames: Sequence[dict[str, Any] | None], *, right: bool) -> str:
    """Return boxes side by side in a 100 by 100 square, one per right (or wrong) event; wrong ones are lower."""
    width, top = 100 / max(1, len(frames)), 0 if right else 60
    return "".join(
        f"M{index * width:.2f} {top}h{width * 0.8:.2f}V100h{-width * 0.8:.2f}z"
        for index, frame in enumerate(frames)
        if frame is not None and frame.get("right") is right
    )


def _packed(picture: Picture | None, album: Album) -> Packed | None:
    place = album.index.get(picture.file) if picture is not None and picture.file is not None else None
    return album.pictures[place] if place is not None else None


def _aspect(row: Row, album: Album) -> float | None:
    # Of a grid that grows with the training, the tallest picture keeps its width.
    shown = filter(None, (_packed(picture, album) for picture in row.pictures.values()))
    return min((packed.width / packed.height for packed in shown), default=None)


def _frame(picture: Picture | None, album: Album) -> dict[str, Any] | None:
    """Return the data with which the page's script shows a picture, without empty entries."""
    if picture is None:
        return None
    record, gap = picture.record, picture.gap
    if picture.file is not None and picture.file not in album.index:
        gap = album.damaged.get(picture.file, "the picture is not shown")
    named = 0 if record.captions_inside else sum(1 for caption in record.captions if caption)
    frame = {
        "image": album.index.get(picture.file) if picture.file is not None else None,
        "gap": None if gap is None else shorten(gap, REASON),
        "caption": shorten(record.caption, SENTENCE),
        # More captions than this do not fit under a picture.
        "tiles": [shorten(text, NAME) for text in record.captions] if 0 < named <= _MOST_CAPTIONS else None,
        "label": None if record.label is None else shorten(record.label, NAME),
        "predicted": None if record.predicted is None else shorten(record.predicted, NAME),
        "right": _is_right(record),
        "probability": record.probability,
    }
    return {key: value for key, value in frame.items() if value is not None and value != ""}


def _is_right(record: Record) -> bool | None:
    if record.label is None or record.predicted is None:
        return None
    return record.label == record.predicted if record.right is None else record.right


def _sparks(rows: Sequence[Row], events: int) -> list[tuple[Spark, ...]]:
    """Return the curves of each row; the rows of a callback share one scale per number, so that they compare."""
    pictures = [picture for row in rows for picture in row.pictures.values()]
    names = dict.fromkeys(name for picture in pictures for name in picture.record.scalars)
    sparks: list[list[Spark]] = [[] for _ in rows]
    for name in islice(names, _MOST_SCALARS):
        scale = scale_of([picture.record.scalars[name] for picture in pictures if name in picture.record.scalars])
        for row, row_sparks in zip(rows, sparks, strict=True):
            values = tuple(_scalar(row.pictures.get(index), name) for index in range(events))
            if any(value is not None for value in values):
                row_sparks.append(_spark(name, values, scale))
    return [tuple(row_sparks) for row_sparks in sparks]


def _spark(name: str, values: tuple[float | None, ...], scale: Scale) -> Spark:
    heights = tuple(None if value is None else round(scale.height(value), 4) for value in values)
    last = max(1, len(values) - 1)
    known = [(index / last, height) for index, height in enumerate(heights) if height is not None]
    return Spark(shorten(name.replace("_", " "), NAME), path_of(known), values, heights)


def _scalar(picture: Picture | None, name: str) -> float | None:
    return None if picture is None else picture.record.scalars.get(name)


def data_of(
    events: Sequence[HistoryEvent], places: Sequence[int], sections: Sequence[Section], metrics: Sequence[Chart]
) -> dict[str, Any]:
    """Return the data for the page's script, except the pictures; cards and charts in the order of the page.

    Args:
        events: The moments.
        places: Where each of them is along the charts.
        sections: The cards.
        metrics: The charts.
    """
    return {
        "events": [
            {
                "name": event.name,
                "label": event.label,
                "epoch": event.epoch,
                "step": event.step,
                "stage": event.stage,
                "at": place,
            }
            for event, place in zip(events, places, strict=True)
        ],
        "rows": [
            {
                "key": card.key,
                "section": section.name,
                "name": card.name,
                "run": card.run,
                "frames": card.frames,
                "sparks": [{"values": spark.values, "heights": spark.heights} for spark in card.sparks],
            }
            for section in sections
            for card in section.cards
        ],
        "charts": [
            {
                "first": chart.first_step,
                "last": chart.last_step,
                "lines": [
                    {"steps": line.steps, "values": line.values, "heights": line.heights} for line in chart.lines
                ],
            }
            for chart in metrics
        ],
    }


def picture_data(picture: Packed) -> dict[str, Any]:
    """Return a picture in the form that the page's script reads."""
    return {"source": picture.source, "width": picture.width, "height": picture.height, "crisp": picture.crisp}
