"""Red and blue swapped in one of the sets."""

from vis_callbacks.diagnostics.check import Check
from vis_callbacks.diagnostics.exhibits import both_sets
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict

APART = 0.1
IMAGES = 16


def judge(facts: Facts) -> Verdict | None:
    """Compare the channel means of both sets, as they are and in reverse order."""
    train, validation = facts.train, facts.validation
    if validation is None or len(train.means) != 3 or min(train.images, validation.images) < IMAGES:
        return None
    plain = _distance(validation.means, facts)
    turned = _distance(validation.means[::-1], facts)
    if plain <= APART or turned >= plain / 9:
        return None
    return Verdict(
        "alarm",
        "The colours of validation images fit those of training images only with red and blue swapped. One of the two "
        "is read as BGR, as OpenCV does: convert it.",
    )


def _distance(means: tuple[float, ...], facts: Facts) -> float:
    train = facts.train
    return sum(
        ((ours - theirs) / max(spread, 1e-6)) ** 2
        for ours, theirs, spread in zip(means, train.means, train.spread, strict=True)
    )


CHECK = Check("channel-order", judge, both_sets)
