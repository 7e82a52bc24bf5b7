"""A border that tells the class by itself."""

from vis_callbacks.diagnostics.check import Check
from vis_callbacks.diagnostics.exhibits import border
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict
from vis_callbacks.diagnostics.statistics import surely_above

SHARE = 0.7
OF_TAIL = 0.9
TRIED = 100
LEAD = 0.2


def judge(facts: Facts) -> Verdict | None:
    """Look whether the outermost ring of the image tells the class."""
    border, (tail, answers) = facts.border, facts.train.tail
    least = max(SHARE, OF_TAIL * tail)
    if not answers or border.tried < TRIED or not surely_above(border.right, border.tried, least):
        return None
    if border.right - LEAD * border.tried < border.beyond * border.tried:
        # Inside, the image tells as much: it is no matter of the border.
        return None
    return Verdict(
        "alarm",
        f"The outermost pixels alone tell the class of {border.right} of {border.tried} training images. Look for a "
        "border, a padding or a resizing that one class has.",
    )


CHECK = Check("border", judge, border, silenced_by=("not-shuffled",))
