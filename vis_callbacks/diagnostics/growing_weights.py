"""Weights that grow without bounds."""

from vis_callbacks.diagnostics.check import Check
from vis_callbacks.diagnostics.exhibits import weights
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict

MEDIAN = 4.0
SINGLE = 20.0


def judge(facts: Facts) -> Verdict | None:
    """Compare the norms of kernels and matrices with those at the start."""
    grown = sorted((weight.growth, weight.name) for weight in facts.weights if weight.growth and weight.dimensions >= 2)
    if not grown or not all(weight.finite for weight in facts.weights):
        return None
    median, (most, name) = grown[len(grown) // 2][0], grown[-1]
    if median > MEDIAN:
        return Verdict(
            "alarm",
            f"The weights have {median:.1f} times their norm at the start, {name} {most:.0f} times: the learning rate "
            "is too high, or the loss can fall without end. Lower the rate or warm up, and look at the loss.",
        )
    if most > SINGLE:
        return Verdict("note", f"{name} has {most:.0f} times its norm at the start; the others do not grow so.")
    return None


CHECK = Check("growing-weights", judge, weights, silenced_by=("not-finite",))
