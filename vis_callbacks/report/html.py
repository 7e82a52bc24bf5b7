"""Write the report: one HTML file that needs only a browser."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from vis_callbacks.output.store import write_whole
from vis_callbacks.output.subject_facts import subject_facts
from vis_callbacks.report.cards import NAME, REASON, data_of, picture_data, sections_of
from vis_callbacks.report.charts import charts
from vis_callbacks.report.history import History, HistoryEvent, RunInfo, shorten
from vis_callbacks.report.pictures import Album, pack
from vis_callbacks.report.reading import read_history

REPORT = "report.html"
MAX_BYTES = 24_500_000

_TEMPLATES = Path(__file__).parent / "templates"
_MOST_PICTURES = 4000  # packing more would take minutes
_TICK_LABELS, _MOST_TICKS = 8, 60


def write_report(directory: Path | str, output: Path | str | None = None, *, max_bytes: int = MAX_BYTES) -> Path:
    """Write the report of a run as one self-contained HTML file and return its path.

    The file is written whole or not at all. If the pictures exceed `max_bytes` even at the lowest quality, some events
    are left out, and a note in the report says so.

    Args:
        directory: The run's log directory, or the ``visualizations`` directory in it.
        output: A file, or a directory for ``report.html``. None: ``report.html`` in the store.
        max_bytes: Upper limit of the file's size.

    Raises:
        FileNotFoundError: If there is no picture store.
        OSError: If the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as store:
        ...     _ = Path(store, "panels.jsonl").write_text("")
        ...     write_report(store).name
        'report.html'
    """
    history = read_history(directory)
    path = history.store / REPORT if output is None else Path(output)
    if path.is_dir():
        path = path / REPORT
    write_whole(path, _page(history, max_bytes).encode("utf-8", errors="replace"))
    return path


def _page(history: History, max_bytes: int) -> str:
    template = _template()
    texts = len(_rendered(template, history, Album((), {}, {}, fits=True)))
    shown, album = _album(history, max_bytes - texts)
    return _rendered(template, shown, album, left_out=len(history.events) - len(shown.events))


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(duration=duration, short=lambda text, limit=NAME: shorten(text, limit))
    return environment.get_template("report.html.j2")


def _album(history: History, max_bytes: int) -> tuple[History, Album]:
    """Pack the pictures; leave out every other event until they fit."""
    while True:
        files = [picture.file for row in history.rows for picture in row.pictures.values() if picture.file is not None]
        too_many = len(set(files)) > _MOST_PICTURES and len(history.events) > 2
        if not too_many:
            album = pack(files, max_bytes)
            if album.fits or len(history.events) <= 2:
                return history, album
        last = len(history.events) - 1
        history = history.at_events([*range(0, last, 2), last])


def _rendered(template: Template, history: History, album: Album, left_out: int = 0) -> str:
    script = _source("report.js")
    sections = sections_of(history, album)
    metrics = charts(history.metrics)
    damage = [f"{shorten(str(path.name), NAME)}: {reason}" for path, reason in album.damaged.items()]
    return template.render(
        title=shorten(history.run.model, NAME) or "Training run",
        facts=_facts(history),
        banner=_banner(history.run),
        events=history.events,
        timeless=history.timeless,
        ticks=_ticks(history.events),
        charts=metrics,
        sections=sections,
        seconds=_seconds(history),
        run=history.run,
        notes=[*_others(history.run), *history.run.notes, *_left_out(left_out), *history.problems, *damage],
        data=htmlsafe_json_dumps(data_of(history, sections, metrics)),
        pictures=htmlsafe_json_dumps([picture_data(picture) for picture in album.pictures]),
        style=_source("report.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )


def _source(name: str) -> Markup:
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))  # the package's own file, not a user's text


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


def _ticks(events: Sequence[HistoryEvent]) -> list[tuple[float, str]]:
    """Return the place of each event along the slider, with its epoch if there is room for it."""
    last = len(events) - 1
    stride = max(1, -(-len(events) // _TICK_LABELS))
    ticks, latest = [], ""
    for index, event in enumerate(events):
        labelled = index == last or (index % stride == 0 and (stride == 1 or index + stride / 2 <= last))
        label = str(event.epoch) if labelled and str(event.epoch) != latest else ""
        latest = label or latest
        if label or len(events) <= _MOST_TICKS:
            ticks.append((index / max(1, last), label))
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
