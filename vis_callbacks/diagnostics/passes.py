"""What takes passes of the network: answers, dead channels, parts pasted."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vis_callbacks.diagnostics.facts import LayerFacts, PlaceFacts
from vis_callbacks.model import in_chunks, logits_of, pixels_of
from vis_callbacks.model.torch_functions import RELUS, Function, FunctionMode

_PAIRS = 32
_FEW, _MANY = 32, 0.25
"""Images that layers are looked at with first; all of them where so large a share of a layer's channels seems dead."""
_RESAMPLED = 500


def answers(model: nn.Module, images: Tensor) -> Tensor:
    """Return the logits ``(N, K)`` of images, without a graph."""

    def work(items: Tensor) -> Tensor:
        with torch.no_grad():
            return logits_of(model, images[items].to(_device(model))).cpu()

    chunks = in_chunks(work, len(images), pixels=pixels_of(images), device=_device(model))
    return torch.cat([found for _, found in chunks])


def layer_facts(model: nn.Module, images: Tensor) -> list[LayerFacts]:
    """Return the layers with an activation that cuts.

    A channel is dead if it has one value for all images and at all places: with more images there are fewer.
    """
    layers = _layers(model, images[:_FEW])
    if len(images) > _FEW and any(layer.dead >= _MANY * layer.channels for layer in layers):
        layers = _layers(model, images)
    return layers


def remembered(model: nn.Module, steps: int) -> float:
    """Return the largest share that running statistics still hold of their start."""
    shares = [
        (1 - one.momentum) ** steps
        for one in model.modules()
        if isinstance(one, nn.modules.batchnorm._BatchNorm) and one.momentum is not None and one.track_running_stats
    ]
    return max(shares, default=0.0)


def margin_taken(model: nn.Module, images: Tensor, labels: Tensor, found: PlaceFacts) -> float | None:
    """Return which share of the margin is lost where a part is pasted from another class, as a 99 % lower bound."""
    plain = answers(model, images)
    right = (plain.argmax(dim=1) == labels).nonzero()[:, 0].tolist()
    pairs = [(one, other) for one in right for other in right if labels[one] != labels[other]]
    if len(pairs) < 8:
        return None
    random = torch.Generator().manual_seed(0)
    chosen = [pairs[at] for at in torch.randperm(len(pairs), generator=random)[:_PAIRS].tolist()]
    takers, givers = (torch.tensor(side) for side in zip(*chosen, strict=True))
    height, width = images.shape[-2:]
    left, top, far, low = found.box
    rows = slice(int(top * height), max(int(top * height) + 1, round(low * height)))
    columns = slice(int(left * width), max(int(left * width) + 1, round(far * width)))
    pasted = images[takers].clone()
    pasted[:, :, rows, columns] = images[givers][:, :, rows, columns]
    after = answers(model, pasted)

    def margin(logits: Tensor) -> Tensor:
        own = logits.gather(1, labels[takers, None])[:, 0]
        return own - logits.gather(1, labels[givers, None])[:, 0]

    before = margin(plain[takers])
    lost = before - margin(after)
    draws = torch.randint(len(lost), (_RESAMPLED, len(lost)), generator=random)
    shares = lost[draws].sum(dim=1) / before[draws].sum(dim=1).clamp(min=1e-6)
    return float(shares.quantile(0.01))


def _layers(model: nn.Module, images: Tensor) -> list[LayerFacts]:
    ends: dict[str, tuple[Tensor, Tensor, bool]] = {}
    last, times = [""], [0]

    def note(output: Tensor) -> None:
        # A map of one place is that of a gate, such as squeeze and excitation: constant gates are honest.
        if output.ndim < 2 or len(output) < 2 or (output.ndim == 4 and max(output.shape[2:]) == 1):
            return
        axis = 1 if output.ndim != 3 else 2
        others = [one for one in range(output.ndim) if one != axis]
        name = f"{last[0]}" if not times[0] else f"{last[0]} ({times[0] + 1})"
        times[0] += 1
        low, high = output.detach().amin(others), output.detach().amax(others)
        spatial = output.ndim == 4
        if name in ends:
            low, high = torch.minimum(ends[name][0], low), torch.maximum(ends[name][1], high)
        ends[name] = low, high, spatial

    def recorded(function: Function) -> Function:
        def call(*args: object, **kwargs: object) -> object:
            output = function(*args, **kwargs)
            if isinstance(output, Tensor):
                note(output)
            return output

        return call

    def named(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object) -> None:
            del module, inputs
            last[0], times[0] = name, 0

        return hook

    leaves = [(name, module) for name, module in model.named_modules() if not list(module.children()) and name]
    handles = [module.register_forward_pre_hook(named(name)) for name, module in leaves]
    try:
        with FunctionMode({function: recorded(function) for function in RELUS}):
            answers(model, images)
    finally:
        for handle in handles:
            handle.remove()
    return [
        LayerFacts(name, len(low), int((low == high).sum()), convolutional)
        for name, (low, high, convolutional) in ends.items()
    ]


def _device(model: nn.Module) -> torch.device:
    return next((one.device for one in model.parameters()), torch.device("cpu"))
