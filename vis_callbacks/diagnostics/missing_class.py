"""A class that one of the sets does not have."""

from vis_callbacks.diagnostics.check import Check
from vis_callbacks.diagnostics.exhibits import confusion
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict

SHARE = 0.02
IMAGES_PER_CLASS = 20


def judge(facts: Facts) -> Verdict | None:
    """Compare how often each class is the label in training and in validation."""
    train, validation = facts.train.labels, facts.validation.labels if facts.validation is not None else ()
    seen, shown = sum(train), sum(validation)
    if len(train) != len(validation) or min(seen, shown) < IMAGES_PER_CLASS * len(train):
        return None
    sets = (("training", train, seen, "validation", validation), ("validation", validation, shown, "training", train))
    for stage, labels, total, other, others in sets:
        for number, count in enumerate(labels):
            # So many are expected in the other set that none is no chance.
            if not others[number] and count >= SHARE * total and count / total * sum(others) >= IMAGES_PER_CLASS:
                return Verdict(
                    "alarm",
                    f"{count} of {total} {stage} images are of class {facts.name(number)}, and none of {sum(others)} "
                    f"{other} images. Look at the split, and at the numbers of the classes in both sets.",
                    (number,),
                )
    return None


CHECK = Check("missing-class", judge, confusion)
