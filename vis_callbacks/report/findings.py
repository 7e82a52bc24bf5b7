"""What stands out in a run: the findings that its diagnostics wrote into the store."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vis_callbacks.output.files import FINDINGS

_MOST = 50


@dataclass(frozen=True)
class Finding:
    """One thing that stands out.

    Attributes:
        check: Name of the check that found it.
        alarm: Whether it is an alarm; else it is a note.
        sentence: What was found.
        first_epoch: The epoch in which it was first seen; None if the store does not say.
        last_epoch: The epoch in which it was last seen.
        rows: Tags of the rows whose pictures are the evidence.
    """

    check: str
    alarm: bool
    sentence: str
    first_epoch: int | None
    last_epoch: int | None
    rows: tuple[str, ...]

    @property
    def when(self) -> str:
        """The epochs in words.

        Example:
            >>> Finding("scale", True, "", 1, 1, ()).when, Finding("scale", True, "", 0, 3, ()).when
            ('epoch 1', 'before training to epoch 3')
        """
        ends = [one for one in (self.first_epoch, self.last_epoch) if one is not None]
        first, *rest = dict.fromkeys("before training" if epoch == 0 else f"epoch {epoch}" for epoch in ends) or [""]
        if self.first_epoch and rest:
            return f"epochs {self.first_epoch} to {self.last_epoch}"
        return " to ".join([first, *rest])


@dataclass(frozen=True)
class Findings:
    """The findings of a run, alarms first, and the names of all checks that were made."""

    checked: tuple[str, ...]
    findings: tuple[Finding, ...]


def read_findings(store: Path) -> Findings | None:
    """Read the findings of a store; None if no checks were made. What is damaged is left out.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as store:
        ...     _ = Path(store, "findings.json").write_text('{"checked": ["scale"], "findings": []}')
        ...     read_findings(Path(store))
        Findings(checked=('scale',), findings=())
    """
    try:
        data = json.loads((store / FINDINGS).read_bytes().decode("utf-8", "replace"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None
    findings = [_finding(one) for one in _list(data.get("findings"))[:_MOST] if isinstance(one, dict)]
    shown = [one for one in findings if one.sentence]
    return Findings(_texts(data.get("checked")), tuple(sorted(shown, key=lambda one: not one.alarm)))


def _finding(data: dict[str, Any]) -> Finding:
    (check,) = _texts([data.get("check")]) or ("",)
    (sentence,) = _texts([data.get("sentence")]) or ("",)
    first, last = _epoch(data.get("first_epoch")), _epoch(data.get("last_epoch"))
    return Finding(check, data.get("severity") == "alarm", sentence, first, last, _texts(data.get("rows")))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _texts(value: Any) -> tuple[str, ...]:
    # A lone surrogate cannot be written as UTF-8.
    return tuple(one.encode("utf-8", "replace").decode() for one in _list(value) if isinstance(one, str))


def _epoch(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None
