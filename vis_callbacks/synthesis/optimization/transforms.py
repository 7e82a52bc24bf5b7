"""Random transforms of the image before each forward pass, so that the result is robust to them."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from vis_callbacks.data.blur import gaussian_blur

SMALLEST = 0.43
"""The smallest size of images with a random resolution, as a fraction of the full one."""


@dataclass(frozen=True)
class Step:
    """The step of the ascent that a transform is applied in.

    Attributes:
        generator: Source of all random numbers, on the CPU.
        fraction_done: Fraction of all steps already done, in [0, 1).
        any_size: Whether the model accepts other image sizes.
    """

    generator: torch.Generator
    fraction_done: float = 0.0
    any_size: bool = True

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Return uniform random numbers in [low, high)."""
        return torch.rand(shape, generator=self.generator) * (high - low) + low


class Transform(Protocol):
    """From pixels ``(N, C, H, W)`` in [0, 1] to pixels."""

    def __call__(self, pixels: Tensor, step: Step) -> Tensor:
        """Return the changed pixels."""


@dataclass(frozen=True)
class Jitter:
    """Shift by whole pixels, with wrap-around.

    Attributes:
        reach: Largest shift, as a fraction of the image's size.
    """

    reach: float = 0.03

    def __call__(self, pixels: Tensor, step: Step) -> Tensor:
        """Return the shifted pixels."""
        shifts = [round(float(step.uniform(-1, 1)) * self.reach * size) for size in pixels.shape[-2:]]
        return pixels.roll(shifts, dims=(-2, -1))


@dataclass(frozen=True)
class Affine:
    """Zoom, rotate, shift and flip each image separately, in one resampling; the border is reflected.

    Attributes:
        zoom: Smallest and largest magnification.
        degrees: Largest rotation.
        shift: Largest shift, as a fraction of the image's size.
        flip: Whether to mirror half of the images; never grayscale ones, which are often characters.
    """

    zoom: tuple[float, float] = (1.0, 1.0)
    degrees: float = 0.0
    shift: float = 0.0
    flip: bool = False

    def __call__(self, pixels: Tensor, step: Step) -> Tensor:
        """Return the transformed pixels."""
        count, _, height, width = pixels.shape
        low, high = self.zoom
        scale = 1 / step.uniform(low, high, count)
        angle = step.uniform(-self.degrees, self.degrees, count).deg2rad()
        flips = self.flip and pixels.shape[1] > 1
        mirror = torch.where(step.uniform(0, 1, count) < 0.5, -1.0, 1.0) if flips else 1.0
        cos, sin = scale * angle.cos(), scale * angle.sin()
        # Coordinates are relative to each side: rotating a non-square image has to undo that.
        aspect = height / width
        moved = step.uniform(-2 * self.shift, 2 * self.shift, 2, count)
        rows = [
            torch.stack([cos * mirror, -sin * aspect, moved[0]], 1),
            torch.stack([sin * mirror / aspect, cos, moved[1]], 1),
        ]
        theta = torch.stack(rows, dim=1).to(pixels)
        grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
        return F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)


@dataclass(frozen=True)
class Colour:
    """Change contrast and brightness of each channel of each image.

    Attributes:
        gain: Largest relative change of contrast.
        offset: Largest change of brightness, in pixel units.
    """

    gain: float = 0.2
    offset: float = 0.2

    def __call__(self, pixels: Tensor, step: Step) -> Tensor:
        """Return the recoloured pixels, which may leave [0, 1] slightly."""
        shape = (*pixels.shape[:2], 1, 1)
        gain = step.uniform(1 - self.gain, 1 + self.gain, *shape).to(pixels)
        return (pixels - 0.5) * gain + (0.5 + step.uniform(-self.offset, self.offset, *shape).to(pixels))


@dataclass(frozen=True)
class Grayscale:
    """Turn some of the images gray, if they have three channels.

    Attributes:
        share: Fraction of the images, on average.
    """

    share: float = 0.2

    def __call__(self, pixels: Tensor, step: Step) -> Tensor:
        """Return the pixels, some of them gray."""
        chosen = step.uniform(0, 1, len(pixels), 1, 1, 1) < self.share
        return torch.where(chosen.to(pixels.device), gray(pixels), pixels) if pixels.shape[1] == 3 else pixels


def gray(pixels: Tensor) -> Tensor:
    """Return RGB images ``(N, 3, H, W)`` as gray ones, by the luminance of ITU-R BT.601."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=pixels.device).view(3, 1, 1)
    return (pixels * weights).sum(dim=1, keepdim=True).expand_as(pixels)


@dataclass(frozen=True)
class GaussianBlur:
    """Blur all images in some of the steps, by a random amount.

    Attributes:
        share: Fraction of the steps, on average.
        sigma: Largest standard deviation, as a fraction of the smaller side.
    """

    share: float = 0.25
    sigma: float = 2 / 224

    def __call__(self, pixels: Tensor, step: Step) -> Tensor:
        """Return the pixels, blurred or not."""
        chosen = float(step.uniform(0, 1)) < self.share
        sigma = float(step.uniform(0.15, 1)) * self.sigma * min(pixels.shape[-2:])
        return gaussian_blur(pixels, sigma) if chosen else pixels


@dataclass(frozen=True)
class Noise:
    """Add normal noise.

    Attributes:
        std: Its standard deviation, in pixel units.
    """

    std: float = 0.05

    def __call__(self, pixels: Tensor, step: Step) -> Tensor:
        """Return the noisy pixels."""
        return pixels + self.std * torch.randn(pixels.shape, generator=step.generator).to(pixels)


@dataclass(frozen=True)
class Resize:
    """Resize the images.

    Attributes:
        size: ``(H, W)``.
    """

    size: tuple[int, int]

    def __call__(self, pixels: Tensor, step: Step) -> Tensor:
        """Return the resized pixels."""
        return F.interpolate(pixels, size=self.size, mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class Resolution:
    """Downsample all images to a random resolution, until near the end.

    For a model that accepts one size only they are enlarged again.

    Attributes:
        smallest: Smallest size, as a fraction of the full one.
        until: Fraction of the steps after which images keep their full size.
        least: Smallest side, in pixels.
    """

    smallest: float = SMALLEST
    until: float = 0.85
    least: int = 32

    def __call__(self, pixels: Tensor, step: Step) -> Tensor:
        """Return the smaller pixels ``(N, C, h, w)``."""
        factor = float(step.uniform(self.smallest, 1))
        full = pixels.shape[-2:]
        size = [min(side, max(round(side * factor), self.least)) for side in full]
        if step.fraction_done >= self.until or list(full) == size:
            return pixels
        smaller = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True)
        return smaller if step.any_size else F.interpolate(smaller, size=full, mode="bilinear", align_corners=False)
