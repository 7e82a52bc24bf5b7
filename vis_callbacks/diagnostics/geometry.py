"""Validation images that are turned, mirrored, moved, inverted or of another size than training images."""

from vis_callbacks.diagnostics.check import Check
from vis_callbacks.diagnostics.exhibits import both_sets
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict
from vis_callbacks.diagnostics.mending import judge_ways


def judge(facts: Facts) -> Verdict | None:
    """Look whether more validation images are right when they are shown in another way."""
    return judge_ways(facts, "Compare the transforms of training and validation", channels=False)


CHECK = Check("geometry", judge, both_sets, silenced_by=("scale", "channel-order"))
