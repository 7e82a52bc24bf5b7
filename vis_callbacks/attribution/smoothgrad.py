"""SmoothGrad: the gradient averaged over noisy copies of the image."""

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from vis_callbacks import checks
from vis_callbacks.attribution.callback import AttributionCallback, AttributionOptions
from vis_callbacks.data.samples import Samples
from vis_callbacks.event import Event, Moment
from vis_callbacks.model import Targets, add_by_row, fixed_targets, gradients_of, guarded, in_chunks, pixels_of


@guarded
def smoothgrad(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    samples: int = 25,
    noise_level: float = 0.15,
    seed: int = 0,
    *,
    chunk_size: int | None = None,
) -> Tensor:
    """Average the signed gradient of the target logit over copies of each image with Gaussian noise.

    Every image gets the same noise, scaled to its own range of values: an image's map does not depend on its batch.

    Smilkov, Thorat, Kim, Viégas and Wattenberg, "SmoothGrad: removing noise by adding noise", 2017, arXiv:1706.03825.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space.
        targets: Classes ``(N,)``, pairs ``(N, 2)`` for the first's logit minus the second's, one class for all, or
            None for those predicted without noise.
        samples: Noisy copies.
        noise_level: Standard deviation of the noise, as a part of the image's largest minus its smallest value; 0
            gives the gradient.
        seed: Seed of the noise.
        chunk_size: Images in one pass; None: chosen by their size. It has no effect on the result.

    Returns:
        ``(N, C, H, W)`` float32, signed, in logits per unit of the input.

    Raises:
        ConfigurationError: If the images or targets do not fit, there are no samples, or the noise level is negative.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
        >>> smoothgrad(model, torch.rand(2, 3, 2, 2), targets=4).shape
        torch.Size([2, 3, 2, 2])
    """
    samples, noise_level = checks.whole("samples", samples), checks.number("noise_level", noise_level, 0)
    chosen = fixed_targets(model, images, targets)
    clean = images.float()
    sigma = noise_level * (clean.amax((1, 2, 3), keepdim=True) - clean.amin((1, 2, 3), keepdim=True))
    # Drawn on the CPU, so that a run on another device shows the same.
    noise = torch.randn(samples, *images.shape[1:], generator=torch.Generator().manual_seed(seed)).to(clean.device)
    total = torch.zeros_like(clean)

    def gradients(items: Tensor) -> Tensor:
        rows = items // samples
        return gradients_of(model, clean[rows] + sigma[rows] * noise[items % samples], chosen[rows])

    for items, found in in_chunks(
        gradients, len(images) * samples, pixels=pixels_of(images), device=images.device, chunk_size=chunk_size
    ):
        add_by_row(total, items // samples, found)
    return total / samples


class SmoothGrad(AttributionCallback):
    """Shows the gradient averaged over noisy copies of the image. See `smoothgrad`.

    Read it for the gradient with less speckle; on photographs it does not tell one class from another.

    Args:
        noisy_samples: Noisy copies of each image.
        noise_level: Standard deviation of the noise, as a part of the image's range of values.
        options: See `AttributionCallback`.

    Raises:
        ConfigurationError: If there are no copies, or the noise level is negative.
    """

    function = staticmethod(smoothgrad)
    split = "samples"

    def __init__(
        self, *, noisy_samples: int = 25, noise_level: float = 0.15, **options: Unpack[AttributionOptions]
    ) -> None:
        super().__init__(**options)
        self.noisy_samples = checks.whole("noisy_samples", noisy_samples)
        self.noise_level = checks.number("noise_level", noise_level, 0)

    def passes(self, moment: Moment, samples: Samples) -> int:
        """One per noisy copy."""
        return self.noisy_samples * len(samples)

    def attribute(self, event: Event) -> Tensor:
        """Return ``(N, C, H, W)``, signed."""
        return smoothgrad(
            event.model, event.samples.images, event.trace.targets, self.noisy_samples, self.noise_level, event.seed
        )
