"""Feature prior: keeps the feature statistics of an image close to those of real images, in every block."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from vis_callbacks.model import filter_layers, guarded, logits_of, named_layers, pixels_of
from vis_callbacks.model.batching import small_chunk_size
from vis_callbacks.synthesis.optimization.objectives import Objective, View


class FeatureMoments(NamedTuple):
    """Mean and variance of the inputs of one layer over real images.

    Attributes:
        mean: ``(C,)``.
        var: ``(C,)``.
        axis: Axis of the channels.
        batch: Axis of the images, into which windows or tokens may be folded.
    """

    mean: Tensor
    var: Tensor
    axis: int = 1
    batch: int = 0


FeatureStatistics = Mapping[str, FeatureMoments]
"""Moments by the full name of the layer."""

T = TypeVar("T")

_SMALL_BLOCK = 4
_EPSILON = 1e-5


def batchnorm_statistics(model: nn.Module) -> FeatureStatistics:
    """Return the running statistics of the BatchNorms that the prior uses; empty if there are none.

    These are all of the first block and the last of every other: as good as all of them, in a fraction of the time.

    Args:
        model: Any module. A layer counts as BatchNorm if it has a running mean and variance.
    """
    norms: dict[str, FeatureMoments] = {}
    for name, module in named_layers(model).items():
        mean, var = getattr(module, "running_mean", None), getattr(module, "running_var", None)
        if isinstance(mean, Tensor) and isinstance(var, Tensor):
            norms[name] = FeatureMoments(mean.detach().float(), var.detach().float())
    return _selected(norms)


@guarded
def collect_statistics(model: nn.Module, images: Tensor) -> FeatureStatistics:
    """Measure the statistics that BatchNorm would keep, for a model without it.

    Args:
        model: From images to logits.
        images: Real images ``(N, C, H, W)`` in model space; a few dozen are enough.

    Returns:
        Moments of the inputs of the normalisation layers, by full name; else of the convolutions or linear layers.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(4 * 36, 5))
        >>> collect_statistics(model, torch.rand(8, 3, 8, 8))["1"].mean.shape
        torch.Size([4])
    """
    every = named_layers(model).items()
    norms = {name: layer for name, layer in every if "Norm" in type(layer).__name__}
    linear = {name: layer for name, layer in every if isinstance(layer, nn.Linear)}
    layers = _selected(norms or filter_layers(model) or linear)
    axes: dict[str, int] = {}
    found: dict[str, FeatureMoments] = {}
    size, done = small_chunk_size(pixels_of(images), images.device), 0

    def record(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if not inputs or not isinstance(inputs[0], Tensor):
                return
            features = inputs[0].detach().float()
            if name not in axes:
                axes[name] = _channel_axis(module, features, output)
            others = [at for at in range(features.ndim) if at != axes[name] % features.ndim]
            var, mean = torch.var_mean(features, dim=others, correction=0)
            known = found.get(name, FeatureMoments(mean, var))
            # Pooled variance of two groups: within the groups, and between their means.
            share, apart = size / (done + size), mean - known.mean
            var = known.var + share * (var - known.var) + share * (1 - share) * apart.square()
            found[name] = FeatureMoments(known.mean + share * apart, var, axes[name])

        return module.register_forward_hook(hook)

    with ExitStack() as stack, torch.no_grad():
        for name, module in layers.items():
            stack.callback(record(name, module).remove)
        while done < len(images):
            size = min(size, len(images) - done)
            logits_of(model, images[done : done + size])
            done += size
    return found


def running_layers(model: nn.Module, statistics: FeatureStatistics, images: Tensor) -> FeatureStatistics:
    """Return the statistics of the layers that run; auxiliary heads do not in eval mode. Call inside `undisturbed`.

    Args:
        model: From images to logits.
        statistics: Moments by the full name of the layer.
        images: One image ``(1, C, H, W)`` in model space, by which the axis of the images is found.
    """
    layers = named_layers(model)
    seen: dict[str, int] = {}

    def find_axis(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            if not inputs or not isinstance(inputs[0], Tensor):
                return
            shape = inputs[0].shape
            # Tokens come before images, as in torch's own transformers.
            second = len(shape) == 3 and shape[0] > 1 == shape[1] and statistics[name].axis != 1
            seen[name] = 1 if second else 0

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name in statistics:
            stack.callback(layers[name].register_forward_pre_hook(find_axis(name)).remove)
        logits_of(model, images)
    return {name: moments._replace(batch=seen[name]) for name, moments in statistics.items() if name in seen}


def feature_prior(statistics: FeatureStatistics) -> Objective:
    """Distance of each image's features from the statistics of real images (Yin et al., "DeepInversion", 2020).

    The sum over layers of the mean over channels of (μ − μ₀)²/σ₀² + (σ/σ₀ − 1)², with μ and σ of each image by itself.

    Args:
        statistics: Moments of the layers to use.
    """
    if not statistics:
        return Objective(lambda view: torch.zeros(len(view.pixels), device=view.pixels.device))
    readers = {name: partial(_moments, axis=one.axis, batch=one.batch) for name, one in statistics.items()}
    mean = torch.cat([one.mean for one in statistics.values()])
    std = (torch.cat([one.var for one in statistics.values()]) + _EPSILON).sqrt()
    # All layers at once: on small images many small operations would cost more than the model itself.
    weight = torch.cat([torch.full_like(one.mean, 1 / len(one.mean)) for one in statistics.values()])

    def score(view: View) -> Tensor:
        found = [view.inputs[name] for name in readers]
        means, variances = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        apart = ((means - mean) / std).square() + ((variances + _EPSILON).sqrt() / std - 1).square()
        return apart @ weight

    return Objective(score, input_readers=readers)


def _moments(features: Tensor, count: int, *, axis: int, batch: int) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each channel of each image, each ``(count, C)``."""
    features = features.float().movedim(batch, 0)
    if len(features) != count:
        # Windows or tokens were folded into the batch.
        folded = features.reshape(count, -1, *features.shape[1:])
        features, axis = folded.movedim(axis % features.ndim + 1, 1), 1
    # Not flattened first, which would copy features in channels-last memory.
    positions = [at for at in range(1, features.ndim) if at != axis % features.ndim]
    if not positions:
        return features, torch.zeros_like(features)
    mean, var = _Moments.apply(features, positions)
    return mean.flatten(1), var.flatten(1)


class _Moments(torch.autograd.Function):
    """Mean and variance over some axes, which are kept with size 1.

    On a CPU ``torch.var_mean`` takes tens of times as long, and its backward reads the features several times.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, positions: list[int]) -> tuple[Tensor, Tensor]:
        mean = features.mean(dim=positions, keepdim=True)
        var = (features - mean).square_().mean(dim=positions, keepdim=True)
        ctx.save_for_backward(features, mean)
        ctx.size = features.numel() // mean.numel()
        return mean, var

    @staticmethod
    def backward(ctx: Any, to_mean: Tensor, to_var: Tensor) -> tuple[Tensor, None]:
        features, mean = ctx.saved_tensors
        slope = to_var * (2 / ctx.size)
        return torch.addcmul(to_mean / ctx.size - slope * mean, features, slope), None


def _channel_axis(layer: nn.Module, features: Tensor, output: Any) -> int:
    """Return the axis of the channels in what a layer was given: the one as long as the layer's weights.

    Where the first and the last axis both are, it is the one along which normalising gives the layer's output.
    """
    if isinstance(layer, nn.Linear):
        return -1
    weight = getattr(layer, "weight", next(layer.parameters(recurse=False), None))
    shape = weight.shape if isinstance(weight, Tensor) else getattr(layer, "normalized_shape", ())
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    # Filters too: their weights are as long as what they give.
    if "Norm" not in type(layer).__name__ or isinstance(layer, nn.GroupNorm) or not sizes or features.ndim < 3:
        return 1
    if len(sizes) > 1:
        # Several axes, or weights that are spread over the others: the first axis that is not.
        return next((at - len(sizes) for at, size in enumerate(sizes) if size > 1), 1)
    fitting = [axis for axis in (-1, 1) if features.shape[axis] == sizes[0]]
    # Of two, the one along which the layer normalises.
    return max(fitting, key=lambda axis: _agreement(features, output, axis), default=1)


def _agreement(features: Tensor, output: Any, axis: int) -> float:
    """Return how much of a layer's output its input explains, normalised along an axis, with a weight and bias."""
    if not isinstance(output, Tensor) or output.shape != features.shape:
        return 0.0
    given = output.float().movedim(axis, -1).flatten(0, -2)
    rows = features.movedim(axis, -1).flatten(0, -2)
    found = []
    for centred in (rows - rows.mean(dim=1, keepdim=True), rows):
        plain = centred / (centred.square().mean(dim=1, keepdim=True) + _EPSILON).sqrt()
        one, other = plain - plain.mean(dim=0), given - given.mean(dim=0)
        sizes = one.square().sum(dim=0) * other.square().sum(dim=0)
        found.append(float(((one * other).sum(dim=0).square() / sizes.clamp_min(1e-12)).mean()))
    return max(found)


def _selected(layers: Mapping[str, T]) -> dict[str, T]:
    """Keep all layers of the first block and of small flat networks, and the last of every other block."""
    blocks: dict[str, list[str]] = {}
    for name in layers:
        blocks.setdefault(name.rpartition(".")[0], []).append(name)
    kept: set[str] = set()
    for index, (parent, names) in enumerate(blocks.items()):
        flat = len(names) > _SMALL_BLOCK
        kept.update(names if flat or not parent or index <= 1 else names[-1:])
    return {name: layer for name, layer in layers.items() if name in kept}
