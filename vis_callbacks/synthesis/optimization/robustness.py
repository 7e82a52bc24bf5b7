"""Robustness of a synthetic image: the network's confidence when the image is blurred, gray or downsampled."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vis_callbacks.data.blur import gaussian_blur
from vis_callbacks.data.normalization import Normalization
from vis_callbacks.model import Meaning, guarded, in_chunks, likelihoods_of, pixels_of, resolve_targets, target_scores
from vis_callbacks.synthesis.optimization.generate import normalization_for
from vis_callbacks.synthesis.optimization.transforms import gray

_LOW_RESOLUTION = 96 / 224
_BLUR = 2 / 224


@dataclass(frozen=True)
class Robustness:
    """A network's scores of synthetic images.

    Attributes:
        logits: Logit of each image's class, ``(N,)``.
        probabilities: Its probability, ``(N,)`` in [0, 1].
        score: Its mean probability over the image as it is, blurred, gray and at low resolution, ``(N,)`` in [0, 1].
    """

    logits: Tensor
    probabilities: Tensor
    score: Tensor


@guarded
def robustness(
    model: nn.Module,
    pixels: Tensor,
    targets: Tensor | int,
    *,
    normalization: Normalization | None = None,
    meaning: Meaning = "classes",
) -> Robustness:
    """Measure a network's confidence in images when they are blurred, gray, or of low resolution.

    Confidence in the image itself proves little: ascent reaches 1 with noise as well. Confidence that survives
    degradation indicates that other networks recognise the image; below a score of about 0.65 they mostly do not.

    Args:
        model: From images to logits.
        pixels: ``(N, C, H, W)`` in [0, 1].
        targets: The class of each image, or one class for all.
        normalization: From pixels to the model's input. None: found from the model, else identity.
        meaning: What the outputs mean; several that the model puts through a sigmoid are ``"labels"`` anyway.

    Raises:
        ConfigurationError: If the model has no such class.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5))
        >>> robustness(model, torch.rand(2, 3, 8, 8), torch.tensor([0, 4])).score.shape
        torch.Size([2])
    """
    normalization = normalization_for(model, pixels.shape[1], normalization)
    views = [pixels, *_degraded(pixels)]
    # Convolutions are faster with channels last, whatever the layout of their weights.
    inputs = normalization.to_model(torch.cat(views)).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        parts = in_chunks(
            lambda items: likelihoods_of(model, inputs[items], meaning),
            len(inputs),
            pixels=pixels_of(pixels),
            device=pixels.device,
        )
        logits, likely = map(torch.cat, zip(*(part for _, part in parts), strict=True))
    wanted = resolve_targets(targets, logits[: len(pixels)])
    found = likely.gather(1, wanted.repeat(len(views))[:, None]).view(len(views), -1)
    return Robustness(target_scores(logits[: len(pixels)], wanted), found[0], found.mean(dim=0))


def _degraded(pixels: Tensor) -> list[Tensor]:
    side = min(pixels.shape[-2:])
    size = [max(round(length * _LOW_RESOLUTION), 1) for length in pixels.shape[-2:]]
    small = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True)
    degraded = [
        # On small images a proportional blur would have no effect.
        gaussian_blur(pixels, max(side * _BLUR, 0.5)),
        F.interpolate(small, size=pixels.shape[-2:], mode="bilinear", align_corners=False),
    ]
    if pixels.shape[1] == 3:
        degraded.append(gray(pixels))
    return degraded
