"""Several runs on one page: common moments, and rows that show the same thing."""

from collections.abc import Sequence
from dataclasses import replace

from vis_callbacks.report.history import History, HistoryEvent, Picture, Point, Row
from vis_callbacks.report.samples import matched_names

AXES = EPOCH, STEP = ("epoch", "step")


def aligned(histories: Sequence[History], axis: str = EPOCH) -> list[History]:
    """Return histories of the same moments, whose rows have the same names where they show the same thing.

    At a moment at which a run made no picture its row has none, and the page shows the one before. By epoch, the last
    picture of an epoch counts.

    Args:
        histories: Those of the runs.
        axis: `EPOCH` or `STEP`: what makes two moments the same.
    """
    keys = [[_key(event, axis) for event in history.events] for history in histories]
    moments: dict[tuple[int, ...], HistoryEvent] = {}
    for history, own in zip(histories, keys, strict=True):
        for key, event in zip(own, history.events, strict=True):
            seen = moments.get(key, event)
            # Runs of different batch sizes are at different steps at the end of the same epoch.
            moments[key] = event if seen.step == event.step else replace(event, step=-1)
    order = sorted(moments)
    place = {key: number for number, key in enumerate(order)}
    events = tuple(moments[key] for key in order)
    names = matched_names(histories)
    return [
        replace(
            history,
            events=events,
            rows=tuple(_moved(row, [place[key] for key in own], renamed) for row in history.rows),
            metrics=history.metrics if axis == STEP else _by_epoch(history),
        )
        for history, own, renamed in zip(histories, keys, names, strict=True)
    ]


def _key(event: HistoryEvent, axis: str) -> tuple[int, ...]:
    stage = {"fit": 0, "validate": 1, "test": 2}.get(event.stage, 3)
    return (event.epoch, stage) if axis == EPOCH else (event.step, event.epoch, stage)


def _moved(row: Row, places: Sequence[int], renamed: dict[tuple[str, str], str]) -> Row:
    pictures: dict[int, Picture] = {}
    for index, picture in row.pictures.items():
        pictures[places[index]] = picture
    return replace(row, name=renamed.get((row.callback, row.name), row.name), pictures=pictures)


def _by_epoch(history: History) -> dict[str, tuple[Point, ...]]:
    return {
        name: tuple({point.epoch: replace(point, step=point.epoch) for point in points}.values())
        for name, points in history.metrics.items()
    }
