"""Weights that are frozen, and perhaps by mistake."""

from vis_callbacks.diagnostics.check import Check
from vis_callbacks.diagnostics.exhibits import weights
from vis_callbacks.diagnostics.facts import Facts, are_virgin
from vis_callbacks.diagnostics.finding import Verdict

STEPS = 20
SHARE = 0.05


def judge(facts: Facts) -> Verdict | None:
    """Look for frozen weights; those that look untouched since initialisation are frozen by mistake."""
    frozen = [one for one in facts.weights if not one.trainable and not one.changed]
    if facts.steps < STEPS or facts.share_of(frozen) <= SHARE:
        return None
    if are_virgin(frozen):
        return Verdict(
            "alarm",
            f"{facts.told(frozen)} are frozen and look untouched since initialisation: random features. Load the "
            "pretrained weights, or train them.",
        )
    return Verdict("note", f"{facts.told(frozen)} are frozen, as in transfer learning.")


CHECK = Check("frozen", judge, weights, silenced_by=("not-in-optimizer",))
