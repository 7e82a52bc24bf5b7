"""No better than guessing."""

from vis_callbacks.diagnostics.check import NOTHING_LEARNED, Check
from vis_callbacks.diagnostics.exhibits import confusion
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict
from vis_callbacks.diagnostics.statistics import surely_above

STEPS = 100
SHARE = 0.98
FALLS, NEAR, FAR = 0.9, 1.05, 2.0


def is_slow_start(before: float | None, now: float, entropy: float) -> bool:
    """Whether a network was too sure of its guesses, and is less so than before.

    Near what guessing costs this says no more, as any network comes that far; nor does a loss tell that is so large
    that it was driven there.
    """
    return before is not None and NEAR < now / entropy < FAR and now - entropy < FALLS * (before - entropy)


def judge(facts: Facts) -> Verdict | None:
    """Compare the cross entropy of the answers with that of always giving the labels' frequencies."""
    train = facts.train
    if facts.steps < STEPS or train.cross_entropy is None or train.entropy < 0.1:
        return None
    if train.cross_entropy < SHARE * train.entropy:
        return None
    if train.answers and surely_above(train.right, train.answers, max(map(sum, train.confusion)) / train.answers):
        # Early networks are too sure of themselves, which costs more than what they know gains.
        return None
    if is_slow_start(facts.cross_entropy_before, train.cross_entropy, train.entropy):
        return None
    return Verdict(
        "alarm",
        f"After {facts.steps:,} steps the answers to training images are no better than guessing: cross entropy "
        f"{train.cross_entropy:.2f}, guessing has {train.entropy:.2f}. Look at the learning rate, at the labels, and "
        "whether gradients reach the weights.",
    )


CHECK = Check("no-progress", judge, confusion, patience=3, silenced_by=(*NOTHING_LEARNED, "growing-weights"))
