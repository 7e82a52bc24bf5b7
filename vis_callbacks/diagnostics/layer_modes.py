"""Which layers that work otherwise in training are in training mode."""

from torch import nn

from vis_callbacks.diagnostics.facts import LayerKind, LayerMode


def layer_modes(module: nn.Module) -> list[LayerMode]:
    """Return the BatchNorms with running statistics, and the Dropouts that drop anything.

    Example:
        >>> [one.training for one in layer_modes(nn.Sequential(nn.BatchNorm2d(3), nn.Dropout()).eval())]
        [False, False]
    """
    found: dict[nn.Module, LayerMode] = {}
    for name, part in module.named_modules():
        for of_part, one in part.named_children():
            kind = _kind(one)
            if kind is not None and one not in found:
                # A Dropout has no weights of its own: those beside it tell.
                weights = (one if kind == "BatchNorm" else part).parameters()
                trained = any(weight.requires_grad for weight in weights)
                found[one] = LayerMode(f"{name}.{of_part}" if name else of_part, kind, one.training, trained)
    return list(found.values())


def _kind(module: nn.Module) -> LayerKind | None:
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
        return "BatchNorm"
    if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
        return "Dropout"
    return None
