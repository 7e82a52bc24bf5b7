"""What the outputs of a model mean: classes, labels, a value or features. Told by their number, the labels and names."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

from vis_callbacks.model.see_through import Through

Meaning: TypeAlias = Literal["classes", "binary", "labels", "value", "embedding"]
"""What the outputs are.

* ``classes``: one logit per class, of which one class is right.
* ``binary``: one logit, that of the second of two classes.
* ``labels``: one logit per class, of which several may be right.
* ``value``: a number, not a class.
* ``embedding``: features; no class is predicted.
"""


@dataclass(frozen=True)
class LabelFacts:
    """What the labels of a batch are like.

    Attributes:
        width: Numbers per image: 1 for ``(N,)``, K for ``(N, K)``.
        whole: Whether all numbers are whole.
        largest: The largest number.
        least: The smallest number.
        several: Whether rows mark any number of classes with 1, not always a single one.
        shares: Whether rows are in [0, 1] and sum to 1, as one-hot and mixed labels do.
    """

    width: int
    whole: bool
    largest: float
    least: float
    several: bool = False
    shares: bool = False

    @property
    def marks(self) -> bool:
        """Whether all numbers are 0 or 1."""
        return self.whole and self.least >= 0 and self.largest <= 1


def label_facts(labels: Tensor) -> LabelFacts:
    """Return what labels ``(N,)`` or ``(N, K)`` are like.

    Example:
        >>> label_facts(torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])).several
        True
    """
    rows = labels.detach().reshape(len(labels), -1).double()
    width, sums = rows.shape[1], rows.sum(dim=1)
    facts = LabelFacts(width, bool((rows == rows.round()).all()), float(rows.max()), float(rows.min()))
    several = width > 1 and facts.marks and bool((sums != 1).any())
    inside = width > 1 and facts.least >= 0 and facts.largest <= 1
    return LabelFacts(
        width, facts.whole, facts.largest, facts.least, several, inside and bool(((sums - 1).abs() < 1e-3).all())
    )


@dataclass(frozen=True)
class Reading:
    """What outputs mean.

    Attributes:
        meaning: See `Meaning`.
        problem: One sentence where the evidence contradicts itself, with the option to set; then no class is predicted.
        note: One sentence about what is done without being asked for.
        named: Whether the class names belong to the outputs; if not, numbers are shown.
    """

    meaning: Meaning
    problem: str = ""
    note: str = ""
    named: bool = True


def meaning_of(
    width: int,
    *,
    through: Through = "",
    labels: LabelFacts | None = None,
    names: int = 0,
    declared: int | None = None,
) -> Reading:
    """Decide what the outputs of a model mean.

    Args:
        width: Number of outputs.
        through: What the model itself applies to its logits.
        labels: What the labels are like; None: there are none.
        names: Number of class names; 0: unknown.
        declared: Number of classes that the model states; None: it states none.

    Example:
        >>> meaning_of(1, labels=label_facts(torch.tensor([23.4, 7.1]))).meaning
        'value'
        >>> meaning_of(512, labels=label_facts(torch.tensor([0, 3])), names=4).meaning
        'embedding'
    """
    if labels is not None and _are_values(width, labels):
        return Reading("value", named=False)
    if width == 1:
        return _of_one(labels, names)
    meaning: Meaning = "labels" if through == "sigmoid" or _mark_several(width, labels) else "classes"
    certain = meaning == "labels" or through == "softmax" or declared == width
    highest = labels.largest if labels is not None and labels.width == 1 else -1
    if highest >= width:
        problem = (
            f"the labels go up to {highest:.0f}, but the network has {width} outputs: no class is predicted; set "
            "forward= to what returns the logits"
        )
        return Reading(meaning, problem, named=False)
    if not names or names == width:
        return Reading(meaning)
    certain = certain or highest >= names or (labels is not None and labels.width == width)
    if width > names and not certain:
        problem = (
            f"{width} outputs and {names} class names: they are taken for features, of which none is a class; set "
            "forward= to what returns the logits, or class_names="
        )
        return Reading("embedding", problem, named=False)
    note = f"{names} class names for {width} logits: classes are shown by number; set class_names= to name them"
    return Reading(meaning, note=note, named=False)


def seen_meaning(meaning: Meaning, through: Through, width: int) -> Meaning:
    """Return what outputs mean, once a pass has shown what the model applies to its logits."""
    return "labels" if meaning == "classes" and through == "sigmoid" and width > 1 else meaning


def _of_one(labels: LabelFacts | None, names: int) -> Reading:
    if labels is not None and labels.width > 1:
        problem = f"labels of {labels.width} columns for one output: no class is predicted; set forward= to the logits"
        return Reading("binary", problem, named=False)
    if names in (0, 2):
        return Reading("binary")
    if names == 1:
        # The name of what may be there or not.
        return Reading("binary", named=False)
    if labels is None or not labels.marks:
        return Reading("value", named=False)
    note = f"{names} class names for one logit: classes are shown by number; set class_names= to name them"
    return Reading("binary", note=note, named=False)


def _are_values(width: int, labels: LabelFacts) -> bool:
    """Whether labels are measured numbers, not classes."""
    if labels.width > 1:
        return labels.width == width and not labels.shares and not labels.marks
    return not (labels.whole and labels.least >= -1) or (width == 1 and labels.largest > 1)


def _mark_several(width: int, labels: LabelFacts | None) -> bool:
    return labels is not None and labels.width == width and labels.several
