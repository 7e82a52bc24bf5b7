"""Write a run, or several side by side, to one HTML file that needs only a browser."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Template
from markupsafe import Markup

from vis_callbacks.output.store import write_whole
from vis_callbacks.report.content import Book, content_of, environment
from vis_callbacks.report.history import History
from vis_callbacks.report.names import run_names
from vis_callbacks.report.pictures import Album, pack
from vis_callbacks.report.reading import read_history
from vis_callbacks.report.script import PAGE, joined

REPORT = "report.html"
MAX_BYTES = 24_500_000
MOST_RUNS = 6

_MOST_PICTURES = 4000  # packing more would take minutes


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
    return _written(path, Book.of([history], [""]), max_bytes)


def write_comparison(directories: Sequence[Path | str], output: Path | str, *, max_bytes: int = MAX_BYTES) -> Path:
    """Write two to six runs side by side as one self-contained HTML file and return its path.

    Moments are those of the same epoch. Samples are matched by what their pictures show, layers and classes by name.

    Args:
        directories: The runs' log directories.
        output: The file.
        max_bytes: Upper limit of the file's size, as in `write_report`.

    Raises:
        ValueError: If there are fewer or more runs.
        FileNotFoundError: If one of them has no picture store.
        OSError: If the file cannot be written.
    """
    if not 2 <= len(directories) <= MOST_RUNS:
        raise ValueError(f"found {len(directories)} run(s), expected 2 to {MOST_RUNS}: give so many log directories")
    histories = [read_history(directory) for directory in directories]
    names = run_names([history.store for history in histories])
    return _written(Path(output), Book.of(histories, names), max_bytes)


def _written(path: Path, book: Book, max_bytes: int) -> Path:
    write_whole(path, _page(book, max_bytes).encode("utf-8", errors="replace"))
    return path


def _page(book: Book, max_bytes: int) -> str:
    template = environment().get_template("report.html.j2")
    shown = book
    while len(set(files_of(shown.runs))) > _MOST_PICTURES and len(shown.events) > 2:
        shown = _thinned(shown)
    texts = len(_rendered(template, shown, Album((), {}, {}, fits=True)))
    shown, album = _album(shown, max_bytes - texts)
    return _rendered(template, shown, album, left_out=len(book.events) - len(shown.events))


def files_of(runs: Sequence[History]) -> list[Path]:
    """Return the image files of runs, in the order of the page."""
    return [one.file for run in runs for row in run.rows for one in row.pictures.values() if one.file is not None]


def _album(book: Book, max_bytes: int) -> tuple[Book, Album]:
    """Pack the pictures; leave out every other event until they fit."""
    while True:
        album = pack(files_of(book.runs), max_bytes)
        if album.fits or len(book.events) <= 2:
            return book, album
        book = _thinned(book)


def _thinned(book: Book) -> Book:
    """Leave out every other event, but for the last."""
    last = len(book.events) - 1
    return book.at_events([*range(0, last, 2), last])


def _rendered(template: Template, book: Book, album: Album, left_out: int = 0) -> str:
    script = joined("report", "openReport")
    return template.render(
        **content_of(book, album, left_out=left_out),
        style=Markup((PAGE / "style.css").read_text(encoding="utf-8")),  # the package's own file, not a user's text
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )
