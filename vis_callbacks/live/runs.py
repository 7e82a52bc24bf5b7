"""Finds the picture stores below log directories, quickly: it is done at every look at the list."""

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vis_callbacks.output.files import FINDINGS, FOLDER, METRICS, PANELS, RUN

_FILES = (PANELS, METRICS, RUN, FINDINGS)
_FRESH = 2.0  # seconds for which a list counts
_DEEPEST = 12
_PASSED_BY = {"checkpoints", "__pycache__"}


@dataclass(frozen=True)
class Run:
    """A run that has a picture store.

    Attributes:
        name: Its path below the log directory, with the name of that if it has one.
        store: The store.
    """

    name: str
    store: Path

    def sizes(self) -> tuple[int, ...]:
        """Return how large each file of the store is: lines are only added, so what is new makes it larger."""
        return tuple(_size(self.store / name) for name in _FILES)

    def token(self) -> str:
        """Return a text that is another one once anything was written."""
        return ".".join(f"{_size(self.store / name):x}-{_changed(self.store / name):x}" for name in _FILES)


class Runs:
    """The runs below some folders.

    Args:
        folders: Folders by name; a name may be empty.
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = dict(folders)
        self._found: dict[str, Run] = {}
        self._looked = -_FRESH

    def all(self) -> dict[str, Run]:
        """Return the runs by name, in natural order."""
        now = time.monotonic()
        if now - self._looked >= _FRESH:
            found = [run for name, folder in self._folders.items() for run in _runs_below(name, folder)]
            self._found = {run.name: run for run in sorted(found, key=lambda run: _natural(run.name))}
            self._looked = time.monotonic()
        return self._found

    def any(self) -> bool:
        """Whether there is one."""
        return bool(self.all())


def folders_of(logdir: str, spec: str = "") -> dict[str, Path]:
    """Return the folders that ``--logdir`` or ``--logdir_spec`` name; those of remote file systems are none.

    Example:
        >>> sorted(folders_of("", "a:/logs/a,b:/logs/b")), folders_of("gs://bucket/logs")
        (['a', 'b'], {})
    """
    if not spec:
        return {} if not logdir or "://" in logdir else {"": Path(logdir).expanduser()}
    folders = {}
    for number, part in enumerate(spec.split(",")):
        name, colon, path = part.partition(":")
        if not colon or path.startswith("//") or "/" in name:
            name, path = ("" if number == 0 else str(number)), part
        if path and "://" not in path:
            folders[name] = Path(path).expanduser()
    return folders


def _runs_below(name: str, folder: Path) -> Iterator[Run]:
    if _is_store(folder):
        # The store itself, or the run's own folder, was given.
        yield Run(name or folder.absolute().parent.name, folder)
        return
    for below in _stores(str(folder), _DEEPEST):
        run = Path(below).relative_to(folder).parent.as_posix()
        parts = [part for part in (name, run) if part not in ("", ".")]
        yield Run("/".join(parts) or folder.absolute().name, Path(below))


def _stores(folder: str, depth: int) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            folders = [one for one in entries if one.is_dir(follow_symlinks=True)]
    except OSError:
        return
    for one in folders:
        if one.name == FOLDER and _is_store(Path(one.path)):
            yield one.path
        elif depth and one.name not in _PASSED_BY and not one.name.startswith(".") and not _is_set_aside(one.name):
            yield from _stores(one.path, depth - 1)


def _is_store(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (PANELS, METRICS, RUN))


def _is_set_aside(name: str) -> bool:
    # The store of an earlier run in the same folder.
    return name.startswith(f"{FOLDER}.")


def _natural(name: str) -> list[tuple[int, str]]:
    digits = "".join(one if one.isdigit() and one.isascii() else f"\0{one}\0" for one in name).split("\0")
    return [(int(part), "") if part.isascii() and part.isdigit() else (-1, part) for part in digits if part]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return 0


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except (OSError, ValueError):
        return 0
