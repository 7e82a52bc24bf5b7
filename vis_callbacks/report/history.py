"""What a picture store tells about a run: its moments, pictures, metrics and facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vis_callbacks.output.record import Record


@dataclass(frozen=True)
class HistoryEvent:
    """A moment of the run at which pictures were made.

    Attributes:
        epoch: 0 before training, k after or in the k-th epoch.
        step: The x-axis of the metrics of the same moment.
        stage: Which of ``"fit"``, ``"validate"``, ``"test"`` made pictures then.
    """

    epoch: int
    step: int
    stage: str = "fit"

    @property
    def name(self) -> str:
        """The moment in a few words, such as ``epoch 3``."""
        if self.stage == "fit":
            return f"epoch {self.epoch}" if self.epoch > 0 else "before training"
        stage = "test" if self.stage == "test" else "validation"
        return f"{stage} after epoch {self.epoch}" if self.epoch > 0 else stage

    @property
    def label(self) -> str:
        """The moment in full.

        Example:
            >>> HistoryEvent(3, 299).label, HistoryEvent(0, 0).label
            ('epoch 3 · step 299', 'before training')
        """
        return f"{self.name} · step {self.step}" if self.epoch > 0 else self.name


@dataclass(frozen=True)
class Picture:
    """What one row shows at one event: an image file, or the reason why there is none.

    Attributes:
        record: What the store says about it.
        file: The image file; it existed when the store was read.
        gap: Why there is no image. None when there is one.
    """

    record: Record
    file: Path | None = None
    gap: str | None = None


@dataclass(frozen=True)
class Row:
    """One sample, layer or class of one callback through time.

    Attributes:
        callback: Name of the callback.
        name: Name of the sample, layer or class.
        pictures: What is shown, by index into `History.events`.
    """

    callback: str
    name: str
    pictures: Mapping[int, Picture]


@dataclass(frozen=True)
class Point:
    """One value of a metric; None where it was not a finite number."""

    epoch: int
    step: int
    value: float | None


@dataclass(frozen=True)
class RunInfo:
    """RunMetadata about the run; whatever ``run.json`` does not say is empty or None.

    Attributes:
        model: Name of the model.
        parameters: Number of its parameters.
        started: Seconds since 1970.
        updated: Last sign of life, seconds since 1970.
        epochs: Epochs completed.
        max_epochs: Epochs asked for.
        training_seconds: Time spent on training, without the pictures.
        picture_seconds: Time spent on pictures while training waited, by callback or part.
        thread_seconds: Time spent on drawing and writing beside the training.
        status: ``"running"``, ``"finished"`` or ``"stopped by …"``.
        versions: Library versions by name.
        notes: Remarks of the run.
        about: What a callback draws, in one sentence, by callback.
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


@dataclass(frozen=True)
class History:
    """Everything that a picture store tells about a run.

    Attributes:
        store: The directory that was read.
        events: The moments at which pictures were made, in order.
        rows: One for every tag, grouped by callback, in the order of their first picture.
        metrics: The logged metrics by name, ordered by step.
        run: RunMetadata about the run.
        problems: What was damaged or missing in the store, in words.
    """

    store: Path
    events: tuple[HistoryEvent, ...]
    rows: tuple[Row, ...]
    metrics: Mapping[str, tuple[Point, ...]]
    run: RunInfo
    problems: list[str]

    @property
    def sections(self) -> dict[str, list[Row]]:
        """The rows by callback."""
        sections: dict[str, list[Row]] = {}
        for row in self.rows:
            sections.setdefault(row.callback, []).append(row)
        return sections

    def at_events(self, kept: Sequence[int]) -> History:
        """Return the history with only some of its events, given by index."""
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
