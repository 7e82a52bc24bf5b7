"""Targets: which class's logit is explained."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from vis_callbacks.data.samples import UNKNOWN, Samples
from vis_callbacks.errors import ConfigurationError, nearest
from vis_callbacks.model.classifier import probabilities
from vis_callbacks.model.meaning import Meaning

TargetSpec: TypeAlias = Literal["predicted", "label", "contrast"] | int | str
"""The predicted class, the true class, predicted minus true, a class by number, or a class by name."""

WORDS = ("predicted", "label", "contrast")


def class_index(wanted: int | str, class_names: tuple[str, ...]) -> int:
    """Return the number of a class given by number or name.

    Names are compared without case and underscores; each synonym of a name ("lemon, citrus") counts.

    Raises:
        ConfigurationError: If no class, or more than one, has the name.

    Example:
        >>> class_index("Tabby cat", ("dog", "tabby_cat"))
        1
    """
    if isinstance(wanted, int):
        return wanted
    plain = [_plain(name) for name in class_names]
    found = [index for index, name in enumerate(plain) if name == _plain(wanted)]
    if not found:
        parts = [[_plain(part) for part in name.split(",")] for name in class_names]
        found = [index for index, synonyms in enumerate(parts) if _plain(wanted) in synonyms]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigurationError(f"class {wanted!r} is the name of {len(found)} classes: give a number of {found}")
    if wanted.isdigit():
        return int(wanted)
    if not class_names:
        raise ConfigurationError(f"class {wanted!r}: no class names are known; give class_names=, or its number")
    raise ConfigurationError(f"no class {wanted!r} among {len(class_names)}; {nearest(wanted, class_names)}")


def check_target(spec: TargetSpec, class_names: tuple[str, ...]) -> None:
    """Raise a `ConfigurationError` that lists the possible words, if `spec` means no class.

    Example:
        >>> check_target("label", ())
    """
    if spec in WORDS:
        return
    try:
        class_index(spec, class_names)
    except ConfigurationError as error:
        raise ConfigurationError(f"targets={spec!r}: {error}; or one of {', '.join(map(repr, WORDS))}") from None


def choose_targets(spec: TargetSpec, samples: Samples, logits: Tensor, meaning: Meaning = "classes") -> Tensor:
    """Return targets for the logits of samples: ``(N,)``, or ``(N, 2)`` for a contrast of two logits.

    For ``"label"``, samples without a label use the predicted class. A contrast is the predicted class against the true
    class; if the two agree or the label is unknown, against the second most probable class. Of several true classes
    it is the most probable. A single value is its own target, whatever is asked for.

    Args:
        spec: Which target.
        samples: Give labels and class names.
        logits: ``(N, K)``.
        meaning: What the logits mean.
    """
    likely = probabilities(logits.detach(), meaning)
    # Of equal ones, as of a head that begins at zero, the first, which is said to be predicted; topk takes any.
    predicted = likely.argmax(dim=1)
    second = likely.scatter(1, predicted[:, None], -1).argmax(dim=1)
    if meaning == "value" and logits.shape[1] == 1 and not isinstance(spec, int):
        # The logit of class 1 is the output itself.
        return torch.ones_like(predicted)
    labels = samples.labels.to(logits.device)
    if meaning in ("value", "embedding"):
        labels = torch.full_like(predicted, UNKNOWN)
    elif samples.truths is not None and samples.truths.shape == likely.shape:
        truths = samples.truths.to(logits.device)
        labels = torch.where(truths.any(dim=1), likely.masked_fill(~truths, -1).argmax(dim=1), UNKNOWN)
    if spec == "predicted":
        return predicted
    if spec == "label":
        return torch.where(labels == UNKNOWN, predicted, labels)
    if spec == "contrast":
        return torch.stack([predicted, torch.where((labels == UNKNOWN) | (labels == predicted), second, labels)], dim=1)
    return torch.full_like(predicted, class_index(spec, samples.class_names))


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())
