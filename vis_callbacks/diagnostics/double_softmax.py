"""Softmax twice: the loss takes the softmax of what is a softmax already."""

import math

from vis_callbacks.diagnostics.check import Check
from vis_callbacks.diagnostics.exhibits import answers
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict

STEPS = 4
CLOSE = 2e-4


def judge(facts: Facts) -> Verdict | None:
    """Compare the loss of the first steps with the cross entropy of the outputs, and of their softmax."""
    steps = facts.first_steps
    if len(steps) < STEPS or len(facts.classes) < 2:
        return None
    # The loss that is left where the right class has probability one.
    least = math.log1p((len(facts.classes) - 1) / math.e)
    end = f"it cannot fall below {least:.2f}, and gradients are weak. Give the loss the logits."
    if all(step.probabilities and step.plain < CLOSE for step in steps):
        return Verdict("alarm", f"The outputs are probabilities already, and the loss takes their softmax again: {end}")
    if all(step.twice < CLOSE <= step.plain for step in steps):
        return Verdict("alarm", f"The loss is the cross entropy of softmax(outputs), so softmax is taken twice: {end}")
    return None


CHECK = Check("double-softmax", judge, answers)
