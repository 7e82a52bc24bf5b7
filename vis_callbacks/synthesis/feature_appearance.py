"""The image that a channel or a unit inside of the network loves most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from vis_callbacks.model.layers import find_layer
from vis_callbacks.model.normalization import Normalization
from vis_callbacks.model.undisturbed import leaves_no_trace
from vis_callbacks.synthesis.ascent import OptimizerFactory, SchedulerFactory
from vis_callbacks.synthesis.dead_units import RedirectedGradients
from vis_callbacks.synthesis.layer_axes import axes_of
from vis_callbacks.synthesis.objectives import channel, similarity
from vis_callbacks.synthesis.recipes import Recipe
from vis_callbacks.synthesis.sizes import device_of, image_shape
from vis_callbacks.synthesis.statistics import ImageStatistics
from vis_callbacks.synthesis.synthesis import synthesise


@leaves_no_trace
def feature_appearance(
    model: nn.Module,
    layer: str,
    channels: int | Sequence[int] | Tensor,
    *,
    image_size: int | Sequence[int],
    position: Literal["all", "center"] | tuple[int, int] = "all",
    diversity: float = 0.0,
    steps: int | None = None,
    recipe: str | Recipe = "feature",
    normalization: Normalization | None = None,
    init: Tensor | None = None,
    optimizer: OptimizerFactory | None = None,
    scheduler: SchedulerFactory | None = None,
    image_statistics: ImageStatistics | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Tensor:
    """Make an image for each channel of a layer that excites it as much as possible, all in one batch.

    Olah, Mordvintsev and Schubert, "Feature visualization", Distill 2017. Passes end at the layer. Channels whose ReLU
    is 0 everywhere still get a gradient.

    Args:
        model: From images ``(N, C, H, W)`` to logits.
        layer: Name of any layer, see `find_layer`.
        channels: One channel, or one for each image. Give a channel several times for several images of it.
        image_size: An int, ``(H, W)`` or ``(C, H, W)``.
        position: "all" for the mean over the image, "center" for the unit in the middle, or a unit's row and column.
        diversity: Weight of the pull that keeps several images of one channel apart, relative to a cosine.
        steps: Steps of the optimizer; each is one forward and one backward. None: the recipe's.
        recipe: "feature", any of those of `class_appearance`, or your own `Recipe`.
        normalization: From pixels to the model's input. None: found from the model, else identity.
        init: Images in [0, 1], ``(C, H, W)`` or one for each channel, to go on from. None: the recipe's own start.
        optimizer: From parameters to a torch optimizer. None: the recipe's.
        scheduler: From the optimizer and the number of steps to a learning rate schedule. None: the recipe's.
        image_statistics: Statistics of real images. None: those of photographs.
        seed: Seed of everything random.
        progress: Whether to show progress on stderr when it takes longer than a few seconds.

    Returns:
        ``(len(channels), C, H, W)`` float32 in [0, 1].

    Raises:
        LayerError: If there is no such layer, or it does not run.
        ConfigurationError: If a channel, the position, a size, the recipe or `init` does not fit.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
        >>> feature_appearance(model, "1", [0, 3], image_size=8, steps=4).shape
        torch.Size([2, 3, 8, 8])
    """
    name, _ = find_layer(model, layer)
    wanted = torch.as_tensor([channels] if isinstance(channels, int) else channels, dtype=torch.long).flatten()
    axes = axes_of(model, torch.zeros(1, *image_shape(model, image_size), device=device_of(model)), name)
    objective = channel(name, axes, wanted, position)
    if diversity:
        objective = objective - diversity * similarity(name, axes, wanted)
    with RedirectedGradients():
        made = synthesise(
            model,
            objective,
            len(wanted),
            image_size=image_size,
            recipe=recipe,
            steps=steps,
            normalization=normalization,
            init=init,
            optimizer=optimizer,
            scheduler=scheduler,
            image_statistics=image_statistics,
            seed=seed,
            what=f"appearance of {name}",
            progress=progress,
        )
    return made.pixels
