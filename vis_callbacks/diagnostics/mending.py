"""Whether another way to show validation images makes enough of them right to be the way of training."""

from vis_callbacks.diagnostics.facts import Facts, RepairFacts
from vis_callbacks.diagnostics.finding import Verdict
from vis_callbacks.diagnostics.statistics import mcnemar, surely_above
from vis_callbacks.diagnostics.train_eval_gap import is_settled

CERTAIN = 0.001
GAIN = 0.1
ABOVE_CHANCE = 0.25
LAGGING = 0.75
MENDED, PART, CLASSES = 0.5, 0.05, 3
MUCH = 1 / 3


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


def mends_much(facts: Facts) -> bool:
    """Whether a way to show all images mends much of what validation is worse by."""
    found = _way_of_all(facts)
    return found is not None and found.gain >= MUCH * facts.gap


def judge_ways(facts: Facts, remedy: str, *, channels: bool) -> Verdict | None:
    """Judge the way that makes most images right, or else most of the wrong ones.

    Args:
        facts: The numbers.
        remedy: What to look at, the end of the sentence.
        channels: Whether ways with another order of the channels are judged, else all others.
    """
    found = _way_of_all(facts)
    if found is not None:
        sentence = (
            f"{found.name.capitalize()}, {found.better} more of {found.tried} validation images are right and "
            f"{found.worse} fewer (p = {mcnemar(found.better, found.worse):.0e}). {remedy}."
        )
    else:
        found = _way_of_some(facts)
        if found is None:
            return None
        sentence = (
            f"{found.name.capitalize()}, {found.better} of {found.wrong} wrong validation images are right, and "
            f"{found.worse} of {found.tried - found.wrong} right ones wrong: some are shown otherwise than the rest. "
            f"{remedy}, and how files are read."
        )
    return Verdict("alarm", sentence) if found.channels is channels else None


def _way_of_all(facts: Facts) -> RepairFacts | None:
    # A way that was given up seems good by chance. One that makes images of a single class right may change no more
    # than which class is answered most.
    most = max((one.tried for one in facts.repairs), default=0)
    tried = (one for one in facts.repairs if one.tried == most and one.classes > 1)
    best = max(tried, key=lambda one: one.gain, default=None)
    if best is None or best.gain < GAIN:
        return None
    if facts.validation is not None and facts.validation.answers:
        least = 1 / max(2, len(facts.validation.confusion)) + ABOVE_CHANCE
        if facts.validation.accuracy + best.gain < least:
            # Where nothing was right, whatever changes the answers makes some right by chance.
            return None
    other = facts.batch_statistics
    if other is not None:
        # BatchNorm that lags behind makes any other look of the images a little better. Where it cannot, its statistics
        # do not fit as the images are others: what mends these tells why.
        settled = is_settled(facts.steps, facts.remembered)
        if (LAGGING * other.gain > best.gain) if settled else (other.gain >= LAGGING * best.gain):
            return None
    return best if mcnemar(best.better, best.worse) < CERTAIN / len(facts.repairs) else None


def _way_of_some(facts: Facts) -> RepairFacts | None:
    found = max(filter(mends_part, facts.repairs), key=lambda one: one.mended, default=None)
    other = facts.batch_statistics
    return None if found is None or (other is not None and other.mended >= found.mended) else found
