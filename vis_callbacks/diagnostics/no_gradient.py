"""Weights in an optimizer that never get a gradient."""

from vis_callbacks.diagnostics.check import Check
from vis_callbacks.diagnostics.exhibits import weights
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict

STEPS = 20
SHARE = 0.05


def judge(facts: Facts) -> Verdict | None:
    """Look for weights of an optimizer that had no gradient at any look and have not changed."""
    still = [
        one for one in facts.weights if one.trainable and one.optimized and not one.changed and not one.had_gradient
    ]
    if facts.steps < STEPS or facts.share_of(still) <= SHARE:
        return None
    return Verdict(
        "alarm",
        f"{facts.told(still)} have had no gradient yet and have not changed. Look for a detach(), a no_grad(), or an "
        "argmax between them and the loss, and whether the forward uses them.",
    )


CHECK = Check("no-gradient", judge, weights)
