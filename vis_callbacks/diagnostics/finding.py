"""What a check finds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from vis_callbacks.panel import Panel

Severity = Literal["alarm", "note"]


@dataclass(frozen=True)
class Verdict:
    """What a check says of the numbers of one event.

    Attributes:
        severity: ``"alarm"`` for what is wrong, ``"note"`` for what is worth a look.
        sentence: A number, a place, and what to look at; under 300 characters.
        classes: Numbers of the classes that the evidence shows.
    """

    severity: Severity
    sentence: str
    classes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Finding:
    """Something about a training that stands out.

    Attributes:
        check: Name of the check that found it.
        severity: ``"alarm"`` for what is wrong, ``"note"`` for what is worth a look.
        sentence: A number, a place, and what to look at.
        first_epoch: When it was first seen.
        last_epoch: When it was last seen.
        panels: The pictures that prove it, of the last event at which it was seen.

    Example:
        >>> Finding("scale", "alarm", "Validation images are too dark.", 1, 4).as_dict()["sentence"]
        'Validation images are too dark.'
    """

    check: str
    severity: Severity
    sentence: str
    first_epoch: int
    last_epoch: int
    panels: Sequence[Panel] = field(default=(), repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, without the pictures."""
        names = ("check", "severity", "sentence", "first_epoch", "last_epoch")
        return {name: getattr(self, name) for name in names}
