"""A place of the image that tells the class by itself."""

from vis_callbacks.diagnostics.check import Check
from vis_callbacks.diagnostics.exhibits import place, where_is
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict
from vis_callbacks.diagnostics.statistics import surely_above

SHARE = 0.7
OF_TAIL = 0.9
TRIED = 100
MARKS, OF_CLASS, PURE = 12, 0.25, 0.9  # fewer are where a mark of all images and a ground of one class meet
KNOWN, OF_KNOWN, BEYOND = 0.95, 20, 0.6
LEAD = 0.2
NAMED = 3  # classes


def judge(facts: Facts) -> Verdict | None:
    """Look whether a window of 2 % of the image tells the class, or one class, or a repeated mark does."""
    found, (tail, answers) = facts.place, facts.train.tail
    where = where_is(found.box)
    used = (
        ""
        if found.share is None or found.share < 0.35
        else (f" Pasted from other classes it takes {found.share:.0%} of the margin.")
    )
    remedy = "Look for a watermark, a time stamp, or a mark that some classes have."
    if found.marked and found.repeated:
        pure = found.marks / max(1, found.marks + found.elsewhere)
        if found.marks >= max(MARKS, OF_CLASS * found.of_class) and pure >= PURE:
            names = [facts.name(number) for number in found.marked]
            if len(names) > NAMED:
                names[NAMED:] = [f"{len(names) - NAMED} more"]
            of = "class" if len(names) == 1 else "classes"
            return Verdict(
                "alarm",
                f"The same small mark at the {where} is in {found.marks} of {found.of_class} training images of {of} "
                f"{' and '.join(names)}, and in {found.elsewhere} of other classes.{used} "
                f"{remedy}",
                found.marked,
            )
    least = max(SHARE, OF_TAIL * tail)
    alone = found.right - LEAD * found.tried >= found.beyond * found.tried
    if (
        not found.marked
        and answers
        and found.tried >= TRIED
        and alone
        and surely_above(found.right, found.tried, least)
    ):
        return Verdict(
            "alarm",
            f"2 % of the image, at the {where}, tells the class of {found.right} of {found.tried} training images by "
            "itself."
            f"{used} {remedy}",
        )
    if found.marked and found.of_class >= OF_KNOWN and found.score >= KNOWN and found.beyond <= BEYOND:
        name = facts.name(found.marked[0])
        return Verdict(
            "alarm",
            f"2 % of the image, at the {where}, tells class {name} by itself: {found.marks} of {found.of_class} "
            f"training images of it are known by that, and {found.elsewhere} of other classes are taken for it.{used} "
            f"{remedy}",
            found.marked,
        )
    return None


CHECK = Check("shortcut", judge, place, silenced_by=("not-shuffled",))
