"""What a check is: a judgement of plain numbers, and the pictures that prove it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vis_callbacks.diagnostics.exhibits import Exhibits
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict
from vis_callbacks.panel import Panel

OTHER_IMAGES = ("scale", "channel-order", "geometry")
"""Checks whose finding explains why images of validation are answered otherwise."""

NOTHING_LEARNED = (
    "double-softmax",
    "wrong-loss",
    "not-finite",
    "not-in-optimizer",
    "no-gradient",
    "dead-units",
    "not-shuffled",
)
"""Checks whose finding explains why a network learns little."""

Judgement = Callable[[Facts], Verdict | None]
Evidence = Callable[[Exhibits, Facts, Verdict], Sequence[Panel]]


@dataclass(frozen=True)
class Check:
    """Judges the numbers of an event.

    Attributes:
        name: Its name, as in `Finding.check`.
        judge: From the numbers to a verdict, or None where nothing stands out or it is too early to tell.
        evidence: The pictures that prove a verdict.
        patience: At how many events in a row it must be seen.
        silenced_by: Checks whose finding explains this one.
    """

    name: str
    judge: Judgement
    evidence: Evidence
    patience: int = 1
    silenced_by: tuple[str, ...] = ()
