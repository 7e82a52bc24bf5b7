"""Validation images that are turned, mirrored, moved, inverted, blurred, noisy or of another size than in training."""

from vis_callbacks.diagnostics import channel_order, scale
from vis_callbacks.diagnostics.check import Check
from vis_callbacks.diagnostics.exhibits import both_sets
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict
from vis_callbacks.diagnostics.mending import judge_ways, mends_much


def judge(facts: Facts) -> Verdict | None:
    """Look whether more validation images are right when they are shown in another way."""
    verdict = judge_ways(facts, "Compare the transforms of training and validation", channels=False)
    if verdict is None or mends_much(facts):
        return verdict
    # Images of another contrast or colour are answered otherwise for that, and any change makes some of them right.
    others = scale.judge(facts), channel_order.judge(facts)
    return None if any(one is not None and one.severity == "alarm" for one in others) else verdict


CHECK = Check("geometry", judge, both_sets)
