"""Classes that have each other's labels in one of the sets."""

from collections.abc import Mapping, Sequence

from vis_callbacks.diagnostics.check import OTHER_IMAGES, Check
from vis_callbacks.diagnostics.exhibits import confusion
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict
from vis_callbacks.diagnostics.statistics import surely_above

IMAGES = 10
SHARE = 0.5
ROUND = 3  # classes
LINKED = 2 / 3  # of the classes, called another that is called another in turn


def judge(facts: Facts) -> Verdict | None:
    """Look for two classes that are called each other more often than not, or several in a round."""
    numbered = _numbered_otherwise(facts)
    if numbered is not None:
        return numbered
    for stage, found in reversed(list(facts.stages.items())):
        rows = [sum(row) for row in found.confusion]
        for first in range(len(rows)):
            for second in range(first):
                if min(rows[first], rows[second]) < IMAGES:
                    continue
                there, back = found.confusion[first][second], found.confusion[second][first]
                if not (surely_above(there, rows[first], SHARE) and surely_above(back, rows[second], SHARE)):
                    continue
                a, b = facts.name(first), facts.name(second)
                other = facts.train if stage == "validation" else facts.validation
                right = ""
                if other is not None and other.confusion and sum(other.confusion[first]):
                    name = "training" if stage == "validation" else "validation"
                    right = (
                        f"; in {name} {other.confusion[first][first]} of {sum(other.confusion[first])} of {a} are right"
                    )
                return Verdict(
                    "alarm",
                    f"{there} of {rows[first]} {stage} images of {a} are called {b}, and {back} of {rows[second]} of "
                    f"{b} are called {a}{right}. One of the two sets has {a} and {b} swapped.",
                    (first, second),
                )
    return None


def _numbered_otherwise(facts: Facts) -> Verdict | None:
    """Look for three classes and more that are called another each, no two of them the same."""
    if facts.validation is None:
        return None
    moved: dict[int, int] = {}
    for number, row in enumerate(facts.validation.confusion):
        answer = _answer(row)
        if answer is not None and answer != number:
            moved[number] = answer
    linked = len(moved.keys() & set(moved.values()))
    if len(moved) <= ROUND or linked < LINKED * len(moved):
        # What is merely confused goes anywhere, neither round nor on.
        moved = next((found for number in moved if len(found := _round(moved, number)) >= ROUND), {})
    if len(moved) < ROUND or len(set(moved.values())) < len(moved):
        return None
    first = list(moved)[:ROUND]
    listed = ", ".join(f"{facts.name(number)} is called {facts.name(moved[number])}" for number in first)
    listed += ", ..." if len(moved) > ROUND else ""
    in_training = [] if facts.train is None else facts.train.confusion
    alike = [number for number in moved if in_training and _answer(in_training[number]) == moved[number]]
    if len(alike) > len(moved) / 2:
        return Verdict(
            "note",
            f"In training as in validation most images of {len(moved)} classes are called another class, always the "
            f"same one ({listed}). The step seems to number the classes otherwise than the batches do: set forward= to "
            "what gives logits in the order of the labels.",
            tuple(first),
        )
    return Verdict(
        "alarm",
        f"Of {len(moved)} classes most validation images are called another class, always the same one ({listed}). "
        "Training and validation number their classes otherwise: compare the order of their class names or folders.",
        tuple(first),
    )


def _answer(row: Sequence[int]) -> int | None:
    """Return what the images of a class are called more often than not, if there are enough."""
    answer = max(range(len(row)), key=row.__getitem__)
    return answer if sum(row) >= IMAGES and surely_above(row[answer], sum(row), SHARE) else None


def _round(moved: Mapping[int, int], number: int) -> dict[int, int]:
    """Return the classes that lead from one back to it; empty if they do not."""
    found: dict[int, int] = {}
    at = number
    while at in moved and at not in found:
        found[at] = moved[at]
        at = moved[at]
    return found if at == number else {}


CHECK = Check("swapped-labels", judge, confusion, silenced_by=(*OTHER_IMAGES, "not-shuffled"))
