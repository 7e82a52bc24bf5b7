"""Read a picture store, even a damaged or incomplete one."""

import json
import math
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from vis_callbacks.output.files import FOLDER, METRICS, PANELS, RUN
from vis_callbacks.output.record import Record
from vis_callbacks.report.findings import read_findings
from vis_callbacks.report.history import History, HistoryEvent, Picture, Point, Row, RunInfo, shorten

_MOST_PROBLEMS = 20
_LARGEST_INTEGER = 2**53  # larger ones are not exact in a browser

T = TypeVar("T")


def find_store(directory: Path) -> Path:
    """Return the picture store of a log directory; the path of a store itself is returned unchanged.

    Raises:
        FileNotFoundError: If there is none. The message names stores in folders below, if there are any.
    """
    for candidate in (directory, directory / FOLDER):
        if any((candidate / name).is_file() for name in (PANELS, METRICS, RUN)):
            return candidate
    if not directory.exists():
        found = "no such directory"
    elif not directory.is_dir():
        found = "that is a file"
    else:
        found = "found no picture store in it"
    nearby = list(islice(_stores_below(directory), 3)) if directory.is_dir() else []
    remedy = (
        "There are some further down; give one of these: " + ", ".join(map(str, nearby))
        if nearby
        else "Give the log directory of a run that had a visualization callback (Lightning prints it, e.g. "
        "lightning_logs/version_0)"
    )
    raise FileNotFoundError(f"{directory}: {found}. Expected {PANELS} in {directory / FOLDER}. {remedy}.")


def read_history(directory: Path | str) -> History:
    """Read the picture store of a run.

    Half-written lines, missing files, values of the wrong type and file names outside the store raise no error: they
    are skipped or become gaps, and are listed in `History.problems`.

    Args:
        directory: The run's log directory, or the ``visualizations`` directory in it.

    Raises:
        FileNotFoundError: If there is no picture store.

    Example:
        >>> import tempfile
        >>> from vis_callbacks.output.record import Record
        >>> with tempfile.TemporaryDirectory() as store:
        ...     record = Record("Saliency/7", "Saliency", epoch=1, step=99, error="out of memory")
        ...     _ = Path(store, "panels.jsonl").write_text(record.to_json())
        ...     history = read_history(store)
        >>> history.events[0].label, history.rows[0].pictures[0].gap
        ('epoch 1 · step 99', 'out of memory')
    """
    store = find_store(Path(directory))
    problems: list[str] = []
    run = _read_run(store / RUN, problems)
    # A run that says why it shows nothing has no file of pictures.
    records = _latest(_read_lines(store / PANELS, _parse_record, problems, required=not run.remarks))
    events = _events(records)
    return History(
        store=store,
        events=events,
        rows=_rows(store, records, events, problems),
        metrics=_metrics(_read_lines(store / METRICS, _parse_metrics, problems, required=False)),
        run=run,
        problems=_at_most(problems, _MOST_PROBLEMS),
        findings=read_findings(store),
    )


def _stores_below(directory: Path) -> Iterator[Path]:
    for depth in ("*", "*/*", "*/*/*"):
        for path in sorted(directory.glob(f"{depth}/{FOLDER}/{PANELS}")):
            yield path.parent.parent


def _read_lines(path: Path, parse: Callable[[str], T], problems: list[str], *, required: bool = True) -> Iterator[T]:
    try:
        data = path.read_bytes()
    except OSError as error:
        if required or not isinstance(error, FileNotFoundError):
            problems.append(f"{path.name} could not be read: {error.strerror or error}")
        return
    # Split only at line feeds: a class name may hold any other line separator of Unicode.
    lines = data.decode("utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield parse(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                problems.append(f"{path.name} ends in half a line: the run was killed while writing it")
            else:
                problems.append(f"{path.name}, line {number} was skipped: {shorten(str(error), 120)}")


def _parse_record(line: str) -> Record:
    data = json.loads(line)
    if not isinstance(data, dict):
        raise ValueError(f"expected a JSON object, found {type(data).__name__}")
    found = data.get
    tag, callback = _text(found("tag")), _text(found("callback"))
    epoch, step = _integer(found("epoch")), _integer(found("step"))
    if not tag or epoch is None or step is None:
        raise ValueError("a record needs a tag, an epoch and a step")
    captions, right = found("captions"), found("right")
    return Record(
        tag=tag,
        callback=callback or tag.partition("/")[0],
        epoch=epoch,
        step=step,
        stage=_text(found("stage")) or "fit",
        sample=_integer(found("sample")),
        label=_text(found("label")),
        predicted=_text(found("predicted")),
        probability=_number(found("probability")),
        file=_text(found("file")),
        seconds=_number(found("seconds")) or 0.0,
        caption=_text(found("caption")) or "",
        captions=tuple(_text(item) or "" for item in captions) if isinstance(captions, list) else (),
        scalars=_numbers(found("scalars")),
        error=_text(found("error")),
        time=_number(found("time")) or 0.0,
        right=right if isinstance(right, bool) else None,
        content=_text(found("content")),
        captions_inside=found("captions_inside") is True,
    )


def _parse_metrics(line: str) -> tuple[int, int, dict[str, float | None]]:
    data = json.loads(line)
    if not isinstance(data, dict) or not isinstance(data.get("values"), dict):
        raise ValueError("expected an object with values")
    epoch, step = _integer(data.get("epoch")), _integer(data.get("step"))
    if epoch is None or step is None:
        raise ValueError("metrics need an epoch and a step")
    return epoch, step, {name: _number(value) for name, value in data["values"].items()}


def _read_run(path: Path, problems: list[str]) -> RunInfo:
    try:
        data = json.loads(path.read_bytes().decode("utf-8", errors="replace"))
        if not isinstance(data, dict):
            raise ValueError("expected a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        problems.append(
            f"{path.name} could not be read, so facts about the run are missing: {shorten(str(error), 120)}"
        )
        return RunInfo()
    notes = data.get("notes")
    return RunInfo(
        model=_text(data.get("model")) or "",
        parameters=_integer(data.get("parameters")),
        started=_number(data.get("started")),
        updated=_number(data.get("updated")),
        epochs=_integer(data.get("epochs")),
        max_epochs=_integer(data.get("max_epochs")),
        training_seconds=_number(data.get("training_seconds")),
        picture_seconds=_numbers(data.get("picture_seconds")),
        thread_seconds=_number(data.get("thread_seconds")),
        status=_text(data.get("status")) or "",
        versions=_texts(data.get("versions")),
        notes=tuple(filter(None, map(_text, notes))) if isinstance(notes, list) else (),
        about=_texts(data.get("about")),
        remarks=_texts(data.get("remarks")),
        subject=_mapping(data.get("subject")),
        subjects={name: _mapping(found) for name, found in _mapping(data.get("subjects")).items()},
    )


def _latest(records: Iterator[Record]) -> list[Record]:
    # A resumed or repeated epoch writes its pictures again: the last ones count.
    return list({(record.tag, *_moment(record)): record for record in records}.values())


def _moment(record: Record) -> tuple[int, int, str]:
    return record.epoch, record.step, record.stage


def _events(records: list[Record]) -> tuple[HistoryEvent, ...]:
    # A validation or test after the fit has its last epoch and step, but comes after it.
    return tuple(
        sorted(
            (HistoryEvent(*moment) for moment in set(map(_moment, records))),
            key=lambda one: (one.epoch, one.step, one.stage != "fit", one.stage == "test", one.stage),
        )
    )


def _rows(store: Path, records: list[Record], events: tuple[HistoryEvent, ...], problems: list[str]) -> tuple[Row, ...]:
    index = {(event.epoch, event.step, event.stage): number for number, event in enumerate(events)}
    folders = _Folders(store)
    sections: dict[str, dict[str, dict[int, Picture]]] = {}
    for record in records:
        pictures = sections.setdefault(record.callback, {}).setdefault(_name(record), {})
        pictures[index[_moment(record)]] = _picture(record, folders, problems)
    rows = []
    for callback, named in sections.items():
        _spread_failures(named)
        rows += [Row(callback, name, dict(sorted(pictures.items()))) for name, pictures in named.items()]
    return tuple(rows)


def _name(record: Record) -> str:
    if record.tag == record.callback or record.tag.startswith(record.callback + "/"):
        return record.tag[len(record.callback) + 1 :]
    return record.tag.partition("/")[2]


def _spread_failures(named: dict[str, dict[int, Picture]]) -> None:
    """Show the failure of a whole callback (a record without a name) as a gap in each of its rows."""
    whole = named.get("", {})
    if len(named) == 1 or any(picture.gap is None for picture in whole.values()):
        return
    named.pop("", None)
    for pictures in named.values():
        for index, picture in whole.items():
            pictures.setdefault(index, picture)


class _Folders:
    """The folders of a store, each listed once: to ask for every single file takes several times as long."""

    def __init__(self, store: Path) -> None:
        self._store, self._root = store, store.resolve()
        self._plain: dict[str, tuple[Path, frozenset[str]]] = {}

    def find(self, name: str) -> tuple[Path | None, str]:
        """Return the file of a name from a record, or why there is none."""
        folder, _, last = name.rpartition("/")
        try:
            if folder not in self._plain:
                self._plain[folder] = self._listed(folder)
            path, plain = self._plain[folder]
            if last in plain:
                return path / last, ""
            file = (self._store / name).resolve()
            if not file.is_relative_to(self._root):
                return None, f"the file name {shorten(name, 120)} leads out of the store"
            return (file, "") if file.is_file() else (None, f"the file {shorten(name, 120)} is missing")
        except (OSError, ValueError, RuntimeError):  # too long, a null byte, a loop of links
            return None, f"the file name {shorten(name, 120)} is not usable"

    def _listed(self, folder: str) -> tuple[Path, frozenset[str]]:
        """Return a folder with its files that are no links; outside the store, or where there is none, with none."""
        path = (self._store / folder).resolve()
        if not path.is_relative_to(self._root) or not path.is_dir():
            return path, frozenset()
        with os.scandir(path) as entries:
            return path, frozenset(one.name for one in entries if one.is_file(follow_symlinks=False))


def _picture(record: Record, folders: _Folders, problems: list[str]) -> Picture:
    """Return a record's picture, or why there is none."""
    if record.file is None:
        return Picture(record, gap=record.error or "the picture was not made")
    file, gap = folders.find(record.file)
    if file is None:
        problems.append(f"{shorten(record.tag, 120)}, {HistoryEvent(*_moment(record)).name}: {gap}")
    return Picture(record, file, gap or None)


def _metrics(lines: Iterator[tuple[int, int, dict[str, float | None]]]) -> dict[str, tuple[Point, ...]]:
    series: dict[str, dict[int, Point]] = {}
    for epoch, step, values in lines:
        for name, value in values.items():
            series.setdefault(name, {})[step] = Point(epoch, step, value)
    return {name: tuple(points[step] for step in sorted(points)) for name, points in series.items()}


def _at_most(problems: list[str], limit: int) -> list[str]:
    if len(problems) <= limit:
        return problems
    return [*problems[:limit], f"and {len(problems) - limit} more of this kind"]


def _text(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    # A lone surrogate cannot be written as UTF-8.
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(value: Any) -> dict[str, str]:
    items = value.items() if isinstance(value, dict) else ()
    return {key: text for key, item in items if (text := _text(item)) is not None}


def _number(value: Any) -> float | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _numbers(value: Any) -> dict[str, float]:
    items = value.items() if isinstance(value, dict) else ()
    return {key: number for key, item in items if (number := _number(item)) is not None}


def _integer(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number.is_integer() and abs(number) <= _LARGEST_INTEGER else None
