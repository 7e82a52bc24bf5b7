"""Recipes: parameterization, optimizer, transforms and regularizers that work well together."""

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
    ImageSpec,
    Maco,
    Parameterization,
    Pixels,
)
from vis_callbacks.synthesis.optimization.regularizers import Blur, GradientClipping, StepHook, l1, l2, total_variation
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
    """How to make an image that maximises an objective; the parts are in the modules beside this one.

    Attributes:
        parameterization: From an `ImageSpec` to the parameterized images.
        optimizer: Creates the optimizer of their parameters.
        steps: Default number of steps.
        scheduler: Creates the learning rate schedule, see `SchedulerFactory`. None: a constant rate.
        transforms: Applied to the pixels in order, before the model.
        penalty: Subtracted from the objective.
        prior: Weight of the `feature_prior`; 0: none.
        step_hooks: Run before and after each step of the optimizer.
        retry_share: Fraction of the steps reserved for new attempts at images of low robustness.
        branch_gradient: Factor of the gradients of residual branches, see `weaken_branches`; 1: as they are.
        parameter_decay: How far the parameters decay over all steps, see `Method`; 0: not at all.

    Example:
        >>> from torch import nn
        >>> from vis_callbacks.functional import class_appearance
        >>> smooth = Recipe(Fourier, partial(Adam, lr=0.05), penalty=10 * total_variation())
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5))
        >>> class_appearance(model, [0, 4], image_size=8, steps=4, recipe=smooth).shape
        torch.Size([2, 3, 8, 8])
    """

    parameterization: Callable[[ImageSpec], Parameterization]
    optimizer: OptimizerFactory
    steps: int = 128
    scheduler: SchedulerFactory | None = None
    transforms: tuple[Transform, ...] = ()
    penalty: Objective | None = None
    prior: float = 0.0
    step_hooks: tuple[StepHook, ...] = ()
    retry_share: float = 0.0
    branch_gradient: float = 1.0
    parameter_decay: float = 0.0


def warm_hold_cosine(optimizer: Optimizer, steps: int, *, warm: int = 10, hold: float = 0.6) -> LRScheduler:
    """Schedule with linear warm-up, a constant part, and cosine decay to 0.

    Args:
        optimizer: The optimizer to schedule.
        steps: Number of all steps.
        warm: Steps of warm-up, at most a quarter of all.
        hold: Fraction of the steps after which the decay begins.
    """
    warm = min(warm, steps // 4)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        late = max(step / max(steps, 1) - hold, 0) / max(1 - hold, 1e-6)
        return 0.5 * (1 + math.cos(math.pi * min(late, 1)))

    return LambdaLR(optimizer, factor)


def stepwise(optimizer: Optimizer, steps: int, *, every: int = 100, gamma: float = 0.9) -> LRScheduler:
    """Multiply the learning rate by gamma every few steps."""
    del steps
    return StepLR(optimizer, every, gamma)


_AFFINE = Affine(zoom=(0.85, 1.4), degrees=15, shift=0.08, flip=True)
_COLOUR, _RESOLUTION = Colour(0.2, 0.2), Resolution()

BEST = Recipe(
    parameterization=partial(BandEnergy, gain=1.0, noise=0.3),
    optimizer=partial(Adam, lr=0.15),
    steps=256,
    scheduler=warm_hold_cosine,
    transforms=(_AFFINE, Grayscale(), GaussianBlur(), _COLOUR, _RESOLUTION),
    prior=0.3,
    branch_gradient=0.5,
    parameter_decay=2.0,
)
"""Band-energy spectrum with feature prior, and random geometry, resolution, colour, grayscale and blur."""

_PLAIN = replace(BEST, transforms=(_AFFINE, _COLOUR, _RESOLUTION))

RECIPES: Mapping[str, Recipe] = {
    "best": BEST,
    # The same, with a fifth of the steps reserved for new attempts at images of low robustness.
    "persistent": replace(BEST, steps=320, retry_share=0.2),
    # For a few dozen steps, which have to be larger.
    "draft": replace(_PLAIN, steps=48, optimizer=partial(Adam, lr=0.4), scheduler=partial(warm_hold_cosine, warm=2)),
    # Without the prior, whose weight suits logits and not activations.
    "feature": replace(_PLAIN, steps=128, prior=0.0),
    # Simonyan et al., arXiv 1312.6034; torchbearer's ClassAppearanceModel.
    "simonyan": Recipe(Pixels, partial(Adam, lr=0.05), scheduler=warm_hold_cosine, penalty=1e-3 * l2()),
    # timm-vis's generate_image, with the numbers of its notebook.
    "timm-vis": Recipe(
        partial(ClippedPixels, noise=1.0), partial(SGD, lr=10, weight_decay=5e-2), steps=500, scheduler=stepwise
    ),
    # Ascent in pixels with one penalty, as in Pytorch_cnn_visualization_implementations.
    "l1": Recipe(partial(Pixels, noise=0.1), partial(Adam, lr=0.05), scheduler=warm_hold_cosine, penalty=1e-3 * l1()),
    "l2": Recipe(partial(Pixels, noise=0.1), partial(Adam, lr=0.05), scheduler=warm_hold_cosine, penalty=1e-3 * l2()),
    # Blur, weight decay and gradient clipping, as in pytorch-cnn-visualizations, with total variation.
    "regularised": Recipe(
        partial(Pixels, noise=0.1),
        partial(SGD, lr=6, weight_decay=1e-4),
        steps=150,
        penalty=10 * total_variation(),
        step_hooks=(GradientClipping(0.1), Blur(every=4, sigma=1)),
    ),
    # Olah et al., Distill 2017.
    "fourier": Recipe(Fourier, partial(Adam, lr=0.05), transforms=(Affine((0.9, 1.1), 10, 0.04),)),
    # Fel et al., arXiv 2306.06805.
    "maco": Recipe(Maco, partial(NAdam, lr=1.0), transforms=(Affine((1.0, 2.0), 0, 0.1), Noise(0.05))),
}


def find_recipe(recipe: str | Recipe) -> Recipe:
    """Return the recipe of a name; a `Recipe` is returned as it is.

    Raises:
        ConfigurationError: If there is no recipe of this name.

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
