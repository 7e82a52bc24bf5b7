"""Feature inversion: reconstruct an image from a layer's features."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from vis_callbacks import checks
from vis_callbacks.callback import SharedOptions
from vis_callbacks.data.normalization import Normalization
from vis_callbacks.data.samples import Samples
from vis_callbacks.event import Event, Moment
from vis_callbacks.model import find_layer, guarded, layers_across_depth, output_layout
from vis_callbacks.panel import Panel, Tile
from vis_callbacks.synthesis.callback import SynthesisCallback, psnr
from vis_callbacks.synthesis.optimization.generate import normalization_for
from vis_callbacks.synthesis.optimization.image_statistics import ImageStatistics
from vis_callbacks.synthesis.optimization.loop import Method, OptimizerFactory, ascend
from vis_callbacks.synthesis.optimization.objectives import Objective, feature_distance
from vis_callbacks.synthesis.optimization.parameterizations import Fourier, ImageSpec, Parameterization, Pixels
from vis_callbacks.synthesis.optimization.readout import read_layers
from vis_callbacks.synthesis.optimization.recipes import warm_hold_cosine
from vis_callbacks.synthesis.optimization.regularizers import alpha_norm, total_variation

_SPECTRUM_SHARE = 0.6
"""Fraction of the steps taken in the Fourier spectrum."""

_LAYERS = 4
"""Number of layers shown by default."""


@guarded
def feature_inversion(
    model: nn.Module,
    images: Tensor,
    layers: str | Sequence[str] | None = None,
    *,
    steps: int = 200,
    alpha: float = 6.0,
    alpha_weight: float = 1e-5,
    variation_weight: float = 0.02,
    normalization: Normalization | None = None,
    optimizer: OptimizerFactory | None = None,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Tensor]:
    """Reconstruct images from the features of a layer, for each of several layers.

    Minimises ‖Φ − Φ0‖² / ‖Φ0‖² plus an alpha-norm and total variation (Mahendran and Vedaldi, "Understanding deep image
    representations by inverting them", arXiv 1412.0035), first in a Fourier spectrum, then in pixels. Forward passes
    stop at the layer.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space.
        layers: Names of layers, see `find_layer`. None: some over the depth.
        steps: Steps of the optimizer per layer, each with one forward and one backward pass.
        alpha: Power of the alpha-norm.
        alpha_weight: Weight of the mean of |I|^alpha in model space.
        variation_weight: Weight of the mean difference of neighbouring pixels.
        normalization: Between pixels and the model's input. None: found from the model, else identity.
        optimizer: From parameters to a torch optimizer. None: Adam of learning rate 0.05.
        seed: Seed of the initial noise.
        progress: Whether to show a progress bar on stderr once it takes longer than a few seconds.

    Returns:
        Images ``(N, C, H, W)`` float32 in [0, 1], by the layer's name as given.

    Raises:
        LayerError: If there is no such layer, or it does not run.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
        >>> found = feature_inversion(model, torch.rand(1, 3, 8, 8), ["0", "1"], steps=4)
        >>> list(found), found["0"].shape
        (['0', '1'], torch.Size([1, 3, 8, 8]))
    """
    if layers is None:
        layers = layers_across_depth(model, images, _LAYERS)
    chosen = [layers] if isinstance(layers, str) else layers
    layouts = {layer: output_layout(model, images, find_layer(model, layer)[0]) for layer in chosen}
    normalization = normalization_for(model, images.shape[1], normalization)
    reading = Objective(lambda view: view.pixels, outputs=frozenset(layouts.values()))
    with read_layers(model, reading) as run, torch.no_grad():
        features = run(images).outputs
    penalty = alpha_weight * alpha_norm(alpha) + variation_weight * total_variation()
    count, channels, height, width = images.shape
    found: dict[str, Tensor] = {}
    for layer, layout in layouts.items():
        generator = torch.Generator().manual_seed(seed)
        distance = feature_distance(layout, features[layout.layer])
        spec = ImageSpec(
            (count, channels, height, width), normalization, ImageStatistics(channels), generator, images.device
        )
        # The spectrum favours smooth images, as deep layers leave much undetermined; pixels then refine the details.
        phases: tuple[tuple[Callable[[ImageSpec], Parameterization], int], ...] = (
            (Fourier, round(steps * _SPECTRUM_SHARE)),
            (Pixels, steps - round(steps * _SPECTRUM_SHARE)),
        )
        for kind, part in phases:
            made = ascend(
                model,
                kind(spec),
                -(distance + penalty),
                Method(part, optimizer or partial(torch.optim.Adam, lr=0.05), warm_hold_cosine),
                normalization=normalization,
                generator=generator,
                what=f"inversion of {layout.layer}",
                progress=progress,
            )
            spec = replace(spec, init=made.pixels)
        found[layer] = made.pixels
    return found


class FeatureInversion(SynthesisCallback):
    """Shows samples reconstructed from the features of several layers, side by side, at most 512 pixels large.

    Read it for what is lost with depth; what is not seen may still be there, in a form that the inversion misses.

    Args:
        layers: Names of layers. None: four from shallow to deep.
        steps: Steps of the optimizer per layer, each with one forward and one backward pass.
        optimizer: From parameters to a torch optimizer. None: see `feature_inversion`.
        progress: Whether to show a progress bar on stderr once it takes longer than a few seconds.
        options: Shared by all callbacks, see `VisualizationCallback`; `samples` is 2 unless given.
    """

    split = "samples"
    learns_from_images = False

    def __init__(
        self,
        layers: str | Sequence[str] | None = None,
        *,
        steps: int = 64,
        optimizer: OptimizerFactory | None = None,
        progress: bool = True,
        **options: Unpack[SharedOptions],
    ) -> None:
        # Each sample needs many passes.
        options.setdefault("samples", 2)
        super().__init__(steps=steps, optimizer=optimizer, progress=progress, **options)
        self.layers = checks.optional(checks.layer_names, "layers", layers)

    def check(self, model: nn.Module) -> None:
        """Raise a `LayerError` if there is no such layer."""
        for layer in self.layers or ():
            find_layer(model, layer)

    def passes(self, moment: Moment, samples: Samples) -> int:
        """Return the number of passes: half of one per step, image and layer, as passes stop at the layer."""
        layers = _LAYERS if self.layers is None else len(self.layers)
        return super().passes(moment, samples) * layers // 2

    def visualize(self, event: Event) -> Iterable[Panel]:
        """Show each sample, and its reconstruction from each layer."""
        samples = self.small_samples(event)
        layers = self.layers or layers_across_depth(event.model, samples.images, _LAYERS)
        found = feature_inversion(
            event.model,
            samples.images,
            layers,
            steps=self.steps,
            normalization=samples.normalization,
            optimizer=self.optimizer,
            seed=event.seed,
            progress=self.shows_progress,
        )
        wanted = samples.normalization.to_pixels(samples.images.float()).clamp(0, 1)
        for index in range(len(samples)):
            quality = {layer: psnr(images[index], wanted[index]) for layer, images in found.items()}
            tiles = [
                Tile(samples.displayable(images[index]), caption=f"{layer}: {quality[layer]:.1f} dB")
                for layer, images in found.items()
            ]
            panel = event.sample_panel(
                index, *tiles, caption=f"what is left of the image at each layer{self.size_note(event)}"
            )
            yield replace(panel, scalars={f"{layer}/psnr": value for layer, value in quality.items()})
