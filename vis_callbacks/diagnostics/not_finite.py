"""NaN or infinity in the images or the weights."""

from vis_callbacks.diagnostics.check import Check
from vis_callbacks.diagnostics.exhibits import weights
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict


def judge(facts: Facts) -> Verdict | None:
    """Count images that hold NaN or infinity, and name the first parameter that does."""
    for stage, found in facts.stages.items():
        if found.broken:
            return Verdict(
                "alarm",
                f"{found.broken} of {found.images + found.broken} {stage} images hold NaN or infinity. Look at how "
                "they are read, and for a division by zero where they are normalised.",
            )
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
