"""From a recipe and an objective to images: what class and feature appearance share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vis_callbacks.data.normalization import Normalization
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.model.guard import device_of
from vis_callbacks.synthesis.optimization.feature_prior import (
    FeatureStatistics,
    batchnorm_statistics,
    feature_prior,
    reached,
)
from vis_callbacks.synthesis.optimization.image_statistics import ImageStatistics
from vis_callbacks.synthesis.optimization.loop import Ascent, Goal, Method, OptimizerFactory, SchedulerFactory, ascend
from vis_callbacks.synthesis.optimization.objectives import Objective
from vis_callbacks.synthesis.optimization.parameterizations import ImageSpec
from vis_callbacks.synthesis.optimization.recipes import Recipe, find_recipe
from vis_callbacks.synthesis.optimization.regularizers import l2
from vis_callbacks.synthesis.optimization.sizes import image_shape, normalization_for, takes_shape


def synthesise(
    model: nn.Module,
    objective: Objective,
    count: int,
    *,
    image_size: int | Sequence[int],
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
    """Make images that an objective loves, by a recipe. To be called inside `undisturbed`.

    The arguments are those of `class_appearance`.
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
    spec = ImageSpec(full, normalization, statistics, generator, device, _fitted(init, full, device))
    if decay is not None:
        objective = objective - decay * l2()
    elif chosen.penalty is not None:
        objective = objective - chosen.penalty
    if chosen.prior:
        known = feature_statistics if feature_statistics is not None else batchnorm_statistics(model)
        known = reached(model, known, torch.zeros(1, *shape, device=device))
        if known:
            objective = objective - chosen.prior * feature_prior(known)
    method = Method(
        chosen.steps if steps is None else steps,
        optimizer or chosen.optimizer,
        scheduler or chosen.scheduler,
        chosen.transforms,
        chosen.edits,
    )
    # Odd sides: a transformer that takes several sizes still wants whole patches.
    smaller = (shape[0], *(max(side // 2, 1) | 1 for side in shape[1:]))
    return ascend(
        model,
        chosen.image(spec),
        objective,
        method,
        normalization=normalization,
        generator=generator,
        any_size=takes_shape(model, smaller, device),
        goal=goal,
        what=what,
        progress=progress,
    )


def _fitted(init: Tensor | None, shape: tuple[int, int, int, int], device: torch.device) -> Tensor | None:
    if init is None:
        return None
    if tuple(init.shape) not in (shape, shape[1:]):
        raise ConfigurationError(f"init of shape {tuple(init.shape)}: expected {shape} or {shape[1:]} in [0, 1]")
    return init.detach().to(device, torch.float32).expand(shape)
