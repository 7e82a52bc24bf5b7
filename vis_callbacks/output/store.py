"""The picture store: one image file per picture, and files of lines that only grow by whole lines."""

import dataclasses
import errno
import json
import math
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from vis_callbacks.output.encoding import SUFFIXES, Picture, encode
from vis_callbacks.output.files import FINDINGS, FOLDER, METRICS, PANELS, RUN
from vis_callbacks.output.names import slug
from vis_callbacks.output.record import Record

Key = tuple[str, str, int, int]
"""Stage, tag, epoch and step: no two pictures share all four."""


class PictureStore:
    """The folder ``<log_dir>/visualizations``.

    Every picture is on disk before the line that names it, so a killed process leaves a readable store.

    Args:
        log_dir: Folder of the run.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = PictureStore(folder)
        ...     file = store.add(Record("Filters/conv1", "Filters", 0, 0), np.zeros((4, 4, 3), np.uint8)).file
        >>> file
        'Filters/conv1/epoch0000-step00000000.png'
    """

    def __init__(self, log_dir: str | Path) -> None:
        self.directory = Path(log_dir) / FOLDER
        self._made_again: set[Key] = set()
        self._from_earlier: bool | None = None
        self._set_aside = False

    def begin(self) -> None:
        """Start a new run: the next write first moves an earlier run's store to a new name."""
        self._set_aside = True

    def add(self, record: Record, picture: Picture, *, exact: bool = True) -> Record:
        """Write a picture, with every pixel `exact` or as `encode` does, and its line.

        Returns:
            The record with the file's name.
        """
        encoded = encode(picture, exact=exact)
        file = _file(record, encoded.suffix)
        write_whole(self._opened() / file, encoded.data)
        return self.note(dataclasses.replace(record, file=file.as_posix()))

    def holds(self, record: Record, picture: Picture, *, exact: bool = True) -> bool:
        """Whether this very picture, of the same moment, is here already: a resumed run makes it again."""
        if _key(record) not in self._known:
            return False
        encoded = encode(picture, exact=exact)
        try:
            return (self._opened() / _file(record, encoded.suffix)).read_bytes() == encoded.data
        except OSError:
            return False  # lost

    def note(self, record: Record) -> Record:
        """Append only the line: the picture is on disk, or could not be made."""
        self._append(PANELS, record.to_json())
        key = _key(record)
        if record.file is not None:
            if key in self._known:
                self._made_again.add(key)
                self._remove_other_formats(record)
            self._known.add(key)
        return record

    def drop_replaced(self) -> None:
        """Drop the lines of pictures that were made again, because a run was resumed from before them."""
        if not self._made_again:
            return
        kept, seen = [], set()
        for line in reversed(self._lines()):
            key = _key_of(line)
            if key not in seen:
                kept.append(line)
            if key in self._made_again:
                seen.add(key)
        write_whole(self._opened() / PANELS, b"\n".join(reversed(kept)))
        self._made_again.clear()

    def _remove_other_formats(self, record: Record) -> None:
        for other in (_file(record, suffix) for suffix in SUFFIXES):
            if other.as_posix() != record.file:
                (self._opened() / other).unlink(missing_ok=True)

    def add_metrics(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Append the metrics that the run logged at one step."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._append(METRICS, json.dumps({"epoch": epoch, "step": step, "values": finite}))

    @property
    def has_facts(self) -> bool:
        """Whether facts about the run as a whole are here already."""
        return (self.directory / RUN).is_file()

    def write_findings(self, found: Mapping[str, Any]) -> None:
        """Replace what stands out in the run."""
        write_whole(
            self._opened() / FINDINGS, json.dumps(found, indent=1, ensure_ascii=False).encode("utf-8", "replace")
        )

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Replace the facts about the run as a whole."""
        write_whole(self._opened() / RUN, json.dumps(facts, indent=1).encode("utf-8", "replace"))

    def _append(self, name: str, line: str) -> None:
        path = self._opened() / name
        data = line.encode("utf-8", "replace") + b"\n"
        with path.open("ab", buffering=0) as stream:
            # A killed process or a full disk may leave half a line: start ours on a new one.
            torn = stream.tell() > 0 and not _ends_with_newline(path)
            data = b"\n" * torn + data
            if stream.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def _opened(self) -> Path:
        if self._from_earlier is None:
            self._from_earlier = (self.directory / PANELS).exists()
        if self._set_aside and self._from_earlier:
            self.directory.rename(_unused(self.directory))
            self._from_earlier = False
            self._known = set()
            self._made_again = set()
        self._set_aside = False
        self.directory.mkdir(parents=True, exist_ok=True)
        return self.directory

    @cached_property
    def _known(self) -> set[Key]:
        known: set[Key] = set()
        for key in filter(None, map(_key_of, self._lines())):
            if key in known:
                # The process was killed before it dropped the first line.
                self._made_again.add(key)
            known.add(key)
        return known

    def _lines(self) -> list[bytes]:
        path = self._opened() / PANELS
        # Not splitlines: class names may hold characters that it takes for line ends.
        return path.read_bytes().split(b"\n") if path.exists() else []


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, also when the process is killed or the disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two processes may write the same report.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _file(record: Record, suffix: str) -> Path:
    # A validation or test after the fit is at the same epoch and step.
    stage = "" if record.stage == "fit" else f"-{slug(record.stage)}"
    name = f"epoch{record.epoch:04d}-step{record.step:08d}{stage}{suffix}"
    return Path(*map(slug, record.tag.split("/", 1))) / name


def _key(record: Record) -> Key:
    return record.stage, record.tag, record.epoch, record.step


def _key_of(line: bytes) -> Key | None:
    try:
        # Not a whole record, which takes four times as long.
        found = json.loads(line.decode("utf-8", "replace"))
        key = found.get("stage", "fit"), found["tag"], found["epoch"], found["step"]
        hash(key)  # a damaged line may hold lists
        return key
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None


def _unused(path: Path) -> Path:
    number = 1
    while (other := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return other


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"
