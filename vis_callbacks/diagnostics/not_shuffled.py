"""Training images that come sorted by class."""

import math

from vis_callbacks.diagnostics.check import Check
from vis_callbacks.diagnostics.exhibits import arrivals
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict

IMAGES, BATCHES, RANDOM_RUNS = 128, 4, 20
RUNS, OF_RANDOM = 1.5, 0.2
KEPT, DEVIATIONS = 0.25, 6  # of what random order gives, at most one over the root of the images


def judge(facts: Facts) -> Verdict | None:
    """Count runs of one class, and compare the classes of a batch with those of batches soon after."""
    order = facts.order
    if order is None or order.images < IMAGES or order.batches < BATCHES or order.random_runs < RANDOM_RUNS:
        return None
    end = (
        "A batch teaches few classes, which later batches undo. Give the training loader shuffle=True, or its stream a "
        "larger buffer."
    )
    if order.runs <= min(RUNS * order.present, OF_RANDOM * order.random_runs):
        return Verdict(
            "alarm",
            f"The {order.images:,} training images come sorted by class: in {order.runs:,} runs of one class, and in "
            f"random order about {order.random_runs:,.0f}. {end}",
        )
    if order.kept < max(KEPT, DEVIATIONS / math.sqrt(order.images)):
        return None
    return Verdict(
        "alarm",
        f"The {order.images:,} training images are all but sorted by class: an image a few batches later has the same "
        f"class {order.share:.0%} of the time, and in random order {order.random_share:.0%}. {end}",
    )


CHECK = Check("not-shuffled", judge, arrivals)
