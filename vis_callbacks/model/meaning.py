"""What the outputs of a model mean: classes, labels, a value or features."""

from typing import Literal, TypeAlias

from vis_callbacks.model.see_through import Through

Meaning: TypeAlias = Literal["classes", "binary", "labels", "value", "embedding"]
"""What the outputs are.

* ``classes``: one logit per class, of which one class is right.
* ``binary``: one logit, that of the second of two classes.
* ``labels``: one logit per class, of which several may be right.
* ``value``: a number, not a class.
* ``embedding``: features; no class is predicted.
"""


def seen_meaning(meaning: Meaning, through: Through, width: int) -> Meaning:
    """Return what outputs mean, once a pass has shown what the model applies to its logits."""
    return "labels" if meaning == "classes" and through == "sigmoid" and width > 1 else meaning
