"""Validation images that were seen in training."""

from vis_callbacks.diagnostics.check import Check
from vis_callbacks.diagnostics.exhibits import both_sets
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict

LEAST, SHARE = 5, 0.02
NEAR = 0.02


def judge(facts: Facts) -> Verdict | None:
    """Count validation images whose pixels, in any order, are those of a training image, or all but are."""
    if facts.leaked < max(LEAST, SHARE * facts.keyed):
        if facts.near < max(LEAST, NEAR * facts.near_asked):
            return None
        return Verdict(
            "alarm",
            f"{facts.near} of {facts.near_asked} validation images are all but the same as a training image: the "
            "validation accuracy is too good. Look for files that were saved again, resized or edited, and split by "
            "object or patient.",
        )
    return Verdict(
        "alarm",
        f"{facts.leaked} of {facts.keyed} validation images are training images too, pixel for pixel (shifts and flips "
        "aside): the validation accuracy is too good. Split before you copy or augment, by object or patient.",
    )


CHECK = Check("leakage", judge, both_sets)
