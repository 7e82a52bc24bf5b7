"""Feature appearance: images that maximise a channel or a unit of a hidden layer."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from vis_callbacks import checks
from vis_callbacks.callback import SharedOptions
from vis_callbacks.data.normalization import Normalization
from vis_callbacks.data.samples import Samples
from vis_callbacks.event import Event, Moment
from vis_callbacks.model import Layout, device_of, find_layer, guarded, middle_layer, output_layout
from vis_callbacks.panel import Panel, Tile
from vis_callbacks.synthesis.callback import SynthesisCallback
from vis_callbacks.synthesis.optimization.generate import generate, image_shape
from vis_callbacks.synthesis.optimization.image_statistics import ImageStatistics
from vis_callbacks.synthesis.optimization.loop import OptimizerFactory, SchedulerFactory
from vis_callbacks.synthesis.optimization.objectives import Objective, channel, similarity
from vis_callbacks.synthesis.optimization.readout import read_layers
from vis_callbacks.synthesis.optimization.recipes import Recipe, find_recipe
from vis_callbacks.synthesis.optimization.redirected_relu import RedirectedGradients

_CHANNELS = 6
"""Number of channels shown by default."""


@guarded
def feature_appearance(
    model: nn.Module,
    layer: str,
    channels: int | Sequence[int] | Tensor,
    *,
    image_size: int | Sequence[int] | None = None,
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
    """Make one image per channel of a layer that maximises its activation, all in one batch.

    Olah, Mordvintsev and Schubert, "Feature visualization", Distill 2017. Forward passes stop at the layer. Channels
    whose ReLU is 0 everywhere still get a gradient.

    Args:
        model: From images ``(N, C, H, W)`` to logits.
        layer: Name of any layer, see `find_layer`.
        channels: One channel, or one per image. Repeat a channel for several images of it.
        image_size: An int, ``(H, W)`` or ``(C, H, W)``. None: what the model states, as timm's do.
        position: "all" for the mean over the map, "center" for its middle unit, or a unit's row and column.
        diversity: Weight of a penalty on the cosine similarity of several images of one channel.
        steps: Steps of the optimizer, each with one forward and one backward pass. None: the recipe's.
        recipe: "feature", any recipe of `class_appearance`, or your own `Recipe`.
        normalization: From pixels to the model's input. None: found from the model, else identity.
        init: Images in [0, 1] to start from, ``(C, H, W)`` or one per channel. None: the recipe's own start.
        optimizer: From parameters to a torch optimizer. None: the recipe's.
        scheduler: From the optimizer and the number of steps to a learning rate schedule. None: the recipe's.
        image_statistics: Statistics of real images. None: those of photographs.
        seed: Seed of all random numbers.
        progress: Whether to show a progress bar on stderr once it takes longer than a few seconds.

    Returns:
        ``(len(channels), C, H, W)`` float32 in [0, 1].

    Raises:
        LayerError: If there is no such layer, or it does not run.
        ConfigurationError: If a channel, the position, a size, the recipe or `init` is wrong.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
        >>> feature_appearance(model, "1", [0, 3], image_size=8, steps=4).shape
        torch.Size([2, 3, 8, 8])
    """
    name, _ = find_layer(model, layer)
    wanted = torch.as_tensor([channels] if isinstance(channels, int) else channels, dtype=torch.long).flatten()
    layout = output_layout(model, torch.zeros(1, *image_shape(model, image_size), device=device_of(model)), name)
    objective = channel(layout, wanted, position)
    if diversity:
        objective = objective - diversity * similarity(layout, wanted)
    with RedirectedGradients():
        made = generate(
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


class FeatureAppearance(SynthesisCallback):
    """Shows images that maximise channels of a layer, beside the real images that activate them most.

    Read it together with the real images beside it; one channel may respond to several things.

    People learn more from real images than from synthetic ones (Borowski et al., arXiv 2010.12606): look at both.

    Args:
        layer: Name of the layer. None: a layer at two thirds of the depth.
        channels: Channels to show. None: six, evenly spread.
        images: Number of synthetic images per channel, made different by `diversity`.
        real: Number of real images beside them.
        position: "all" for the mean over the map, "center" for its middle unit, or a unit's row and column.
        diversity: Weight of a penalty on the cosine similarity of several images of one channel.
        recipe: See `feature_appearance`.
        steps: Steps of the optimizer, each with one forward and one backward pass.
        image_size: An int, ``(H, W)`` or ``(C, H, W)``. None: the size of the samples, but at most 512 on the longer
            side if the model takes smaller images.
        optimizer: From parameters to a torch optimizer. None: the recipe's.
        progress: Whether to show a progress bar on stderr once it takes longer than a few seconds.
        options: Shared by all callbacks, see `VisualizationCallback`.

    Raises:
        ConfigurationError: If an argument has a wrong value.
    """

    split = "items"

    def __init__(
        self,
        layer: str | None = None,
        channels: Sequence[int] | None = None,
        *,
        images: int = 1,
        real: int = 3,
        position: Literal["all", "center"] | tuple[int, int] = "all",
        diversity: float = 1.0,
        recipe: str | Recipe = "feature",
        steps: int = 32,
        image_size: int | Sequence[int] | None = None,
        optimizer: OptimizerFactory | None = None,
        progress: bool = True,
        **options: Unpack[SharedOptions],
    ) -> None:
        super().__init__(steps=steps, image_size=image_size, optimizer=optimizer, progress=progress, **options)
        find_recipe(recipe)
        self.layer = checks.optional(checks.layer_name, "layer", layer)
        self.channels = checks.optional(checks.channel_numbers, "channels", channels)
        self.images = checks.whole("images", images)
        self.real = checks.whole("real", real, 0)
        self.position = _check_position(position)
        self.diversity = checks.number("diversity", diversity, 0)
        self.recipe = recipe

    def check(self, model: nn.Module) -> None:
        """Raise a `LayerError` if there is no such layer."""
        if self.layer is not None:
            find_layer(model, self.layer)

    def passes(self, moment: Moment, samples: Samples) -> int:
        """Return the number of passes: one per step, channel and image."""
        channels = _CHANNELS if self.channels is None else len(self.channels)
        return self.at_size(self.steps * self.images * channels, samples)

    def visualize(self, event: Event) -> Iterable[Panel]:
        """Show each channel's synthetic images, and the real images that activate it most."""
        model, samples, normalization = event.model, event.samples, event.samples.normalization
        real, _ = self.real_images(event)
        layer = middle_layer(model, real) if self.layer is None else find_layer(model, self.layer)[0]
        layout = output_layout(model, real, layer)
        real_activations = _mean_activations(model, real, layout)
        count = real_activations.shape[1]
        channels = event.share.of(self.channels or sorted({count * part // _CHANNELS for part in range(_CHANNELS)}))
        if not channels:
            return
        made = feature_appearance(
            model,
            layer,
            [index for index in channels for _ in range(self.images)],
            image_size=self.size(event),
            position=self.position,
            diversity=self.diversity if self.images > 1 else 0.0,
            steps=self.steps,
            recipe=self.recipe,
            normalization=normalization,
            optimizer=self.optimizer,
            image_statistics=self.image_statistics(event),
            seed=event.seed,
            progress=self.shows_progress,
        )
        activations = _mean_activations(model, normalization.to_model(made), layout)
        pixels = normalization.to_pixels(real.float()).clamp(0, 1)
        for at, index in enumerate(channels):
            own = slice(at * self.images, (at + 1) * self.images)
            values = activations[own, index]
            tiles = [
                Tile(samples.displayable(image), caption=f"made: {value:.2f}")
                for image, value in zip(made[own], values.tolist(), strict=True)
            ]
            best = real_activations[:, index].topk(min(self.real, len(real)))
            tiles += [
                Tile(samples.displayable(pixels[place]), caption=f"real: {value:.2f}")
                for place, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ]
            yield Panel(
                f"{layer}/{index}",
                tiles,
                caption=f"channel {index} of {layer}, mean activation{self.size_note(event)}",
                scalars={"activation": float(values.max())},
            )


def _check_position(
    position: Literal["all", "center"] | tuple[int, int],
) -> Literal["all", "center"] | tuple[int, int]:
    if isinstance(position, str) and position in ("all", "center"):
        return position
    expected = "'all', 'center' or a unit's row and column"
    found = checks.several("position", position, partial(checks.whole, least=0), expected)
    if len(found) != 2:
        raise checks.refused("position", position, expected)
    return found[0], found[1]


def _mean_activations(model: nn.Module, images: Tensor, layout: Layout) -> Tensor:
    """Return the mean activation of every channel for each image, ``(N, channels)``."""
    reading = Objective(lambda view: view.pixels, outputs=frozenset([layout]))
    with read_layers(model, reading) as run, torch.no_grad():
        maps = layout.channels_first(run(images).outputs[layout.layer]).float()
    return maps.reshape(*maps.shape[:2], -1).mean(dim=2)
