"""What the outputs of a model mean: classes, labels, a value or features."""

from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

from vis_callbacks.model.labels import Labels
from vis_callbacks.model.see_through import Through

Meaning: TypeAlias = Literal["classes", "binary", "labels", "value", "embedding"]
"""What the outputs are.

* ``classes``: one logit per class, of which one class is right.
* ``binary``: one logit, that of the second of two classes.
* ``labels``: one logit per class, of which several may be right.
* ``value``: a number, not a class.
* ``embedding``: features; no class is predicted.
"""


_BY_LOSS: Mapping[str, Meaning] = {
    **dict.fromkeys(("BCEWithLogitsLoss", "BCELoss", "MultiLabelMarginLoss", "MultiLabelSoftMarginLoss"), "labels"),
    **dict.fromkeys(("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "PoissonNLLLoss", "GaussianNLLLoss"), "value"),
    **dict.fromkeys(("TripletMarginLoss", "TripletMarginWithDistanceLoss", "CosineEmbeddingLoss"), "embedding"),
}


def meaning_of(width: int, labels: Labels | None = None, losses: Iterable[str] = ()) -> Meaning:
    """Decide what the outputs of a model mean.

    Args:
        width: Number of outputs.
        labels: The labels that belong to them; None: there are none.
        losses: Class names of the modules that read as many numbers per image, such as losses.

    Example:
        >>> import torch
        >>> meaning_of(1, Labels.of(torch.tensor([23.4, 7.1])))
        'value'
        >>> meaning_of(4, Labels.of(torch.tensor([[1.0, 1.0, 0.0, 0.0]])))
        'labels'
    """
    for loss in losses:
        meaning = _BY_LOSS.get(loss)
        # A student that also imitates its teacher's logits predicts classes.
        imitates = meaning == "value" and width > 1 and labels is not None and labels.kind != "values"
        if meaning is not None and not imitates:
            return "binary" if meaning == "labels" and width == 1 else meaning
    if labels is not None and labels.kind == "values":
        return "value"
    if width == 1:
        return "value" if labels is not None and labels.least > 2 else "binary"
    return "labels" if labels is not None and labels.several else "classes"


def seen_meaning(meaning: Meaning, through: Through, width: int) -> Meaning:
    """Return what outputs mean, once a pass has shown what the model applies to its logits."""
    return "labels" if meaning == "classes" and through == "sigmoid" and width > 1 else meaning
