"""What cannot be seen of a model, in sentences: inside TorchScript, and behind quantised layers."""

import torch
from torch import nn

_QUANTISED = ("torch.ao.nn.quantized", "torch.nn.quantized", "torch.ao.nn.intrinsic.quantized")


def limits_of(model: nn.Module) -> list[str]:
    """Return a sentence for each thing that keeps some techniques from working with a model.

    Example:
        >>> limits_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
        []
    """
    found, name = [], getattr(model, "original_name", type(model).__name__)
    scripted = [part for part in model.modules() if isinstance(part, torch.jit.ScriptModule)]
    if isinstance(model, torch.jit.ScriptModule):
        found.append(
            f"{name} is scripted or traced: no layer inside can be seen, so techniques that read layers (CAMs, "
            "Activations, FeatureAppearance) make no pictures; Gradient, Occlusion and ClassAppearance do. For all of "
            "them give the module that was scripted"
        )
    elif scripted:
        inside = getattr(scripted[0], "original_name", "TorchScript")
        found.append(f"{name} has a scripted or traced part ({inside}): layers inside it cannot be seen or named")
    quantised = quantised_layers(model)
    if quantised:
        found.append(
            f"{name} has quantised layers ({', '.join(quantised[:2])}), which have no gradient: techniques that need "
            "one make no pictures; Occlusion, EigenCAM and ScoreCAM do. For all give the model before quantisation"
        )
    return found


def quantised_layers(model: nn.Module) -> list[str]:
    """Return the kinds of a model's quantised layers, through which no gradient passes."""
    kinds = (type(part) for part in model.modules())
    return list(dict.fromkeys(kind.__name__ for kind in kinds if kind.__module__.startswith(_QUANTISED)))
