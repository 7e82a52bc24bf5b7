"""BatchNorm answers otherwise in evaluation than in training."""

from vis_callbacks.diagnostics.check import OTHER_IMAGES, Check
from vis_callbacks.diagnostics.exhibits import both_sets
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict
from vis_callbacks.diagnostics.statistics import mcnemar

CERTAIN = 0.001
GAIN = 0.1
STEPS, SETTLED = 100, 200
REMEMBERED = 0.05
STARTING = 0.2


def is_early(steps: int, remembered: float) -> bool:
    """Whether running statistics are still those of the start, as they must be after so few steps."""
    return steps < STEPS and remembered > STARTING


def is_settled(steps: int, remembered: float) -> bool:
    """Whether running statistics must fit: they hold nothing of their start, and weights no longer run ahead."""
    return steps >= SETTLED and remembered <= REMEMBERED


def lags(facts: Facts) -> bool:
    """Whether more validation images are right with the statistics of the batch, or are bound to be, this early."""
    found = facts.batch_statistics
    if found is None:
        return is_early(facts.steps, facts.remembered)
    return found.gain >= GAIN and mcnemar(found.better, found.worse) < CERTAIN


def judge(facts: Facts) -> Verdict | None:
    """Look whether more validation images are right with the statistics of the batch; in the first steps they are."""
    found = facts.batch_statistics
    if facts.steps < STEPS or found is None or not lags(facts):
        return None
    late = facts.remembered > REMEMBERED
    if not late and facts.steps < SETTLED:
        # While weights change fast, statistics run behind them.
        return None
    why = (
        f"its running statistics still hold {facts.remembered:.0%} of their start: raise its momentum"
        if late
        else ("its running statistics do not fit the images: compare both transforms, or train a little longer")
    )
    return Verdict(
        "alarm" if late else "note",
        f"With the statistics of the batch in BatchNorm, {found.better} more of {found.tried} validation images are "
        f"right and {found.worse} fewer: {why}.",
    )


CHECK = Check("train-eval-gap", judge, both_sets, silenced_by=OTHER_IMAGES)
