"""Labels that look random."""

from vis_callbacks.diagnostics.check import NOTHING_LEARNED, OTHER_IMAGES, Check
from vis_callbacks.diagnostics.double_softmax import follows_labels
from vis_callbacks.diagnostics.exhibits import doubted
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict
from vis_callbacks.diagnostics.statistics import surely_below

LEAST, SHARE = 20, 0.04
ACCURACY = 0.5  # below, a network that has learned little is confident of anything
CLASSES = 5


def judge(facts: Facts) -> Verdict | None:
    """Look whether labels that are denied with confidence are at least the second choice: honest errors are."""
    if len(facts.classes) < CLASSES:
        return None
    for stage, found in facts.stages.items():
        if stage == "training" and not follows_labels(facts.first_steps):
            # It learns something else, such as two labels of images that were mixed.
            continue
        doubted, total = found.doubted, found.answers
        if (
            found.accuracy < ACCURACY
            or doubted < max(LEAST, SHARE * total)
            or not surely_below(found.second, doubted, 1 / 3)
        ):
            continue
        # Of random labels some are right by chance.
        wrong = doubted / total * len(facts.classes) / (len(facts.classes) - 1)
        return Verdict(
            "alarm",
            f"{doubted} of {total} {stage} labels are denied with confidence, and only {found.second / doubted:.0%} of "
            f"them were the second choice (of honest errors 37 to 74 %): about {wrong:.0%} of the labels look random. "
            "Look at them.",
        )
    return None


_EXPLAINED = ("swapped-labels", "missing-class", "never-learned", "one-answer", "no-progress", "constant-images")
CHECK = Check(
    "random-labels",
    judge,
    doubted,
    patience=2,
    silenced_by=(*OTHER_IMAGES, *NOTHING_LEARNED, *_EXPLAINED, "train-eval-gap"),
)
