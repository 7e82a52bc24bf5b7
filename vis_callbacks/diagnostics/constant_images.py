"""Images of a single colour, without the colours of the other set, or with a channel of a single value."""

from vis_callbacks.diagnostics.check import Check
from vis_callbacks.diagnostics.exhibits import both_sets
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict
from vis_callbacks.diagnostics.statistics import surely_above

SHARE = 0.005
ALARM = 0.05
LOST = 0.5
IMAGES = 16
GRAY, COLOURED = 0.9, 0.5


def judge(facts: Facts) -> Verdict | None:
    """Count images whose pixels are all the same; compare whether the sets have colours, and each channel."""
    for stage, found in facts.stages.items():
        if found.images and surely_above(found.constant, found.images, SHARE):
            share = found.constant / found.images
            return Verdict(
                "alarm" if share >= ALARM else "note",
                f"{found.constant} of {found.images} {stage} images ({share:.1%}) have a single colour. Look for files "
                "that cannot be read, crops beside the object, and augmentations that erase all.",
            )
    if facts.validation is None or len(facts.train.flat) != len(facts.validation.flat):
        return None
    for stage, found, other in (
        ("training", facts.train, facts.validation),
        ("validation", facts.validation, facts.train),
    ):
        if found.gray >= GRAY and other.gray <= COLOURED and min(found.images, other.images) >= IMAGES:
            return Verdict(
                "alarm",
                f"{stage.capitalize()} images are gray, and those of the other set have colours. Compare how both are "
                "read, such as convert('L') or Grayscale.",
            )
        for channel, count in enumerate(found.flat):
            if count >= max(1, LOST * found.images) and other.flat[channel] < ALARM * other.images:
                return Verdict(
                    "alarm",
                    f"Channel {channel} of {count} of {found.images} {stage} images has a single value, and in the "
                    "other set it has not. Compare how their channels are read.",
                )
    return None


CHECK = Check("constant-images", judge, both_sets)
