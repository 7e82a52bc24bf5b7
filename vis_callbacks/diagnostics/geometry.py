"""Validation images that are turned, mirrored or of another size than training images."""

from vis_callbacks.diagnostics.check import Check
from vis_callbacks.diagnostics.exhibits import both_sets
from vis_callbacks.diagnostics.facts import Facts, RepairFacts
from vis_callbacks.diagnostics.finding import Verdict
from vis_callbacks.diagnostics.statistics import mcnemar, surely_above

CERTAIN = 0.001
GAIN = 0.1
ABOVE_CHANCE = 0.25
LAGGING = 0.75
MENDED, PART, CLASSES = 0.5, 0.05, 3
REMEDY = "Compare the transforms of training and validation"


def mends_part(found: RepairFacts) -> bool:
    """Whether a part of the images is shown otherwise: this way most wrong ones are right, and right ones less often.

    Honest errors are the harder images, which are right less often in any other way than those that are right as they
    come. Of two classes whose labels are swapped, turning may make a 6 a 9.
    """
    return (
        found.classes >= CLASSES
        and found.better >= PART * found.tried
        and found.mended > found.kept
        and surely_above(found.better, found.wrong, MENDED, 1 - CERTAIN)
    )


def judge(facts: Facts) -> Verdict | None:
    """Look whether more validation images are right when they are shown in another way, or most of the wrong ones."""
    return _all_of_them(facts) or _part_of_them(facts)


def _all_of_them(facts: Facts) -> Verdict | None:
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
        f"fewer (p = {chance:.0e}). {REMEDY}.",
    )


def _part_of_them(facts: Facts) -> Verdict | None:
    found = max(filter(mends_part, facts.repairs), key=lambda one: one.mended, default=None)
    other = facts.batch_statistics
    if found is None or (other is not None and other.mended >= found.mended):
        return None
    return Verdict(
        "alarm",
        f"{found.name.capitalize()}, {found.better} of {found.wrong} wrong validation images are right, and "
        f"{found.worse} of {found.tried - found.wrong} right ones wrong: some are shown otherwise than the rest. "
        f"{REMEDY}, and how files are read.",
    )


CHECK = Check("geometry", judge, both_sets, silenced_by=("scale", "channel-order"))
