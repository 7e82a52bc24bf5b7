"""BatchNorm and Dropout in training mode where the network is validated, or the other way round."""

from vis_callbacks.diagnostics.check import Check
from vis_callbacks.diagnostics.exhibits import modes
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict


def judge(facts: Facts) -> Verdict | None:
    """Look in which mode the layers were found in a step of each stage."""
    shown = facts.modes.get("validation", ())
    for kind, what in (
        ("BatchNorm", "each answer hangs on the other images of its batch, and validation changes their statistics"),
        ("Dropout", "answers are random"),
    ):
        layers = [one for one in shown if one.kind == kind]
        on = [one for one in layers if one.training]
        if on:
            # Dropout may be left on to see how sure the network is.
            return Verdict(
                "alarm" if kind == "BatchNorm" else "note",
                f"In validation {len(on)} of {len(layers)} {kind} layers are in training mode ({on[0].name}): {what}. "
                "Look for train() in what validation runs.",
            )
    trained = [one for one in facts.modes.get("training", ()) if one.trained]
    kinds = [kind for kind in ("BatchNorm", "Dropout") if any(one.kind == kind for one in trained)]
    if not trained or any(one.training for one in trained):
        return None
    return Verdict(
        "note",
        f"In training all {len(trained)} {' and '.join(kinds)} layers that belong to trained weights are in evaluation "
        "mode, as from_pretrained leaves them. If you did not mean that, call train() on the network before the fit.",
    )


CHECK = Check("wrong-mode", judge, modes)
