"""Images of a single colour."""

from vis_callbacks.diagnostics.check import Check
from vis_callbacks.diagnostics.exhibits import both_sets
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict
from vis_callbacks.diagnostics.statistics import surely_above

SHARE = 0.005
ALARM = 0.05


def judge(facts: Facts) -> Verdict | None:
    """Count images whose pixels are all the same."""
    for stage, found in facts.stages.items():
        if found.images and surely_above(found.constant, found.images, SHARE):
            share = found.constant / found.images
            return Verdict(
                "alarm" if share >= ALARM else "note",
                f"{found.constant} of {found.images} {stage} images ({share:.1%}) have a single colour. Look for files "
                "that cannot be read, crops beside the object, and augmentations that erase all.",
            )
    return None


CHECK = Check("constant-images", judge, both_sets)
