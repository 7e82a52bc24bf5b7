"""What a part's ``forward`` takes, by its signature."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vis_callbacks.model.classifier import unwrapped
from vis_callbacks.model.nested import tensors_in


def taken_by(part: nn.Module) -> str:
    """Return what a part's ``forward`` takes, as text."""
    parameters = _parameters(part)
    return "(...)" if parameters is None else f"({', '.join(parameter.name for parameter in parameters)})"


def takes_images_alone(part: nn.Module) -> bool:
    """Whether a part's ``forward`` can be called with one argument, as far as its signature tells."""
    parameters = _parameters(part)
    if parameters is None:
        return True
    needed = [parameter for parameter in parameters if _is_needed(parameter)]
    positional = [one for one in parameters if one.kind not in (one.KEYWORD_ONLY, one.VAR_KEYWORD)]
    return bool(positional) and all(parameter is positional[0] for parameter in needed)


def image_argument(part: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[bool, str]:
    """Return whether images alone can be given, and the keyword that takes them."""
    parameters = _parameters(part)
    if args and isinstance(args[0], Tensor) and is_image(args[0]):
        if parameters is None:
            return sum(isinstance(one, Tensor) for one in (*args, *kwargs.values())) == 1, ""
        spread = any(one.kind == one.VAR_POSITIONAL for one in parameters)
        return takes_images_alone(part) and not (spread and len(list(tensors_in((args, kwargs)))) > 1), ""
    keyword = next((name for name, value in kwargs.items() if isinstance(value, Tensor) and is_image(value)), None)
    if args or keyword is None:
        return False, ""
    others = [one for one in parameters or () if _is_needed(one) and one.name != keyword]
    first = next(iter(parameters or ()), None)
    return not others, "" if first is not None and first.name == keyword else keyword


def _parameters(part: nn.Module) -> list[inspect.Parameter] | None:
    try:
        return list(inspect.signature(unwrapped(part).forward).parameters.values())
    except (TypeError, ValueError):  # a scripted module
        return None


def _is_needed(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in (
        parameter.VAR_POSITIONAL,
        parameter.VAR_KEYWORD,
    )


def is_image(tensor: Tensor) -> bool:
    """Whether a tensor may hold images ``(N, C, H, W)``."""
    return tensor.ndim == 4
