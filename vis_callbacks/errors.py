"""Errors and warnings. Each names what was found, what was expected and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class ConfigurationError(ValueError):
    """An option that cannot work with this model or these images. Raised before training starts."""


class LayerError(ConfigurationError):
    """A layer name that the model does not have, or a layer that a technique cannot use."""


class SubjectError(ConfigurationError):
    """No single network of a module maps images to logits: ``forward=`` is to say which."""


class CutError(ConfigurationError):
    """The forward cuts the gradient that a technique needs."""


class NotFiniteError(ArithmeticError):
    """The model's weights hold NaN or Inf."""


class VisualizationWarning(UserWarning):
    """A picture could not be made or written; training goes on."""


def brief(error: BaseException, most: int = 120) -> str:
    r"""Return an error in one line, without what it prints over several lines, such as a model.

    Example:
        >>> brief(ValueError("no map in Sequential(\n  (0): Conv2d"))
        'ValueError: no map in Sequential('
    """
    text = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    return text if len(text) <= most else text[: most - 1] + "…"


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
