"""What a page says about one run or several: the values of its template, and the data for its script."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps

from vis_callbacks.output.subject_facts import subject_facts
from vis_callbacks.report.cards import NAME, REASON, Section, data_of, picture_data, sections_of
from vis_callbacks.report.charts import charts, compared_charts
from vis_callbacks.report.comparison import EPOCH, aligned
from vis_callbacks.report.findings import Finding
from vis_callbacks.report.history import History, HistoryEvent, RunInfo, shorten
from vis_callbacks.report.pictures import Album
from vis_callbacks.report.script import PAGE

_TICK_LABELS, _MOST_TICKS = 8, 60


@dataclass(frozen=True)
class Book:
    """The runs that a page shows, all of the same moments.

    Attributes:
        runs: Their histories.
        names: Their names.
        axis: What makes two moments of several runs the same, ``"epoch"`` or ``"step"``.
    """

    runs: tuple[History, ...]
    names: tuple[str, ...]
    axis: str = EPOCH

    @classmethod
    def of(cls, histories: Sequence[History], names: Sequence[str], axis: str = EPOCH) -> "Book":
        """Return one run as it is, or several with common moments and the same names for the same samples."""
        runs = histories if len(histories) == 1 else aligned(histories, axis)
        return cls(tuple(runs), tuple(shorten(name, NAME) for name in names), axis)

    @property
    def several(self) -> bool:
        """Whether it compares runs."""
        return len(self.runs) > 1

    @property
    def events(self) -> tuple[HistoryEvent, ...]:
        """The moments."""
        return self.runs[0].events

    def at_events(self, kept: Sequence[int]) -> "Book":
        """Return the book with only the events at these indices."""
        return Book(tuple(run.at_events(kept) for run in self.runs), self.names, self.axis)


@dataclass(frozen=True)
class Evidence:
    """A finding as the page shows it: with its picture's index, and the address of its row and moment."""

    finding: Finding
    picture: int | None
    address: Mapping[str, str]


def environment() -> Environment:
    """Return the environment of the page's templates."""
    made = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters.update(duration=duration, short=lambda text, limit=NAME: shorten(text, limit))
    return made


def content_of(book: Book, album: Album, *, left_out: int = 0, live: bool = False) -> dict[str, Any]:
    """Return the values of the template ``content.html.j2``.

    Args:
        book: The runs.
        album: Their pictures.
        left_out: How many moments were left out.
        live: Whether the page is served, not a file.
    """
    sections = sections_of(book.runs, album)
    if book.several:
        metrics = compared_charts({name: run.metrics for name, run in zip(book.names, book.runs, strict=True)})
    else:
        metrics = charts(book.runs[0].metrics)
    by_epoch = book.several and book.axis == EPOCH
    places = [event.epoch if by_epoch else event.step for event in book.events]
    notes = [_of_run(book, at, note) for at, run in enumerate(book.runs) for note in _notes(run, album)]
    data = data_of(book.events, places, sections, metrics)
    for row in data["rows"]:
        row["run"] = book.names[row["run"]] if book.several else ""
    return {
        "book": book,
        "live": live,
        "timeless": book.runs[0].timeless,
        "title": _title(book),
        "facts": [_facts(run) for run in book.runs],
        "banners": [_of_run(book, at, text) for at, run in enumerate(book.runs) if (text := _banner(run.run))],
        "findings": [_evidence(run, album, sections, at) for at, run in enumerate(book.runs)],
        "events": book.events,
        "ticks": _ticks(book.events),
        "unit": "epoch" if by_epoch else "step",
        "charts": metrics,
        "sections": sections,
        "seconds": [] if book.several else _seconds(book.runs[0]),
        "run": book.runs[0].run,
        "notes": [*_left_out(left_out), *notes],
        "data": htmlsafe_json_dumps(data),
        "pictures": htmlsafe_json_dumps([picture_data(picture) for picture in album.pictures]),
    }


def _title(book: Book) -> str:
    if book.several:
        return shorten(" · ".join(book.names), NAME)
    return shorten(book.runs[0].run.model, NAME) or "Training run"


def _of_run(book: Book, at: int, text: str) -> str:
    return f"{book.names[at]}: {text}" if book.several else text


def _notes(run: History, album: Album) -> list[str]:
    damage = [
        f"{shorten(str(path.name), NAME)}: {reason}"
        for path, reason in album.damaged.items()
        if path.is_relative_to(run.store.resolve())
    ]
    return [*_others(run.run), *run.run.notes, *run.problems, *damage]


def _evidence(history: History, album: Album, sections: Sequence[Section], run: int) -> list[Evidence] | None:
    """Return the findings of a run with their evidence; None if nothing was checked."""
    if history.findings is None:
        return None
    keys = {
        picture.record.tag: (row, card.key)
        for section in sections
        for card in section.cards
        if card.run == run
        for row in history.rows
        if card.key == row.tag
        for picture in row.pictures.values()
    }
    found = []
    for finding in history.findings.findings:
        row, key = next((keys[tag] for tag in finding.rows if tag in keys), (None, ""))
        picture, address = None, {}
        if row is not None:
            shown = {
                at: album.index[one.file] for at, one in row.pictures.items() if one.file and one.file in album.index
            }
            last = finding.last_epoch
            inside = [at for at in shown if last is None or history.events[at].epoch <= last]
            for at in (inside or list(shown))[-1:]:
                picture = shown[at]
                address = {"epoch": str(history.events[at].epoch), "row": key}
        found.append(Evidence(finding, picture, address))
    return found


def _left_out(events: int) -> list[str]:
    if not events:
        return []
    return [f"{events} moments of the run are left out to keep this file small; their pictures are in the store."]


def _facts(history: History) -> list[tuple[str, str, str]]:
    """Return the facts for the head of the page: name, value and a remark in small print."""
    run = history.run
    facts = _short_facts(run.subject)
    if run.parameters is not None:
        facts.append(("Parameters", _rounded(run.parameters), f"{run.parameters:,}"))
    if run.epochs is not None:
        of = "" if run.max_epochs is None or run.max_epochs < 0 else f"of {run.max_epochs}"
        facts.append(("Epochs", str(run.epochs), of))
    if run.training_seconds is not None:
        facts.append(("Time for training", duration(run.training_seconds), _moment(run.started)))
    spent = sum(_picture_seconds(history).values())
    if spent > 0:
        share = f"{spent / (spent + run.training_seconds) * 100:.2g} % of all" if run.training_seconds else ""
        facts.append(("Time for pictures", duration(spent), share))
    files = {picture.file for row in history.rows for picture in row.pictures.values() if picture.file is not None}
    facts.append(("Pictures", f"{len(files):,}", "" if history.timeless else f"at {len(history.events)} moments"))
    return facts


def _short_facts(subject: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return [(term, shorten(value, NAME), shorten(remark, NAME)) for term, value, remark in subject_facts(subject)]


def _others(run: RunInfo) -> list[str]:
    """Return what callbacks show that show something else than the rest."""
    return [
        f"{name}: " + ", ".join(f"{term.lower()} {value}" for term, value, _ in _short_facts(subject))
        for name, subject in run.subjects.items()
    ]


def _banner(run: RunInfo) -> str:
    problems = dict.fromkeys(one.get("problem") for one in (run.subject, *run.subjects.values()))
    told = [f"{one[0].upper()}{shorten(one[1:], 300)}." for one in problems if isinstance(one, str) and one]
    return " ".join(filter(None, [_end(run), *told]))


def _end(run: RunInfo) -> str:
    if run.status.startswith("stopped"):
        return f"Training was {shorten(run.status, REASON)}. Everything up to then is shown."
    if run.status == "running":
        seen = _moment(run.updated)
        return "The run had not ended when this report was made." + (f" Last sign of life: {seen}." if seen else "")
    return ""


def _picture_seconds(history: History) -> dict[str, float]:
    if history.run.picture_seconds:
        return dict(history.run.picture_seconds)
    return {
        callback: sum(picture.record.seconds for row in rows for picture in row.pictures.values())
        for callback, rows in history.sections.items()
    }


def _seconds(history: History) -> list[tuple[str, float, float]]:
    """Return each part of the picture time as name, seconds and share, largest first."""
    seconds = {name: value for name, value in _picture_seconds(history).items() if value > 0}
    total = sum(seconds.values())
    largest_first = sorted(seconds.items(), key=lambda item: -item[1])
    return [(shorten(name, NAME), value, value / total) for name, value in largest_first]


def _ticks(events: Sequence[HistoryEvent]) -> list[tuple[float, str, str]]:
    """Return the place of each event along the slider, with its epoch and its step if there is room."""
    last = len(events) - 1
    stride = max(1, -(-len(events) // _TICK_LABELS))
    ticks, latest = [], ""
    for index, event in enumerate(events):
        labelled = index == last or (index % stride == 0 and (stride == 1 or index + stride / 2 <= last))
        label = str(event.epoch) if labelled and str(event.epoch) != latest else ""
        latest = label or latest
        if label or len(events) <= _MOST_TICKS:
            ticks.append((index / max(1, last), label, str(event.step) if labelled and event.step >= 0 else ""))
    return ticks


def _moment(time: float | None) -> str:
    if time is None:
        return ""
    try:
        return datetime.fromtimestamp(time).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, OSError, ValueError):
        return ""


def _rounded(count: int) -> str:
    for size, unit in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def duration(seconds: float) -> str:
    """Return a time span as text.

    Example:
        >>> duration(0.0421), duration(8.43), duration(192.0), duration(7500.0)
        ('42 ms', '8.4 s', '3 min 12 s', '2 h 05 min')
    """
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
