"""Channels in another order in one of the sets, such as red and blue swapped."""

from collections.abc import Sequence
from itertools import permutations

from vis_callbacks.diagnostics.check import Check
from vis_callbacks.diagnostics.exhibits import both_sets
from vis_callbacks.diagnostics.facts import Facts, RepairFacts, StageFacts
from vis_callbacks.diagnostics.finding import Verdict
from vis_callbacks.diagnostics.mending import judge_ways

APART = 0.1
IMAGES = 16
GAP, EXPLAINED = 0.2, 1 / 3
REMEDY = "Compare how the channels of both are read: OpenCV gives BGR"
COLOURS = ("red", "green", "blue")


def fitting_order(train: StageFacts, validation: StageFacts | None) -> tuple[int, ...] | None:
    """Return the order of validation's channels in which their means fit those of training.

    None: they fit as they are, or fit better if the images are inverted.
    """
    if validation is None or len(train.means) != 3 or min(train.images, validation.images) < IMAGES:
        return None
    means = validation.means
    distances = {order: _distance([means[at] for at in order], train) for order in permutations(range(3))}
    plain, best = distances[(0, 1, 2)], min(distances, key=distances.__getitem__)
    inverted = _distance([validation.ends - mean for mean in means], train)
    return best if plain > APART and distances[best] < min(plain / 9, inverted) else None


def explains(found: RepairFacts, gap: float) -> bool:
    """Whether another order mends a good part of what validation is worse by."""
    return found.gain >= EXPLAINED * gap


def judge(facts: Facts) -> Verdict | None:
    """Compare the channel means of both sets in any order, and the answers."""
    return _by_means(facts) or judge_ways(facts, REMEDY, channels=True)


def _by_means(facts: Facts) -> Verdict | None:
    train, validation = facts.train, facts.validation
    order = fitting_order(train, validation)
    if order is None or validation is None:
        return None
    if facts.reordered is not None and facts.gap > GAP and not explains(facts.reordered, facts.gap):
        # Another order would make more images right, if it were the reason that so many are wrong.
        return None
    swapped = [COLOURS[at] for at in range(3) if order[at] != at]
    how = f"with {' and '.join(swapped)} swapped"
    if len(swapped) == 3:
        how = f"in the order {', '.join(COLOURS[at] for at in order)}"
    remedy = "Compare how the channels of both are read"
    if swapped == ["red", "blue"]:
        remedy = "One of the two is read as BGR, as OpenCV does: convert it"
    return Verdict("alarm", f"The colours of validation images fit those of training images only {how}. {remedy}.")


def _distance(means: Sequence[float], train: StageFacts) -> float:
    return sum(
        ((ours - theirs) / max(spread, 1e-6)) ** 2
        for ours, theirs, spread in zip(means, train.means, train.spread, strict=True)
    )


CHECK = Check("channel-order", judge, both_sets, silenced_by=("geometry",))
