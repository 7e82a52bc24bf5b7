"""Recipes: how to make an image that a network loves, as data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from torch.optim import SGD, Adam, NAdam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, StepLR

from vis_callbacks.checks import refused
from vis_callbacks.errors import nearest
from vis_callbacks.synthesis.optimization.loop import OptimizerFactory, SchedulerFactory
from vis_callbacks.synthesis.optimization.objectives import Objective
from vis_callbacks.synthesis.optimization.parameterizations import (
    BandEnergy,
    ClippedPixels,
    Fourier,
    Image,
    ImageSpec,
    Maco,
    Pixels,
)
from vis_callbacks.synthesis.optimization.regularizers import Blur, Edit, GradientClipping, l1, l2, total_variation
from vis_callbacks.synthesis.optimization.transforms import (
    Affine,
    Colour,
    GaussianBlur,
    Grayscale,
    Noise,
    Resolution,
    Transform,
)


@dataclass(frozen=True)
class Recipe:
    """How to make an image that an objective loves.

    Attributes:
        image: The parameterisation.
        optimizer: Makes the optimizer of its parameters.
        steps: Steps unless told otherwise.
        scheduler: Makes the schedule of the learning rate, from the optimizer and the number of steps. None: constant.
        transforms: What happens to the pixels before the model sees them.
        penalty: What is subtracted from the objective.
        prior: Weight of the feature statistics' prior, see `feature_prior`; 0: none.
        edits: Changes between gradient and step.
        spare: The part of the steps that is kept for new tries of images which the model does not trust.
    """

    image: Callable[[ImageSpec], Image]
    optimizer: OptimizerFactory
    steps: int = 128
    scheduler: SchedulerFactory | None = None
    transforms: tuple[Transform, ...] = ()
    penalty: Objective | None = None
    prior: float = 0.0
    edits: tuple[Edit, ...] = ()
    spare: float = 0.0


def warm_hold_cosine(optimizer: Optimizer, steps: int, *, warm: int = 10, hold: float = 0.6) -> LRScheduler:
    """Raise the learning rate over the first steps, hold it, and end in a cosine.

    Args:
        optimizer: Whose learning rate.
        steps: All steps.
        warm: Steps of warm-up, at most a quarter of all.
        hold: The part of the steps after which the cosine begins.
    """
    warm = min(warm, steps // 4)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        late = max(step / max(steps, 1) - hold, 0) / max(1 - hold, 1e-6)
        return 0.5 * (1 + math.cos(math.pi * min(late, 1)))

    return LambdaLR(optimizer, factor)


def stepwise(optimizer: Optimizer, steps: int, *, every: int = 100, gamma: float = 0.9) -> LRScheduler:
    """Multiply the learning rate by gamma every few steps, whatever their number."""
    del steps
    return StepLR(optimizer, every, gamma)


_MOVED = Affine(zoom=(0.85, 1.4), degrees=15, shift=0.08, flip=True)
_RECOLOURED, _REDUCED = Colour(0.2, 0.2), Resolution(0.43, until=0.85)

BEST = Recipe(
    image=partial(BandEnergy, gain=1.0),
    optimizer=partial(Adam, lr=0.15),
    steps=256,
    scheduler=warm_hold_cosine,
    transforms=(_MOVED, Grayscale(), GaussianBlur(), _RECOLOURED, _REDUCED),
    prior=0.3,
)
"""Band-energy spectrum, feature prior, random resolution, colour shift, and now and then no colour or no sharpness."""

_PLAIN = replace(BEST, transforms=(_MOVED, _RECOLOURED, _REDUCED))

RECIPES: Mapping[str, Recipe] = {
    "best": BEST,
    # The same, and new tries with a fifth of the passes where the model does not trust an image.
    "persistent": replace(BEST, steps=320, spare=0.2),
    # The same for a few dozen steps: they have to be larger.
    "draft": replace(_PLAIN, steps=48, optimizer=partial(Adam, lr=0.4), scheduler=partial(warm_hold_cosine, warm=2)),
    # The same without the prior, whose size suits logits and not activations.
    "feature": replace(_PLAIN, steps=128, prior=0.0),
    # Simonyan et al., arXiv 1312.6034; torchbearer's ClassAppearanceModel.
    "simonyan": Recipe(Pixels, partial(Adam, lr=0.05), scheduler=warm_hold_cosine, penalty=1e-3 * l2()),
    # timm-vis's generate_image, with the numbers of its notebook.
    "timm-vis": Recipe(
        partial(ClippedPixels, noise=1.0), partial(SGD, lr=10, weight_decay=5e-2), steps=500, scheduler=stepwise
    ),
    # Plain ascent with one penalty, as in Pytorch_cnn_visualization_implementations.
    "l1": Recipe(partial(Pixels, noise=0.1), partial(Adam, lr=0.05), scheduler=warm_hold_cosine, penalty=1e-3 * l1()),
    "l2": Recipe(partial(Pixels, noise=0.1), partial(Adam, lr=0.05), scheduler=warm_hold_cosine, penalty=1e-3 * l2()),
    # Blur, weight decay and gradient clipping, as in pytorch-cnn-visualizations, with total variation.
    "regularised": Recipe(
        partial(Pixels, noise=0.1),
        partial(SGD, lr=6, weight_decay=1e-4),
        steps=150,
        penalty=10 * total_variation(),
        edits=(GradientClipping(0.1), Blur(every=4, sigma=1)),
    ),
    # Olah et al., Distill 2017.
    "fourier": Recipe(Fourier, partial(Adam, lr=0.05), transforms=(Affine((0.9, 1.1), 10, 0.04),)),
    # Fel et al., arXiv 2306.06805.
    "maco": Recipe(Maco, partial(NAdam, lr=1.0), transforms=(Affine((1.0, 2.0), 0, 0.1), Noise(0.05))),
}


def find_recipe(recipe: str | Recipe) -> Recipe:
    """Return a recipe by its name.

    Raises:
        ConfigurationError: If there is none of this name.

    Example:
        >>> find_recipe("fourier").steps
        128
    """
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, str):
        raise refused("recipe", recipe, "the name of a recipe, or a Recipe")
    if recipe not in RECIPES:
        raise refused(
            "recipe", recipe, f"the name of a recipe, or a Recipe; {nearest(recipe, RECIPES, most=len(RECIPES))}"
        )
    return RECIPES[recipe]
