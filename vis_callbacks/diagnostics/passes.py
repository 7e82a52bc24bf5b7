"""What takes passes of the network: dead channels, validation images shown in other ways, parts pasted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vis_callbacks.diagnostics.facts import LayerFacts, PlaceFacts, RepairFacts
from vis_callbacks.model import in_chunks, logits_of, pixels_of
from vis_callbacks.model.torch_functions import RELUS, Function, FunctionMode

_PAIRS = 32
_FIRST, _PROMISING = 24, 0.05
"""Images that are shown in each other way at first; all of them where so many more of these are right than wrong."""
_RESAMPLED = 500


def answers(model: nn.Module, images: Tensor) -> Tensor:
    """Return the logits ``(N, K)`` of images, without a graph."""

    def work(items: Tensor) -> Tensor:
        with torch.no_grad():
            return logits_of(model, images[items].to(_device(model))).cpu()

    chunks = in_chunks(work, len(images), pixels=pixels_of(images), device=_device(model))
    return torch.cat([found for _, found in chunks])


def layer_facts(model: nn.Module, images: Tensor) -> tuple[list[LayerFacts], Tensor]:
    """Return the layers with an activation that cuts, and the logits of the images.

    A channel is dead if it has one value for all images and at all places.
    """
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
            logits = answers(model, images)
    finally:
        for handle in handles:
            handle.remove()
    layers = [
        LayerFacts(name, len(low), int((low == high).sum()), convolutional)
        for name, (low, high, convolutional) in ends.items()
    ]
    return layers, logits


def repair_facts(model: nn.Module, images: Tensor, labels: Tensor, plain: Tensor) -> list[RepairFacts]:
    """Return what changes if images are shown in other ways; `plain` are the logits as they come."""
    right = plain.argmax(dim=1) == labels
    # Spread over the classes, by which the images may be sorted.
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    found = []
    for name, change in _WAYS.items():
        if images.shape[2] != images.shape[3] and name in _SQUARE:
            continue
        tried, mended = order[:0], right[:0]
        for part in (order[:_FIRST], order[_FIRST:]):
            tried = torch.cat([tried, part])
            mended = torch.cat([mended, answers(model, change(images[part])).argmax(dim=1) == labels[part]])
            compared = _compared(name, mended, right[tried])
            if compared.better - compared.worse < _PROMISING * len(tried) or len(tried) == len(order):
                break
        found.append(compared)
    return found


def batch_statistics(model: nn.Module, images: Tensor, labels: Tensor, plain: Tensor) -> RepairFacts | None:
    """Return what changes with the statistics of the batch in BatchNorm; None if there is none."""
    norms = [
        one for one in model.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm) and one.track_running_stats
    ]
    if not norms or len(images) < 16:
        return None
    with _in_training(norms):
        mended = answers(model, images).argmax(dim=1) == labels
    return _compared("with the statistics of the batch", mended, plain.argmax(dim=1) == labels)


def remembered(model: nn.Module, steps: int) -> float:
    """Return the largest share that running statistics still hold of their start."""
    shares = [
        (1 - one.momentum) ** steps
        for one in model.modules()
        if isinstance(one, nn.modules.batchnorm._BatchNorm) and one.momentum is not None and one.track_running_stats
    ]
    return max(shares, default=0.0)


def margin_taken(model: nn.Module, images: Tensor, labels: Tensor, plain: Tensor, found: PlaceFacts) -> float | None:
    """Return which share of the margin is lost where a part is pasted from another class, as a 99 % lower bound."""
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


def _compared(name: str, mended: Tensor, right: Tensor) -> RepairFacts:
    return RepairFacts(name, int((mended & ~right).sum()), int((right & ~mended).sum()), len(right))


def _zoomed(factor: float) -> Callable[[Tensor], Tensor]:
    def change(images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        grid = F.affine_grid(torch.tensor([[[1 / factor, 0, 0], [0, 1 / factor, 0]]]).expand(len(images), 2, 3),
                             [len(images), images.shape[1], height, width], align_corners=False)  # fmt: skip
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

    return change


_WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "mirrored left to right": lambda images: images.flip(3),
    "turned upside down": lambda images: images.flip(2),
    "turned by 90 degrees": lambda images: images.rot90(1, (2, 3)),
    "turned by 180 degrees": lambda images: images.rot90(2, (2, 3)),
    "turned by 270 degrees": lambda images: images.rot90(3, (2, 3)),
    "with rows and columns exchanged": lambda images: images.transpose(2, 3),
    "inverted": lambda images: 2 * images.mean(dim=(2, 3), keepdim=True) - images,
    **{f"reduced to {factor:.0%}": _zoomed(factor) for factor in (0.6, 0.7)},
    **{f"enlarged {factor} times": _zoomed(factor) for factor in (1.4, 1.7)},
}
_SQUARE = {"turned by 90 degrees", "turned by 270 degrees", "with rows and columns exchanged"}


@contextmanager
def _in_training(norms: list[nn.modules.batchnorm._BatchNorm]) -> Iterator[None]:
    """Let BatchNorms use the statistics of the batch, and keep their own."""
    before = [(one.training, one.momentum) for one in norms]
    counts = [None if one.num_batches_tracked is None else one.num_batches_tracked.clone() for one in norms]
    for one in norms:
        one.training, one.momentum = True, 0.0
    try:
        yield
    finally:
        for one, (training, momentum), count in zip(norms, before, counts, strict=True):
            one.training, one.momentum = training, momentum
            if count is not None and one.num_batches_tracked is not None:
                one.num_batches_tracked.copy_(count)


def _device(model: nn.Module) -> torch.device:
    return next((one.device for one in model.parameters()), torch.device("cpu"))
