"""Validation images that are turned, mirrored or of another size than training images."""

from vis_callbacks.diagnostics.check import Check
from vis_callbacks.diagnostics.exhibits import both_sets
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict
from vis_callbacks.diagnostics.statistics import mcnemar

CERTAIN = 0.001
GAIN = 0.1
ABOVE_CHANCE = 0.25
LAGGING = 0.75


def judge(facts: Facts) -> Verdict | None:
    """Look whether more validation images are right when they are shown in another way."""
    # A way that was given up seems good by chance.
    most = max((one.tried for one in facts.repairs), default=0)
    tried = (one for one in facts.repairs if one.tried == most)
    best = max(tried, key=lambda one: one.gain, default=None)
    if best is None or best.gain < GAIN:
        return None
    if facts.validation is not None and facts.validation.answers:
        right = sum(row[number] for number, row in enumerate(facts.validation.confusion)) / facts.validation.answers
        if right + best.gain < 1 / max(2, len(facts.validation.confusion)) + ABOVE_CHANCE:
            # Where nothing was right, whatever changes the answers makes some right by chance.
            return None
    other = facts.batch_statistics
    if other is not None and other.gain >= LAGGING * best.gain:
        # BatchNorm that lags behind makes any other look of the images a little better.
        return None
    chance = mcnemar(best.better, best.worse)
    if chance >= CERTAIN / len(facts.repairs):
        return None
    return Verdict(
        "alarm",
        f"{best.name.capitalize()}, {best.better} more of {best.tried} validation images are right and {best.worse} "
        f"fewer (p = {chance:.0e}). Compare the transforms of training and validation.",
    )


CHECK = Check("geometry", judge, both_sets, silenced_by=("scale", "channel-order"))
