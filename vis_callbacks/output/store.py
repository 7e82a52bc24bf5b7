"""The picture store: one image file a picture, and files that only ever grow by whole lines."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from vis_callbacks.output.record import Record

FOLDER = "visualizations"

Key = tuple[str, str, int, int]
"""What tells pictures apart: stage, tag, epoch and step."""

_PANELS = "panels.jsonl"


class PictureStore:
    """The folder ``<log_dir>/visualizations``.

    Every picture is on disk before the line that names it, so that a killed process leaves a store that can be read.

    Args:
        log_dir: Folder of the run.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = PictureStore(folder)
        ...     file = store.add(Record("Filters/conv1", "Filters", 0, 0), np.zeros((4, 4, 3), np.uint8)).file
        >>> file
        'Filters/conv1/epoch0000-step00000000.png'
    """

    def __init__(self, log_dir: str | Path) -> None:
        self.directory = Path(log_dir) / FOLDER
        self._from_earlier: bool | None = None
        self._set_aside = False

    def begin(self) -> None:
        """A training begins: what an earlier run left here is set aside, under a new name."""
        self._set_aside = True

    def add(self, record: Record, picture: npt.NDArray[np.uint8]) -> Record:
        """Write a picture ``(H, W, 3)`` and its line; return the record with the file's name."""
        file = _file(record)
        # Level 1 is three times as fast as the default, for a tenth more bytes.
        self._write(file, lambda stream: Image.fromarray(picture).save(stream, format="png", compress_level=1))
        return self.note(dataclasses.replace(record, file=file.as_posix()))

    def holds(self, record: Record, picture: npt.NDArray[np.uint8]) -> bool:
        """Whether this very picture is here already, of the same moment: a resumed run makes it again."""
        path = self._opened() / _file(record)
        if _key(record) not in self._known or not path.is_file():
            return False
        try:
            return np.array_equal(np.asarray(Image.open(path)), picture)
        except OSError:
            return False  # damaged

    def note(self, record: Record) -> Record:
        """Write the line alone: the picture is on disk, or could not be made.

        A picture that is made again, because a run was resumed from before it, takes the place of the first.
        """
        key = _key(record)
        if record.file is not None and key in self._known:
            lines = [record.to_json() if _key_of(line) == key else line for line in self._lines()]
            data = "\n".join(lines).encode("utf-8", "replace")
            self._write(Path(_PANELS), lambda stream: stream.write(data))
        else:
            self._append(_PANELS, record.to_json())
        if record.file is not None:
            self._known.add(key)
        return record

    def add_metrics(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Append what the run logged at a moment."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._append("metrics.jsonl", json.dumps({"epoch": epoch, "step": step, "values": finite}))

    @property
    def has_facts(self) -> bool:
        """Whether something is known about the run as a whole."""
        return (self.directory / "run.json").is_file()

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Replace what is known about the run as a whole."""
        data = json.dumps(facts, indent=1).encode("utf-8", "replace")
        self._write(Path("run.json"), lambda stream: stream.write(data))

    def _write(self, file: Path, write: Callable[[BinaryIO], object]) -> None:
        # Whole or not at all: a reader, and a process that is killed, never leave or see a part of a file.
        path = self._opened() / file
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        try:
            with part.open("wb") as stream:
                write(stream)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def _append(self, name: str, line: str) -> None:
        path = self._opened() / name
        data = line.encode("utf-8", "replace") + b"\n"
        with path.open("ab", buffering=0) as stream:
            # A process killed in the middle of a line, or a full disk, leaves half of one: do not glue ours to it.
            torn = stream.tell() > 0 and not _ends_with_newline(path)
            data = b"\n" * torn + data
            if stream.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def _opened(self) -> Path:
        if self._from_earlier is None:
            self._from_earlier = (self.directory / _PANELS).exists()
        if self._set_aside and self._from_earlier:
            self.directory.rename(_unused(self.directory))
            self._from_earlier = False
            self._known = set()
        self._set_aside = False
        self.directory.mkdir(parents=True, exist_ok=True)
        return self.directory

    @cached_property
    def _known(self) -> set[Key]:
        return {key for line in self._lines() if (key := _key_of(line)) is not None}

    def _lines(self) -> list[str]:
        path = self._opened() / _PANELS
        # Not splitlines: class names may hold characters that it takes for line ends.
        return path.read_text("utf-8", "replace").split("\n") if path.exists() else []


def _file(record: Record) -> Path:
    # A validation or test after the fit is at the same epoch and step.
    stage = "" if record.stage == "fit" else f"-{_slug(record.stage)}"
    name = f"epoch{record.epoch:04d}-step{record.step:08d}{stage}.png"
    return Path(*map(_slug, record.tag.split("/", 1))) / name


def _key(record: Record) -> Key:
    return record.stage, record.tag, record.epoch, record.step


def _key_of(line: str) -> Key | None:
    try:
        return _key(Record.from_json(line))
    except (ValueError, RecursionError):
        return None


def _slug(name: str) -> str:
    """A name that is safe on every file system; the hash keeps names apart that look the same after cleaning."""
    clean = re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".")[:60]
    if clean == name:
        return clean
    return f"{clean}-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:8]}"


def _unused(path: Path) -> Path:
    number = 1
    while (other := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return other


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"
