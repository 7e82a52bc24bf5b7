"""Generate images for an objective by a recipe, in the shape and normalization that the model accepts."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from vis_callbacks.data.normalization import Normalization, normalization_of
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.model import device_of, filter_layers, filter_weight, logits_of, undisturbed
from vis_callbacks.model.batching import is_out_of_memory
from vis_callbacks.model.pretrained_cfg import stated_input_size
from vis_callbacks.synthesis.optimization.feature_prior import (
    FeatureStatistics,
    batchnorm_statistics,
    feature_prior,
    running_layers,
)
from vis_callbacks.synthesis.optimization.image_statistics import ImageStatistics
from vis_callbacks.synthesis.optimization.loop import Ascent, Goal, Method, OptimizerFactory, SchedulerFactory, ascend
from vis_callbacks.synthesis.optimization.objectives import Objective
from vis_callbacks.synthesis.optimization.parameterizations import ImageSpec
from vis_callbacks.synthesis.optimization.recipes import Recipe, find_recipe
from vis_callbacks.synthesis.optimization.regularizers import l2
from vis_callbacks.synthesis.optimization.transforms import SMALLEST


def generate(
    model: nn.Module,
    objective: Objective,
    count: int,
    *,
    image_size: int | Sequence[int] | None,
    recipe: str | Recipe,
    steps: int | None = None,
    decay: float | None = None,
    normalization: Normalization | None = None,
    init: Tensor | None = None,
    optimizer: OptimizerFactory | None = None,
    scheduler: SchedulerFactory | None = None,
    goal: Goal | None = None,
    image_statistics: ImageStatistics | None = None,
    feature_statistics: FeatureStatistics | None = None,
    seed: int = 0,
    what: str,
    progress: bool,
) -> Ascent:
    """Generate images that maximise an objective, by a recipe. Call inside `undisturbed`.

    `goal` and `what` are those of `ascend`, the other arguments those of `class_appearance`.
    """
    chosen = find_recipe(recipe)
    shape = image_shape(model, image_size)
    device = device_of(model)
    normalization = normalization_for(model, shape[0], normalization)
    generator = torch.Generator().manual_seed(seed)
    statistics = image_statistics or ImageStatistics(shape[0])
    if statistics.channels != shape[0]:
        raise ConfigurationError(f"image_statistics of {statistics.channels} channels: expected {shape[0]}")
    full = (count, *shape)
    spec = ImageSpec(full, normalization, statistics, generator, device, _expanded(init, full, device))
    if decay is not None:
        objective = objective - decay * l2()
    elif chosen.penalty is not None:
        objective = objective - chosen.penalty
    if chosen.prior:
        known = feature_statistics if feature_statistics is not None else batchnorm_statistics(model)
        known = running_layers(model, known, torch.zeros(1, *shape, device=device))
        if known:
            objective = objective - chosen.prior * feature_prior(known)
    method = Method(
        chosen.steps if steps is None else steps,
        optimizer or chosen.optimizer,
        scheduler or chosen.scheduler,
        chosen.transforms,
        chosen.step_hooks,
        chosen.branch_gradient,
        chosen.parameter_decay,
    )
    smaller = zip(*map(_smallest, shape[1:]), strict=True)
    return ascend(
        model,
        chosen.parameterization(spec),
        objective,
        method,
        normalization=normalization,
        generator=generator,
        any_size=accepts_sizes(model, shape, smaller),
        goal=goal,
        what=what,
        progress=progress,
    )


def image_shape(model: nn.Module, image_size: int | Sequence[int] | None) -> tuple[int, int, int]:
    """Return ``(C, H, W)`` of the images to be made.

    Args:
        model: Gives the number of channels by its first filters; 3 if it has none.
        image_size: An int, ``(H, W)`` or ``(C, H, W)``. None: what the model states.

    Raises:
        ConfigurationError: If the size is none of these.

    Example:
        >>> image_shape(nn.Sequential(nn.Conv2d(1, 8, 3)), (32, 48))
        (1, 32, 48)
    """
    if image_size is None:
        image_size = stated_input_size(model)
    if image_size is None:
        raise ConfigurationError(f"{type(model).__name__} states no input size: give image_size=, such as 224")
    sizes = (image_size, image_size) if isinstance(image_size, int) else tuple(int(size) for size in image_size)
    if len(sizes) == 2:
        sizes = (_channels(model), *sizes)
    if len(sizes) != 3 or min(sizes) < 1:
        raise ConfigurationError(f"image_size={image_size}: expected an int, (H, W) or (C, H, W), each above 0")
    return sizes


def accepts_sizes(model: nn.Module, shape: Sequence[int], sizes: Iterable[tuple[int, int]]) -> bool:
    """Return whether a model runs with images of other sizes, and afterwards as before with its own.

    Some models adapt to the size of their last images, as Hugging Face's Swin does, and then fail with larger ones.

    Args:
        model: From images to logits.
        shape: ``(C, H, W)`` of the model's own images.
        sizes: Heights and widths to try.
    """
    device = device_of(model)

    def logits(height: int, width: int) -> Tensor:
        count = shape[0] * height * width
        return logits_of(model, torch.linspace(0, 1, count, device=device).view(1, shape[0], height, width))

    try:
        with undisturbed(model), torch.no_grad():
            before = logits(*shape[1:])
            for size in sizes:
                logits(*size)
            return torch.allclose(before, logits(*shape[1:]), equal_nan=True)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return False


def _smallest(side: int) -> list[int]:
    """Return two sides, about the smallest that transforms make, of which a model that needs whole patches fails."""
    # Odd numbers that differ by two have no common divisor.
    least = round(side * SMALLEST) | 1
    return [min(least, side), min(least + 2, side)]


def normalization_for(model: nn.Module, channels: int, given: Normalization | None) -> Normalization:
    """Return the given normalization, else the model's own if it fits the channels, else identity."""
    if given is not None:
        return given
    found = normalization_of(model)
    return found if found is not None and found.suits(channels) else Normalization()


def _channels(model: nn.Module) -> int:
    for module in filter_layers(model).values():
        weight = filter_weight(module)
        if weight is not None:
            return weight.shape[1] * int(getattr(module, "groups", 1))
    return 3


def _expanded(init: Tensor | None, shape: tuple[int, int, int, int], device: torch.device) -> Tensor | None:
    if init is None:
        return None
    if tuple(init.shape) not in (shape, shape[1:]):
        raise ConfigurationError(f"init of shape {tuple(init.shape)}: expected {shape} or {shape[1:]} in [0, 1]")
    return init.detach().to(device, torch.float32).expand(shape)
