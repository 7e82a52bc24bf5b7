"""DeepDream: change an image to amplify what a layer detects in it."""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from vis_callbacks import checks
from vis_callbacks.callback import SharedOptions
from vis_callbacks.data.normalization import Normalization
from vis_callbacks.data.samples import Samples, resized
from vis_callbacks.event import Event, Moment
from vis_callbacks.model import find_layer, guarded, middle_layer, output_layout
from vis_callbacks.panel import Panel, Tile
from vis_callbacks.synthesis.callback import SynthesisCallback
from vis_callbacks.synthesis.optimization.generate import accepts_sizes, normalization_for
from vis_callbacks.synthesis.optimization.image_statistics import ImageStatistics
from vis_callbacks.synthesis.optimization.loop import Method, OptimizerFactory, ascend
from vis_callbacks.synthesis.optimization.objectives import activation_norm
from vis_callbacks.synthesis.optimization.parameterizations import ImageSpec, Pixels
from vis_callbacks.synthesis.optimization.regularizers import GradientScaling
from vis_callbacks.synthesis.optimization.transforms import Jitter, Resize, Transform


@guarded
def deep_dream(
    model: nn.Module,
    images: Tensor,
    layer: str | None = None,
    channel: int | None = None,
    *,
    octaves: int = 4,
    octave_scale: float = 1.4,
    steps: int = 10,
    normalization: Normalization | None = None,
    optimizer: OptimizerFactory | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Tensor:
    """Change images so that a layer, or one channel of it, is more active, from coarse to fine.

    Gradient ascent on half the mean square of the activations, with each gradient divided by its mean magnitude
    (Mordvintsev, Olah and Tyka, "Inceptionism", 2015). The change made in an octave is enlarged and added to the image
    of the next, so that no detail of the original is lost.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space.
        layer: Name of the layer. None: a layer at two thirds of the depth.
        channel: One channel of it. None: all.
        octaves: Number of sizes; the last is the size of the images.
        octave_scale: Ratio of each size to the next smaller one, above 1.
        steps: Steps per octave, each with one forward and one backward pass.
        normalization: Between pixels and the model's input. None: found from the model, else identity.
        optimizer: From parameters, which are pixels in [0, 1], to a torch optimizer. None: SGD of learning rate 0.01.
        seed: Seed of the random shifts.
        progress: Whether to show a progress bar on stderr once it takes longer than a few seconds.

    Returns:
        ``(N, C, H, W)`` float32 in [0, 1]; the images themselves for zero steps.

    Raises:
        LayerError: If there is no such layer.
        ConfigurationError: If the channel or a number is out of range.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> deep_dream(model, torch.rand(1, 3, 15, 20), "1", octaves=2, steps=2).shape
        torch.Size([1, 3, 15, 20])
    """
    octaves, octave_scale = checks.whole("octaves", octaves), checks.number("octave_scale", octave_scale, 1, above=True)
    name = middle_layer(model, images) if layer is None else find_layer(model, layer)[0]
    objective = activation_norm(output_layout(model, images, name), channel)
    normalization = normalization_for(model, images.shape[1], normalization)
    original = normalization.to_pixels(images.detach().float()).clamp(0, 1)
    generator = torch.Generator().manual_seed(seed)
    height, width = original.shape[-2:]
    change = torch.zeros_like(original)
    for octave in reversed(range(octaves)):
        factor = octave_scale**-octave
        size = (max(round(height * factor), 1), max(round(width * factor), 1))
        fits = octave == 0 or accepts_sizes(model, original.shape[1:], [size])
        base = resized(original, size)
        start = (base + resized(change, size)).clamp(0, 1)
        spec = ImageSpec(
            (len(start), start.shape[1], *size),
            Normalization(),
            ImageStatistics(start.shape[1]),
            generator,
            start.device,
            start,
        )
        transforms: tuple[Transform, ...] = (Jitter(0.1),) if fits else (Jitter(0.1), Resize((height, width)))
        method = Method(
            steps,
            optimizer or partial(torch.optim.SGD, lr=0.01),
            transforms=transforms,
            step_hooks=(GradientScaling(),),
        )
        made = ascend(
            model,
            Pixels(spec),
            objective,
            method,
            normalization=normalization,
            generator=generator,
            what=f"deep dream, octave {octaves - octave} of {octaves}",
            progress=progress,
        )
        change = made.pixels - base
    return (original + change).clamp(0, 1) if steps else original


class DeepDream(SynthesisCallback):
    """Shows samples changed to amplify what a layer, or one channel of it, detects in them, at most 512 pixels large.

    Read it for the patterns that a layer knows; it does not say what the layer used in this image.

    Args:
        layer: Name of the layer. None: a layer at two thirds of the depth.
        channel: One channel of it. None: all.
        octaves: Number of sizes; the last is the size of the images.
        octave_scale: Ratio of each size to the next smaller one, above 1.
        steps: Steps per octave, each with one forward and one backward pass.
        optimizer: From parameters to a torch optimizer. None: see `deep_dream`.
        progress: Whether to show a progress bar on stderr once it takes longer than a few seconds.
        options: Shared by all callbacks, see `VisualizationCallback`; `samples` is 2 unless given.

    Raises:
        ConfigurationError: If an argument has a wrong value.
    """

    split = "samples"
    learns_from_images = False

    def __init__(
        self,
        layer: str | None = None,
        channel: int | None = None,
        *,
        octaves: int = 3,
        octave_scale: float = 1.4,
        steps: int = 8,
        optimizer: OptimizerFactory | None = None,
        progress: bool = True,
        **options: Unpack[SharedOptions],
    ) -> None:
        # Each sample needs many passes.
        options.setdefault("samples", 2)
        super().__init__(steps=steps, optimizer=optimizer, progress=progress, **options)
        self.layer = checks.optional(checks.layer_name, "layer", layer)
        self.channel = checks.optional(checks.whole, "channel", channel, 0)
        self.octaves = checks.whole("octaves", octaves)
        self.octave_scale = checks.number("octave_scale", octave_scale, 1, above=True)

    def check(self, model: nn.Module) -> None:
        """Raise a `LayerError` if there is no such layer."""
        if self.layer is not None:
            find_layer(model, self.layer)

    def passes(self, moment: Moment, samples: Samples) -> int:
        """Return the number of passes, of which those of smaller octaves count in proportion to their pixels."""
        sizes = [self.octave_scale ** (-2 * octave) for octave in range(self.octaves)]
        return round(super().passes(moment, samples) * sum(sizes))

    def visualize(self, event: Event) -> Iterable[Panel]:
        """Show each sample and its dream."""
        samples = self.small_samples(event)
        layer = middle_layer(event.model, samples.images) if self.layer is None else self.layer
        dreams = deep_dream(
            event.model,
            samples.images,
            layer,
            self.channel,
            octaves=self.octaves,
            octave_scale=self.octave_scale,
            steps=self.steps,
            normalization=samples.normalization,
            optimizer=self.optimizer,
            seed=event.seed,
            progress=self.shows_progress,
        )
        what = layer if self.channel is None else f"channel {self.channel} of {layer}"
        for index in range(len(samples)):
            dream = Tile(samples.displayable(dreams[index]))
            yield event.sample_panel(index, dream, caption=f"more of what {what} sees{self.size_note(event)}")
