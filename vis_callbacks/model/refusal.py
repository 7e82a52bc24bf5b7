"""What is said of a network that was called with images and refused them."""

import re
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from torch import nn

from vis_callbacks.errors import SubjectError, brief
from vis_callbacks.model.classifier import unwrapped
from vis_callbacks.model.guard import is_undisturbed, plain, undisturbed
from vis_callbacks.model.signatures import taken_by, takes_images_alone
from vis_callbacks.model.subject import Network

P = ParamSpec("P")
R = TypeVar("R")

_LONGEST = 290
_MOST_PARAMETERS = 60
"""Characters of what a ``forward`` takes that are shown."""

_WANTS_OTHERS = re.compile(
    r"""
    \blong\b | longtensor            # class numbers or tokens, in all the words that torch has for them
    | expected\ \d+d\b.*\binput      # a number of axes
    | values\ to\ unpack | too\ many\ indices
    | shapes\ cannot\ be\ multiplied  # rows of another length
    | '(tensor|nonetype)'\ object     # a batch, or another argument that is needed
    | \b(specify|provide)\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""Messages of errors by which a ``forward`` says that it does not take float images ``(N, C, H, W)`` alone."""


def guarded(function: Callable[Concatenate[nn.Module, P], R]) -> Callable[Concatenate[nn.Module, P], R]:
    """Decorate a function whose first argument is a model to run inside `undisturbed`, with `plain` tensors.

    Where the model takes something else than images alone, the function raises a `SubjectError` that says so.
    """

    @wraps(function)
    def guarded(model: nn.Module, /, *args: P.args, **kwargs: P.kwargs) -> R:
        # Of several functions that call each other the outermost one says it.
        outermost = not is_undisturbed(model)
        with undisturbed(model):
            given: Any = map(plain, args)
            named: Any = {name: plain(one) for name, one in kwargs.items()}
            try:
                return function(model, *given, **named)
            except Exception as error:
                said = _fails_in_forward(model, error) and _WANTS_OTHERS.search(str(error))
                if not outermost or not (said or _lacks_arguments(model, error)):
                    raise
                remedy = "wrap it in a module whose forward makes logits of images alone (in training: set forward=)"
                raise SubjectError(_sentence(model, error, remedy)) from error

    return guarded


def sentence_about(model: nn.Module, error: Exception) -> str:
    """Return what a network's ``forward`` takes, after it refused images with a `TypeError`; "" if it was not that.

    Args:
        model: The network that was called with images.
        error: What the call raised.
    """
    if not _lacks_arguments(model, error):
        return ""
    return _sentence(model, error, "set forward= to a function (module, images) -> logits")


def _lacks_arguments(model: nn.Module, error: Exception) -> bool:
    fails = _fails_in_forward(model, error) or not takes_images_alone(_part(model))
    return isinstance(error, TypeError) and fails


def _fails_in_forward(model: nn.Module, error: Exception) -> bool:
    """Whether an error comes out of the ``forward`` of a model."""
    part = _part(model)
    codes = {getattr(getattr(one, "forward", None), "__code__", None) for one in (part, model, unwrapped(part))}
    trail = error.__traceback__
    while trail is not None and trail.tb_frame.f_code not in codes:
        trail = trail.tb_next
    return trail is not None


def _part(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, Network) else model


def _sentence(model: nn.Module, error: Exception, remedy: str) -> str:
    part = _part(model)
    takes = taken_by(part)
    if len(takes) > _MOST_PARAMETERS:
        takes = f"{takes[:_MOST_PARAMETERS].rpartition(', ')[0]}, …)"
    start = f"{type(unwrapped(part)).__name__}.forward takes {takes} and failed on images alone: "
    return f"{start}{brief(error, max(_LONGEST - len(start) - len(remedy) - 2, 40))}; {remedy}"
