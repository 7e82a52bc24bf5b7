"""Weights that want gradients and are in no optimizer."""

from vis_callbacks.diagnostics.check import Check
from vis_callbacks.diagnostics.exhibits import weights
from vis_callbacks.diagnostics.facts import Facts, are_virgin
from vis_callbacks.diagnostics.finding import Verdict

STEPS = 20
SHARE = 0.05


def judge(facts: Facts) -> Verdict | None:
    """Look for trainable weights that no optimizer has and that have not changed."""
    lost = [one for one in facts.weights if one.trainable and not one.optimized and not one.changed]
    if facts.steps < STEPS or facts.share_of(lost) <= SHARE:
        return None
    virgin = are_virgin(lost)
    look = ", and look untouched since initialisation" if virgin else ""
    remedy = (
        "Give the optimizer all parameters" if virgin else "If that is meant, set requires_grad_(False) and save time"
    )
    return Verdict(
        "alarm" if virgin else "note",
        f"{facts.told(lost)} want gradients but are in no optimizer{look}. {remedy}.",
    )


CHECK = Check("not-in-optimizer", judge, weights)
