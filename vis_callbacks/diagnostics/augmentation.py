"""Training images that are much harder than validation images."""

from vis_callbacks.diagnostics.check import OTHER_IMAGES, Check
from vis_callbacks.diagnostics.exhibits import both_sets
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict
from vis_callbacks.diagnostics.statistics import lower_bound, upper_bound

GAP = 0.1
ANSWERS = 50


def judge(facts: Facts) -> Verdict | None:
    """Compare the accuracy of validation with that of the last training steps."""
    share, count = facts.train.tail
    validation = facts.validation
    if validation is None or min(count, validation.answers) < ANSWERS or validation.accuracy - share <= GAP:
        return None
    gap = lower_bound(validation.right, validation.answers) - upper_bound(round(share * count), count)
    if gap <= GAP:
        return None
    return Verdict(
        "note",
        f"{validation.accuracy:.0%} of validation images are right, and {share:.0%} of training images as they are "
        "shown: dropout or augmentation is strong. If it still learns, that is fine.",
    )


CHECK = Check(
    "augmentation", judge, both_sets, patience=2, silenced_by=(*OTHER_IMAGES, "train-eval-gap", "not-shuffled")
)
