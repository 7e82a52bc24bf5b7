"""The smallest change that makes a network see another class."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vis_callbacks.errors import ConfigurationError
from vis_callbacks.model.classifier import logits_of, probabilities, resolve_targets
from vis_callbacks.model.normalization import Normalization
from vis_callbacks.model.undisturbed import leaves_no_trace
from vis_callbacks.synthesis.ascent import Goal, Method, OptimizerFactory, SchedulerFactory, ascend
from vis_callbacks.synthesis.images import Canvas, NearPixels
from vis_callbacks.synthesis.objectives import logit
from vis_callbacks.synthesis.recipes import stepwise
from vis_callbacks.synthesis.sizes import normalization_for
from vis_callbacks.synthesis.statistics import ImageStatistics


class Fooled(NamedTuple):
    """Images that were changed until the network saw another class.

    Attributes:
        images: ``(N, C, H, W)`` float32 in model space; their pixels are in [0, 1] and within the bounds.
        probabilities: The target's probability after the image was rounded to 8 bit, ``(N,)`` in [0, 1].
        steps: Steps taken, ``(N,)`` long.
        distance: L2 norm of the change, ``(N,)`` in pixel units.
        largest: Largest change of a pixel, ``(N,)`` in pixel units.
    """

    images: Tensor
    probabilities: Tensor
    steps: Tensor
    distance: Tensor
    largest: Tensor


@leaves_no_trace
def fool(
    model: nn.Module,
    images: Tensor,
    targets: int | Sequence[int] | Tensor,
    *,
    min_probability: float = 0.9,
    steps: int = 500,
    linf: float | None = None,
    l2: float | None = None,
    normalization: Normalization | None = None,
    optimizer: OptimizerFactory | None = None,
    scheduler: SchedulerFactory | None = None,
    progress: bool = True,
) -> Fooled:
    """Change images a little until the model gives another class a high probability.

    Gradient ascent on the target's logit from the image itself (Szegedy et al., "Intriguing properties of neural
    networks", arXiv 1312.6199), with timm-vis's learning rate of 0.5 that is multiplied by 0.8 every 100 steps. It
    counts as done only if the probability holds after the image was rounded to 8 bit, as a file would be.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space.
        targets: One class for all, or one for each image.
        min_probability: The probability to be exceeded, in [0, 1].
        steps: Most steps that are taken; each is one forward and one backward.
        linf: Largest change of any pixel, in pixel units (8/255 is common). None: no bound.
        l2: Largest L2 norm of the change, in pixel units. None: no bound.
        normalization: Between pixels and the model's input. None: found from the model, else identity.
        optimizer: From parameters, which are in model space, to a torch optimizer. None: SGD.
        scheduler: From the optimizer and the number of steps to a learning rate schedule. None: as said above.
        progress: Whether to show progress on stderr when it takes longer than a few seconds.

    Returns:
        `Fooled`. Where the steps were not enough, the probability is below the one asked for.

    Raises:
        ConfigurationError: If a target or a bound does not fit.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
        >>> fooled = fool(model, torch.rand(1, 3, 2, 2), 4, steps=10, linf=0.1)
        >>> bool(fooled.largest <= 0.1 + 1e-6)
        True
    """
    for label, bound in (("linf", linf), ("l2", l2)):
        if bound is not None and bound <= 0:
            raise ConfigurationError(f"{label}={bound}: expected a bound above 0, in pixel units, or None")
    normalization = normalization_for(model, images.shape[1], normalization)
    start = normalization.to_pixels(images.detach().float()).clamp(0, 1)
    with torch.no_grad():
        goals = resolve_targets(_as_targets(targets), logits_of(model, images))

    def after_saving(pixels: Tensor) -> Tensor:
        with torch.no_grad():
            found = probabilities(logits_of(model, normalization.to_model((pixels * 255).round() / 255)))
        return found.gather(1, goals[:, None])[:, 0]

    generator = torch.Generator().manual_seed(0)
    count, channels, height, width = start.shape
    canvas = Canvas(
        (count, channels, height, width), normalization, ImageStatistics(channels), generator, start.device, start
    )
    made = ascend(
        model,
        NearPixels(canvas, start, linf=linf, l2=l2),
        logit(goals),
        Method(steps, optimizer or partial(torch.optim.SGD, lr=0.5), scheduler or partial(stepwise, gamma=0.8)),
        normalization=normalization,
        generator=generator,
        goal=Goal(goals, min_probability, lambda pixels: after_saving(pixels) > min_probability),
        what="fooling",
        progress=progress,
    )
    change = (made.pixels - start).flatten(1)
    return Fooled(
        normalization.to_model(made.pixels),
        after_saving(made.pixels),
        made.steps,
        change.norm(dim=1),
        change.abs().amax(dim=1),
    )


def _as_targets(targets: int | Sequence[int] | Tensor) -> Tensor | int:
    return targets if isinstance(targets, int) else torch.as_tensor(targets, dtype=torch.long)
