"""A class that is not learned."""

from vis_callbacks.diagnostics.check import NOTHING_LEARNED, OTHER_IMAGES, Check
from vis_callbacks.diagnostics.exhibits import confusion
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict
from vis_callbacks.diagnostics.statistics import surely_below

IMAGES = 10
SHARE = 0.3
KNOWN = 0.5


def judge(facts: Facts) -> Verdict | None:
    """Look for a class that is far less often right than the others."""
    stage = facts.validation or facts.train
    accuracy, labels = stage.accuracy, sorted(facts.train.labels)
    if not stage.confusion or not labels:
        return None
    for number, row in enumerate(stage.confusion):
        count, right = sum(row), row[number]
        if count < IMAGES or not surely_below(right, count, SHARE * accuracy):
            continue
        seen = facts.train.labels[number]
        of_train = facts.train.confusion[number] if facts.train.confusion else ()
        recall = of_train[number] / sum(of_train) if sum(of_train) else 1.0
        rare = seen < 0.2 * labels[len(labels) // 2]
        certain = (rare and accuracy > 0.6) or (accuracy > 0.8 and recall < 0.3)
        mostly = max((other for other in range(len(row)) if other != number), key=row.__getitem__, default=number)
        why = (
            f"only {seen} of {sum(labels):,} training images have it" if rare else f"{recall:.0%} are right in training"
        )
        remedy = "Look at its labels, and get more of them." if rare else "Look at its labels."
        if not rare and recall > KNOWN:
            remedy = "Compare its images in both sets."
        return Verdict(
            "alarm" if certain else "note",
            f"{right} of {count} images of class {facts.name(number)} are right ({accuracy:.0%} overall), mostly "
            f"called {facts.name(mostly)}; {why}. {remedy}",
            (number, mostly),
        )
    return None


_EXPLAINED = ("one-answer", "swapped-labels", "missing-class", "no-progress")
CHECK = Check("never-learned", judge, confusion, patience=2, silenced_by=(*OTHER_IMAGES, *NOTHING_LEARNED, *_EXPLAINED))
