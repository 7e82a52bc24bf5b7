"""The history of a run as a picture store holds it: events, pictures, metrics and facts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vis_callbacks.output.record import Record
from vis_callbacks.report.findings import Findings


@dataclass(frozen=True)
class HistoryEvent:
    """A moment of the run at which pictures were made.

    Attributes:
        epoch: 0 before training, k in or after the k-th epoch.
        step: The step of the metrics of the same moment; -1 where runs that are compared are at different ones.
        stage: ``"fit"``, ``"validate"``, ``"test"``, or ``"look"`` without a Trainer.
    """

    epoch: int
    step: int
    stage: str = "fit"

    @property
    def name(self) -> str:
        """A short name of the moment, such as ``epoch 3``."""
        if self.stage == "fit":
            return f"epoch {self.epoch}" if self.epoch > 0 else "before training"
        stage = {"test": "test", "look": "now"}.get(self.stage, "validation")
        return f"{stage} after epoch {self.epoch}" if self.epoch > 0 else stage

    @property
    def label(self) -> str:
        """A full name of the moment.

        Example:
            >>> HistoryEvent(3, 299).label, HistoryEvent(0, 0).label
            ('epoch 3 · step 299', 'before training')
        """
        return f"{self.name} · step {self.step}" if self.epoch > 0 and self.step >= 0 else self.name


@dataclass(frozen=True)
class Picture:
    """One row at one event: an image file, or the reason why there is none.

    Attributes:
        record: The line of the store.
        file: The image file; it existed when the store was read.
        gap: Why there is no image. None if there is one.
    """

    record: Record
    file: Path | None = None
    gap: str | None = None


@dataclass(frozen=True)
class Row:
    """One sample, layer or class of one callback over time.

    Attributes:
        callback: Name of the callback.
        name: Name of the sample, layer or class.
        pictures: The pictures, by index into `History.events`.
    """

    callback: str
    name: str
    pictures: Mapping[int, Picture]

    @property
    def tag(self) -> str:
        """The tag of its pictures, ``<callback>/<name>``."""
        return f"{self.callback}/{self.name}" if self.name else self.callback


@dataclass(frozen=True)
class Point:
    """One value of a metric; None if it was not a finite number."""

    epoch: int
    step: int
    value: float | None


@dataclass(frozen=True)
class RunInfo:
    """The facts of ``run.json``; missing ones are empty or None.

    Attributes:
        model: Name of the model.
        parameters: Number of its parameters.
        started: Seconds since 1970.
        updated: When the file was last written, in seconds since 1970.
        epochs: Completed epochs.
        max_epochs: Requested epochs.
        training_seconds: Time spent on training, without the pictures.
        picture_seconds: Time spent on pictures while training waited, by callback or part.
        thread_seconds: Time spent on drawing and writing while training went on.
        status: ``"running"``, ``"finished"`` or ``"stopped by …"``.
        versions: Library versions by name.
        notes: Remarks about the run.
        about: One sentence per callback about its pictures.
        remarks: One sentence per callback that shows nothing, or was left out at times: why, and what to set.
        subject: What the pictures are about: network, outputs, layers, targets, and a problem.
        subjects: What the pictures of single callbacks are about, where that is something else.
    """

    model: str = ""
    parameters: int | None = None
    started: float | None = None
    updated: float | None = None
    epochs: int | None = None
    max_epochs: int | None = None
    training_seconds: float | None = None
    picture_seconds: Mapping[str, float] = field(default_factory=dict)
    thread_seconds: float | None = None
    status: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    about: Mapping[str, str] = field(default_factory=dict)
    remarks: Mapping[str, str] = field(default_factory=dict)
    subject: Mapping[str, Any] = field(default_factory=dict)
    subjects: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class History:
    """Everything that a picture store holds about a run.

    Attributes:
        store: The directory that was read.
        events: The moments at which pictures were made, in order.
        rows: One per tag, grouped by callback, in the order of their first picture.
        metrics: The logged metrics by name, ordered by step.
        run: Facts about the run.
        problems: One sentence per thing that was damaged or missing in the store.
        findings: What stands out; None if nothing was checked.
    """

    store: Path
    events: tuple[HistoryEvent, ...]
    rows: tuple[Row, ...]
    metrics: Mapping[str, tuple[Point, ...]]
    run: RunInfo
    problems: list[str]
    findings: Findings | None = None

    @property
    def timeless(self) -> bool:
        """Whether the pictures were made without a Trainer, all at once."""
        return bool(self.events) and all(event.stage == "look" for event in self.events)

    @property
    def sections(self) -> dict[str, list[Row]]:
        """The rows by callback."""
        sections: dict[str, list[Row]] = {}
        for row in self.rows:
            sections.setdefault(row.callback, []).append(row)
        return sections

    def at_events(self, kept: Sequence[int]) -> "History":
        """Return the history with only the events at these indices."""
        place = {old: new for new, old in enumerate(kept)}
        rows = tuple(
            replace(row, pictures={place[at]: picture for at, picture in row.pictures.items() if at in place})
            for row in self.rows
        )
        return replace(self, events=tuple(self.events[index] for index in kept), rows=rows)


def shorten(text: str, limit: int) -> str:
    """Return a text of at most `limit` characters.

    Example:
        >>> shorten("a very long name", 7)
        'a very…'
    """
    return text if len(text) <= limit else text[: limit - 1] + "…"
