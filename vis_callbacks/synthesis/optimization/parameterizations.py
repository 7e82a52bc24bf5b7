"""Ways to write images down as free numbers, so that ascent on the numbers gives good images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vis_callbacks.data.normalization import Normalization
from vis_callbacks.synthesis.optimization.image_statistics import (
    BANDS,
    ImageStatistics,
    band_index,
    frequencies,
    hermitian_weight,
)


@dataclass(frozen=True)
class ImageSpec:
    """What images are to be made, and on what ground.

    Attributes:
        shape: ``(N, C, H, W)``.
        normalization: Between pixels in [0, 1] and the model's input space.
        statistics: Those of natural images.
        generator: Source of everything random, on the CPU so that all devices get the same.
        device: Where the images are made.
        init: Images ``(N, C, H, W)`` in [0, 1] to go on from. None: the parameterisation's own start.
    """

    shape: tuple[int, int, int, int]
    normalization: Normalization
    statistics: ImageStatistics
    generator: torch.Generator
    device: torch.device
    init: Tensor | None = None

    def noise(self, *shape: int) -> Tensor:
        """Return standard normal noise."""
        return torch.randn(shape, generator=self.generator).to(self.device)


class Image(ABC):
    """N images as free parameters.

    Attributes:
        parameters: The tensors that an optimizer changes; the first dimension of each is that of the images.
    """

    parameters: list[Tensor]

    @abstractmethod
    def pixels(self) -> Tensor:
        """Return the images ``(N, C, H, W)`` in [0, 1], differentiable with respect to the parameters."""

    def project(self) -> None:  # noqa: B027  (most kinds of image need nothing)
        """Bring the parameters back to what stands for a valid image, after a step of the optimizer."""


class Pixels(Image):
    """One parameter for each pixel and channel, in the model's own input space, kept to colours that exist.

    Args:
        spec: What to make.
        noise: Standard deviation of the first image around the mean image, in model space.
    """

    def __init__(self, spec: ImageSpec, *, noise: float = 0.0) -> None:
        self._normalization = spec.normalization
        start = noise * spec.noise(*spec.shape)
        if spec.init is not None:
            start = spec.normalization.to_model(spec.init).clone()
        self.parameters = [start]
        self.project()
        start.requires_grad_()

    def pixels(self) -> Tensor:
        """Return the images ``(N, C, H, W)`` in [0, 1]."""
        return self._normalization.to_pixels(self.parameters[0])

    def project(self) -> None:
        """Clip to colours that exist."""
        with torch.no_grad():
            self.parameters[0].copy_(self._normalization.to_model(self.pixels().clamp(0, 1)))


class ClippedPixels(Pixels):
    """The same, but free to leave the colours that exist: only what is seen of them is clipped.

    The gradient passes through the clipping: where it did not, a pixel that has left would have no reason to return.
    """

    def pixels(self) -> Tensor:
        """Return the images ``(N, C, H, W)`` in [0, 1]."""
        clipped: Tensor = _Clip.apply(super().pixels())
        return clipped

    def project(self) -> None:
        """Do nothing."""


class _Clip(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, pixels: Tensor) -> Tensor:
        return pixels.clamp(0, 1)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return gradient


class NearPixels(Pixels):
    """Pixels that stay within a distance of given images.

    Args:
        spec: What to make.
        center: The images ``(N, C, H, W)`` in [0, 1].
        linf: Largest change of a pixel, in pixel units. None: no bound.
        l2: Largest L2 norm of the change, in pixel units. None: no bound.
    """

    def __init__(self, spec: ImageSpec, center: Tensor, *, linf: float | None = None, l2: float | None = None) -> None:
        self._center, self._linf, self._l2 = center, linf, l2
        super().__init__(spec)

    def project(self) -> None:
        """Move to the nearest image within the bounds, then clip to colours that exist."""
        with torch.no_grad():
            change = self.pixels() - self._center
            if self._linf is not None:
                change = change.clamp(-self._linf, self._linf)
            if self._l2 is not None:
                change = change.renorm(2, 0, self._l2)
            self.parameters[0].copy_(self._normalization.to_model((self._center + change).clamp(0, 1)))


class SigmoidPixels(Image):
    """One parameter for each pixel and channel, made a colour by a sigmoid.

    Args:
        spec: What to make.
        noise: Standard deviation of the first parameters; 0 is mid-gray.
    """

    def __init__(self, spec: ImageSpec, *, noise: float = 0.0) -> None:
        start = noise * spec.noise(*spec.shape) if spec.init is None else _logits(spec.init)
        self.parameters = [start.requires_grad_()]

    def pixels(self) -> Tensor:
        """Return the images ``(N, C, H, W)`` in [0, 1]."""
        return self.parameters[0].sigmoid()


class _Spectral(Image):
    """Images as a spectrum of decorrelated colours; the sigmoid of the mixed colours are the pixels."""

    def __init__(self, spec: ImageSpec) -> None:
        self._size = (spec.shape[-2], spec.shape[-1])
        self._colours = spec.statistics.colours().to(spec.device)
        self._mean = spec.statistics.mean(*self._size).to(spec.device)
        self._spread = spec.statistics.spread(*self._size).to(spec.device)

    def _mixed(self, spectrum: Tensor) -> Tensor:
        planes = torch.fft.irfft2(spectrum, s=self._size, norm="ortho")
        mixed = torch.einsum("dc,nchw->ndhw", self._colours, planes)
        return (mixed * self._spread + self._mean).sigmoid()

    def _unmixed(self, pixels: Tensor) -> Tensor:
        """Return the spectrum ``(N, C, H, W // 2 + 1)`` of the decorrelated colours of pixels."""
        logits = (_logits(pixels) - self._mean) / self._spread
        planes = torch.einsum("dc,nchw->ndhw", torch.linalg.inv(self._colours), logits)
        spectrum: Tensor = torch.fft.rfft2(planes, norm="ortho")
        return spectrum


class Fourier(_Spectral):
    """A spectrum scaled by 1/f, of decorrelated colours (Olah et al., "Feature visualization", Distill 2017).

    Args:
        spec: What to make.
        noise: Standard deviation of the first coefficients.
    """

    def __init__(self, spec: ImageSpec, *, noise: float = 0.01) -> None:
        super().__init__(spec)
        count, channels, height, width = spec.shape
        # A quarter, as in Lucid, from where the usual learning rates come.
        self._scale = 0.25 / frequencies(height, width).clamp_min(1 / max(height, width)).to(spec.device)
        if spec.init is None:
            start = noise * spec.noise(count, channels, height, width // 2 + 1, 2)
        else:
            start = torch.view_as_real(self._unmixed(spec.init) / self._scale).contiguous()
        self.parameters = [start.requires_grad_()]

    def pixels(self) -> Tensor:
        """Return the images ``(N, C, H, W)`` in [0, 1]."""
        return self._mixed(torch.view_as_complex(self.parameters[0]) * self._scale)


class Maco(_Spectral):
    """Free phases only; the magnitudes are those of natural images (Fel et al., "MACO", arXiv 2306.06805).

    Args:
        spec: What to make.
        gain: Contrast, as a multiple of that of natural images.
    """

    def __init__(self, spec: ImageSpec, *, gain: float = 1.0) -> None:
        super().__init__(spec)
        bands = _Bands(spec)
        self._magnitude = gain * bands.spread(bands.energies / bands.sizes).sqrt()
        if spec.init is None:
            start = torch.fft.rfft2(spec.noise(*spec.shape)).angle()
        else:
            start = self._unmixed(spec.init).angle()
        self.parameters = [start.requires_grad_()]

    def pixels(self) -> Tensor:
        """Return the images ``(N, C, H, W)`` in [0, 1]."""
        return self._mixed(torch.polar(self._magnitude.expand_as(self.parameters[0]), self.parameters[0]))


class BandEnergy(_Spectral):
    """A free spectrum whose energy in each band of each decorrelated colour is pinned to that of natural images.

    Between white noise, which has too much fine detail, and fixed magnitudes, which leave no freedom: where within a
    band the energy goes is up to the ascent.

    Args:
        spec: What to make.
        gain: Contrast, as a multiple of that of natural images.
    """

    def __init__(self, spec: ImageSpec, *, gain: float = 1.0) -> None:
        super().__init__(spec)
        self._bands = _Bands(spec)
        # Not zero, where the root has no slope: colours that the images never have, as in gray ones, have no energy.
        self._wanted = (gain**2 * self._bands.energies).clamp_min(1e-20)
        # Noise as an image, not as a spectrum: the spectra of real images are symmetric in their first column.
        start = torch.fft.rfft2(spec.noise(*spec.shape)) if spec.init is None else self._unmixed(spec.init)
        self.parameters = [torch.view_as_real(self._flattened(start)).contiguous().requires_grad_()]

    def pixels(self) -> Tensor:
        """Return the images ``(N, C, H, W)`` in [0, 1]."""
        found = self._bands.energy(self.parameters[0].square().sum(-1))
        factor = self._bands.spread((self._wanted / found.clamp_min(1e-12)).sqrt())
        return self._mixed(torch.view_as_complex(self.parameters[0] * factor.unsqueeze(-1)))

    def _flattened(self, spectrum: Tensor) -> Tensor:
        # Coefficients of every band get a mean square of 2, as noise has: one learning rate then suits all bands.
        mean_square = self._bands.energy(spectrum.abs().square()) / self._bands.sizes
        return spectrum * self._bands.spread((2 / mean_square.clamp_min(1e-12)).sqrt())


class _Bands:
    """Sums over frequency bands, and back."""

    def __init__(self, spec: ImageSpec) -> None:
        height, width = spec.shape[-2:]
        index = band_index(height, width).flatten()
        weight = hermitian_weight(width).expand(height, -1).flatten() / (height * width)
        one_hot = torch.nn.functional.one_hot(index, BANDS + 1).float() * weight[:, None]
        self._size = (height, width // 2 + 1)
        self._index = index.to(spec.device)
        self._one_hot = one_hot[:, 1:].to(spec.device)
        self.sizes = self._one_hot.sum(dim=0).clamp_min(1e-12)
        self.energies = spec.statistics.energies(height, width).to(spec.device)

    def energy(self, power: Tensor) -> Tensor:
        """Return the energy in each band, ``(..., BANDS)``, of powers ``(..., H, W // 2 + 1)``."""
        return power.flatten(-2) @ self._one_hot

    def spread(self, values: Tensor) -> Tensor:
        """Give each frequency its band's value, ``(..., H, W // 2 + 1)``, and the mean 0."""
        padded = torch.nn.functional.pad(values, (1, 0))
        return padded.index_select(-1, self._index).view(*values.shape[:-1], *self._size)


def _logits(pixels: Tensor) -> Tensor:
    # A pixel at 0 or 1 would have an infinite logit, from which no gradient leads back.
    return pixels.detach().clamp(0.002, 0.998).logit()
