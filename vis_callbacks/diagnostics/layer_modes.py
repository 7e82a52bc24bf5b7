"""Which layers that work otherwise in training are in training mode."""

from torch import nn

from vis_callbacks.diagnostics.facts import LayerKind, LayerMode


def layer_modes(module: nn.Module) -> list[LayerMode]:
    """Return the BatchNorms with running statistics, and the Dropouts that drop anything.

    Example:
        >>> [one.training for one in layer_modes(nn.Sequential(nn.BatchNorm2d(3), nn.Dropout()).eval())]
        [False, False]
    """
    found: list[LayerMode] = []
    seen = set()
    for name, part in module.named_modules():
        children = [(of_part, one) for of_part, one in part.named_children() if _kind(one) and id(one) not in seen]
        beside = bool(children) and any(weight.requires_grad for weight in part.parameters())
        for of_part, one in children:
            seen.add(id(one))
            kind = _kind(one)
            assert kind is not None
            own = any(weight.requires_grad for weight in one.parameters()) if kind == "BatchNorm" else beside
            found.append(LayerMode(f"{name}.{of_part}" if name else of_part, kind, one.training, own))
    return found


def _kind(module: nn.Module) -> LayerKind | None:
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
        return "BatchNorm"
    if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
        return "Dropout"
    return None
