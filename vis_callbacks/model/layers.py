"""The layers of a model, by name."""

from weakref import WeakKeyDictionary

from torch import Tensor, nn

from vis_callbacks.errors import LayerError, nearest

# The names of networks in the users' modules that they are parts of.
_names_of_parts: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


def known_as(part: nn.Module, name: str) -> nn.Module:
    """Return a part of a user's module; from then on its layers are also found by their full names in that module."""
    if name:
        _names_of_parts[part] = _without_compile_prefix(name)
    return part


def named_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return every submodule by its dotted name, without the prefixes that ``torch.compile`` adds to names.

    Example:
        >>> list(named_layers(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())))
        ['0', '1']
    """
    return {clean: module for name, module in model.named_modules() if (clean := _without_compile_prefix(name))}


def find_layer(model: nn.Module, name: str) -> tuple[str, nn.Module]:
    """Return the full name and the module of a layer.

    A name is a full name, or the end of exactly one: ``layer4`` finds ``model.layer4``. A trailing ``.weight`` is
    allowed, so that names from ``named_parameters`` work.

    Args:
        model: The model that has the layer.
        name: The layer's name.

    Raises:
        LayerError: If no layer, or more than one, has this name.

    Example:
        >>> find_layer(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), "0")[0]
        '0'
    """
    layers = named_layers(model)
    _check_is_name(name, layers)
    wanted = _without_compile_prefix(name.removesuffix(".weight"))
    if wanted not in layers and model in _names_of_parts:
        wanted = wanted.removeprefix(f"{_names_of_parts[model]}.")
    if wanted in layers:
        return wanted, layers[wanted]
    endings = [full for full in layers if full.endswith("." + wanted)]
    # With a wrapper that holds its model in an attribute, the shortest match is meant.
    shortest = [full for full in endings if full.count(".") == min(other.count(".") for other in endings)]
    if len(shortest) == 1:
        return shortest[0], layers[shortest[0]]
    if endings:
        raise LayerError(f"layer {name!r} is ambiguous in {type(model).__name__}: give one of {', '.join(endings[:5])}")
    raise LayerError(f"no layer {name!r} in {type(model).__name__}; {nearest(wanted, layers)}")


def _check_is_name(name: object, layers: dict[str, nn.Module]) -> None:
    if not isinstance(name, str):
        known = next((full for full, module in layers.items() if module is name), None)
        remedy = f"give its name, {known!r}" if known else f"such as {next(reversed(layers), '')!r}"
        found = f"{type(name).__name__} {name!r}".split("\n")[0]
        raise LayerError(f"layer={found}: expected the name of a layer; {remedy}")


def full_name(model: nn.Module, layer: str | None) -> str | None:
    """Return a layer's full name, see `find_layer`; None for None."""
    return None if layer is None else find_layer(model, layer)[0]


def filter_weight(module: nn.Module) -> Tensor | None:
    """Return a layer's filters ``(out, in/groups, kh, kw)``, or None if it has none.

    Any module whose ``weight`` has four dimensions counts, so that re-implementations of convolutions do too;
    one-dimensional convolutions get a height of 1, and linear layers count as 1x1 convolutions.
    """
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return None
    if weight.ndim == 3 and isinstance(module, nn.Conv1d):
        return weight.unsqueeze(2)
    if weight.ndim == 2 and isinstance(module, nn.Linear):
        return weight[:, :, None, None]
    return weight if weight.ndim == 4 else None


def filter_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the convolutions, by name, in the order in which the model defines them.

    Example:
        >>> list(filter_layers(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1))))
        ['0', '2']
    """
    return {
        name: module
        for name, module in named_layers(model).items()
        if filter_weight(module) is not None and not isinstance(module, nn.Linear)
    }


def is_linear(module: nn.Module) -> bool:
    """Return whether a module is a linear layer, or wraps one, as LoRA does, and adds products of smaller ones.

    Example:
        >>> lora = nn.ModuleDict({"base": nn.Linear(8, 24), "down": nn.Linear(8, 2), "up": nn.Linear(2, 24)})
        >>> is_linear(lora), is_linear(nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)))
        (True, False)
    """
    if isinstance(module, nn.Linear):
        return True
    # PEFT's name.
    base = getattr(module, "base_layer", None)
    if isinstance(base, nn.Module):
        return is_linear(base)
    leaves = [part for part in module.modules() if part is not module and not any(True for _ in part.children())]
    own = [parameter for parameter in module.parameters(recurse=False) if parameter.ndim == 2]
    weights = [leaf.weight for leaf in leaves if isinstance(leaf, nn.Linear)] + own
    others = (nn.Linear, nn.Identity, nn.Dropout, nn.ParameterDict, nn.ParameterList, nn.ModuleDict, nn.ModuleList)
    ranks = sorted(min(weight.shape) for weight in weights)
    # Attention has several weights of the full rank.
    return len(ranks) > 1 and ranks[-2] < ranks[-1] and all(isinstance(leaf, others) for leaf in leaves)


def find_filter_layer(model: nn.Module, name: str | None = None) -> tuple[str, nn.Module]:
    """Return the name and module of a layer with filters: the named one, or the first convolution or linear layer.

    Raises:
        LayerError: If the named layer has no filters, or no layer of the model has.

    Example:
        >>> find_filter_layer(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 8, 3)))[0]
        '1'
    """
    layers = filter_layers(model)
    if name is not None:
        full, module = find_layer(model, name)
        if filter_weight(module) is None:
            raise LayerError(
                f"layer {full!r} is a {type(module).__name__} and has no filters; {nearest(full, layers)}"
                if layers
                else f"layer {full!r} is a {type(module).__name__} and has no filters, nor has any other layer"
            )
        return full, module
    if not layers:
        linear = {name: module for name, module in named_layers(model).items() if filter_weight(module) is not None}
        if not linear:
            raise LayerError(f"{type(model).__name__} has no convolution and no linear layer, so no filters")
        return next(iter(linear.items()))
    return next(iter(layers.items()))


def _without_compile_prefix(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != "_orig_mod")
