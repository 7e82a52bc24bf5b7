"""Two classes that have each other's labels in one of the sets."""

from vis_callbacks.diagnostics.check import OTHER_IMAGES, Check
from vis_callbacks.diagnostics.exhibits import confusion
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict
from vis_callbacks.diagnostics.statistics import surely_above

IMAGES = 10
SHARE = 0.5


def judge(facts: Facts) -> Verdict | None:
    """Look for two classes that are called each other more often than not."""
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


CHECK = Check("swapped-labels", judge, confusion, silenced_by=OTHER_IMAGES)
