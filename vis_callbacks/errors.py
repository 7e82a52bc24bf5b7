"""Errors and warnings. Each names what was found, what was expected and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class ConfigurationError(ValueError):
    """An option that cannot work with this model or these images. Raised before training starts."""


class LayerError(ConfigurationError):
    """A layer name that the model does not have, or a layer that a technique cannot use."""


class NotFiniteError(ArithmeticError):
    """The model's weights hold NaN or Inf."""


class VisualizationWarning(UserWarning):
    """A picture could not be made or written; training goes on."""


def nearest(name: str, known: Iterable[str], *, most: int = 5) -> str:
    """Return the part of a message that lists the known names nearest to a wrong one.

    Example:
        >>> nearest("conv3", ["conv1", "conv2", "head"])
        'nearest: conv2, conv1'
    """
    known = list(known)
    tail = name.rsplit(".", 1)[-1].lower()
    close = get_close_matches(name, known, n=most, cutoff=0.5)
    close += [other for other in known if tail in other.lower() and other not in close]
    if close:
        return "nearest: " + ", ".join(close[:most])
    return "there are: " + ", ".join(known[:most]) + (", …" if len(known) > most else "")
