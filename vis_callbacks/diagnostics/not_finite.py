"""NaN or infinity in the weights."""

from vis_callbacks.diagnostics.check import Check
from vis_callbacks.diagnostics.exhibits import weights
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict


def judge(facts: Facts) -> Verdict | None:
    """Name the first parameters that hold NaN or infinity."""
    broken = [weight for weight in facts.weights if not weight.finite]
    if not broken:
        return None
    return Verdict(
        "alarm",
        f"{len(broken)} of {len(facts.weights)} parameters hold NaN or infinity, first {broken[0].name}: nothing is "
        "learned any more. Lower the learning rate, clip gradients, and look for a division by zero or the logarithm "
        "of zero.",
    )


CHECK = Check("not-finite", judge, weights)
