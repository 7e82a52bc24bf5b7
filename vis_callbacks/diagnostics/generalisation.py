"""Validation images that are answered no better than guessing, though training images are answered well."""

from vis_callbacks.diagnostics import train_eval_gap
from vis_callbacks.diagnostics.check import NOTHING_LEARNED, OTHER_IMAGES, Check
from vis_callbacks.diagnostics.exhibits import both_sets
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict
from vis_callbacks.diagnostics.statistics import surely_above

ANSWERS = 50
LEARNED, GAP = 0.5, 0.3


def judge(facts: Facts) -> Verdict | None:
    """Compare the right answers of validation with those by chance."""
    share, count = facts.train.tail
    found = facts.validation
    if found is None or min(count, found.answers) < ANSWERS or share < LEARNED:
        return None
    if facts.gap < GAP or surely_above(found.right, found.answers, found.by_chance):
        return None
    if train_eval_gap.lags(facts):
        return None
    return Verdict(
        "alarm",
        f"{found.right} of {found.answers} validation images are right, which guessing reaches too, where {share:.0%} "
        "of training images are. Look whether validation images and labels belong together, and how they are read.",
    )


_EXPLAINED = ("swapped-labels", "missing-class", "constant-images", "random-labels", "one-answer", "train-eval-gap")
CHECK = Check(
    "generalisation", judge, both_sets, patience=2, silenced_by=(*OTHER_IMAGES, *NOTHING_LEARNED, *_EXPLAINED)
)
