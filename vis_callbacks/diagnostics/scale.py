"""Validation images with another contrast or brightness than training images."""

from vis_callbacks.diagnostics.check import Check
from vis_callbacks.diagnostics.exhibits import both_sets
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict

RATIO = 1.6
SHIFT = 1.0
IMAGES = 16
GAP = 0.1


def judge(facts: Facts) -> Verdict | None:
    """Compare contrast and channel means of validation and training images."""
    train, validation = facts.train, facts.validation
    if validation is None or min(train.images, validation.images) < IMAGES or not train.contrast:
        return None
    ratio = validation.contrast / train.contrast
    shift = max(
        abs(ours - theirs) / max(spread, 1e-6 + 0.05 * train.contrast)
        for ours, theirs, spread in zip(validation.means, train.means, train.spread, strict=True)
    )
    if 1 / RATIO <= ratio <= RATIO and shift <= SHIFT:
        return None
    times = f"{ratio:.2g}" if ratio < 10 else f"{ratio:,.0f}"
    what, more, harmless = f"{times} times the contrast of training images", "", False
    if 1 / RATIO <= ratio <= RATIO:
        what = f"another brightness: their mean is {shift:.1f} standard deviations from that of training images"
        more = ", and crop and pad alike"
        # So is augmentation that erases or inverts; then validation is answered as well, or nothing is learned yet.
        harmless = facts.gap < GAP
    return Verdict(
        "note" if harmless else "alarm",
        f"Validation images have {what}. Check that both transforms normalise alike (Normalize, values in [0, 1] or "
        f"0 to 255){more}{'; fine if augmentation is why' if harmless else ''}.",
    )


CHECK = Check("scale", judge, both_sets, silenced_by=("geometry", "channel-order", "constant-images"))
