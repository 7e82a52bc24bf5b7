"""Softmax twice, or sigmoid: the loss takes it of what is one already."""

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
    """Look for it in the graphs of the first losses, and in what they are of the outputs."""
    if facts.loss.twice == "sigmoid":
        return Verdict(
            "alarm",
            "The loss takes the sigmoid of what is a sigmoid already: no probability leaves 0.5 to 0.73, and gradients "
            "are weak. Give the loss the logits.",
        )
    if facts.loss.twice != "softmax" and not _in_numbers(facts):
        return None
    end = "gradients are weak. Give the loss the logits."
    if len(facts.classes) > 1:
        # The loss that is left where the right class has probability one.
        end = f"it cannot fall below {math.log1p((len(facts.classes) - 1) / math.e):.2f}, and {end}"
    if facts.first_steps and all(step.probabilities for step in facts.first_steps):
        return Verdict("alarm", f"The outputs are probabilities already, and the loss takes their softmax again: {end}")
    return Verdict("alarm", f"The loss is a cross entropy of softmax(outputs), so softmax is taken twice: {end}")


def _in_numbers(facts: Facts) -> bool:
    """Compare the losses with the cross entropy of the outputs, and of their softmax: a compiled step has no graph."""
    steps = facts.first_steps
    if len(steps) < STEPS or len(facts.classes) < 2:
        return False
    smoothed, smoothed_twice = _are_smoothed(steps)
    if all(step.probabilities for step in steps):
        return smoothed or all(step.plain < CLOSE for step in steps)
    return all(step.twice < CLOSE <= step.plain for step in steps) or (smoothed_twice and not smoothed)


def follows_labels(steps: Sequence[FirstStep]) -> bool:
    """Whether the loss is a cross entropy with the labels, smoothed or not; of mixed images it is not."""
    return all(min(step.plain, step.twice) < CLOSE for step in steps) or any(_are_smoothed(steps))


def _are_smoothed(steps: Sequence[FirstStep]) -> tuple[bool, bool]:
    """Whether the same smoothing of labels explains the loss of all steps, from the outputs and from their softmax."""

    def alike(found: list[float]) -> bool:
        return max(found) - min(found) < ALIKE and SMOOTHED[0] < min(found) < SMOOTHED[1]

    return alike([step.smoothing for step in steps]), alike([step.smoothing_twice for step in steps])


CHECK = Check("double-softmax", judge, answers)
