"""Softmax twice: the loss takes the softmax of what is a softmax already."""

import math
from collections.abc import Sequence

from vis_callbacks.diagnostics.check import Check
from vis_callbacks.diagnostics.exhibits import answers
from vis_callbacks.diagnostics.facts import Facts, FirstStep
from vis_callbacks.diagnostics.finding import Verdict

STEPS = 4
CLOSE = 2e-4
ALIKE, SMOOTHED = 2e-3, (0.005, 0.9)


def judge(facts: Facts) -> Verdict | None:
    """Compare the loss of the first steps with the cross entropy of the outputs, and of their softmax."""
    steps = facts.first_steps
    if len(steps) < STEPS or len(facts.classes) < 2:
        return None
    # The loss that is left where the right class has probability one.
    least = math.log1p((len(facts.classes) - 1) / math.e)
    end = f"it cannot fall below {least:.2f}, and gradients are weak. Give the loss the logits."
    smoothed, smoothed_twice = _are_smoothed(steps)
    if all(step.probabilities for step in steps) and (smoothed or all(step.plain < CLOSE for step in steps)):
        return Verdict("alarm", f"The outputs are probabilities already, and the loss takes their softmax again: {end}")
    if all(step.twice < CLOSE <= step.plain for step in steps) or (smoothed_twice and not smoothed):
        return Verdict("alarm", f"The loss is the cross entropy of softmax(outputs), so softmax is taken twice: {end}")
    return None


def follows_labels(steps: Sequence[FirstStep]) -> bool:
    """Whether the loss is a cross entropy with the labels, smoothed or not; of mixed images it is not."""
    return all(min(step.plain, step.twice) < CLOSE for step in steps) or any(_are_smoothed(steps))


def _are_smoothed(steps: Sequence[FirstStep]) -> tuple[bool, bool]:
    """Whether the same smoothing of labels explains the loss of all steps, from the outputs and from their softmax."""

    def alike(found: list[float]) -> bool:
        return max(found) - min(found) < ALIKE and SMOOTHED[0] < min(found) < SMOOTHED[1]

    return alike([step.smoothing for step in steps]), alike([step.smoothing_twice for step in steps])


CHECK = Check("double-softmax", judge, answers)
