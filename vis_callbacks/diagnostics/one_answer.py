"""One class is nearly the only answer."""

from vis_callbacks.diagnostics import train_eval_gap
from vis_callbacks.diagnostics.check import NOTHING_LEARNED, OTHER_IMAGES, Check
from vis_callbacks.diagnostics.exhibits import confusion
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict

STEPS = 100
SHARE = 0.9
LABELS = 0.6


def judge(facts: Facts) -> Verdict | None:
    """Count the answers of validation."""
    stage = facts.validation or facts.train
    total = stage.answers
    if total < 20 or facts.steps < STEPS:
        return None
    columns = [sum(row[number] for row in stage.confusion) for number in range(len(stage.confusion))]
    most = max(range(len(columns)), key=columns.__getitem__)
    labelled = sum(stage.confusion[most])
    if columns[most] < SHARE * total or labelled > LABELS * total:
        return None
    if train_eval_gap.lags(facts):
        # BatchNorm that lags behind explains it.
        return None
    return Verdict(
        "alarm",
        f"{columns[most]} of {total} images are called {facts.name(most)}, which {labelled} are. Look at the weights "
        "of the classes in the loss, at the sampler, and at the learning rate.",
        (most,),
    )


CHECK = Check(
    "one-answer",
    judge,
    confusion,
    patience=2,
    silenced_by=(
        *NOTHING_LEARNED,
        *OTHER_IMAGES,
        "growing-weights",
        "no-progress",
        "train-eval-gap",
        "constant-images",
    ),
)
