"""Image parameterizations: pixels, Fourier spectra and others, as tensors that an optimizer changes."""

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
    """The images to be made: their shape, start and statistics.

    Attributes:
        shape: ``(N, C, H, W)``.
        normalization: Between pixels in [0, 1] and the model's input space.
        statistics: Statistics of natural images.
        generator: Source of all random numbers, on the CPU so that all devices get the same.
        device: Device of the images.
        init: Images ``(N, C, H, W)`` in [0, 1] to start from. None: the parameterization's own start.
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


class Parameterization(ABC):
    """N images as parameters of an optimizer.

    Attributes:
        parameters: Tensors with the images as their first dimension.
    """

    parameters: list[Tensor]

    @abstractmethod
    def pixels(self) -> Tensor:
        """Return the images ``(N, C, H, W)`` in [0, 1], differentiable with respect to the parameters."""

    def project(self) -> None:  # noqa: B027  (most parameterizations need nothing)
        """Project the parameters back to valid images, after a step of the optimizer."""


class Pixels(Parameterization):
    """One parameter per pixel and channel, in the model's input space, projected to valid colours after each step.

    Args:
        spec: The images to be made.
        noise: Standard deviation of the initial image around the mean image, in model space.
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
        """Clip to valid colours."""
        with torch.no_grad():
            self.parameters[0].copy_(self._normalization.to_model(self.pixels().clamp(0, 1)))


class ClippedPixels(Pixels):
    """Pixels whose parameters may leave the valid colours: they are clipped in `pixels` only.

    The gradient ignores the clipping, as a pixel that left could never return otherwise.
    """

    def pixels(self) -> Tensor:
        """Return the images ``(N, C, H, W)`` in [0, 1]."""
        clipped: Tensor = _Clip.apply(super().pixels())
        return clipped

    def project(self) -> None:
        """Keep the parameters: invalid colours are allowed."""


class _Clip(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, pixels: Tensor) -> Tensor:
        return pixels.clamp(0, 1)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return gradient


class NearPixels(Pixels):
    """Pixels within a distance of given images.

    Args:
        spec: The images to be made.
        center: The images ``(N, C, H, W)`` in [0, 1].
        linf: Largest change of a pixel, in pixel units. None: no bound.
        l2: Largest L2 norm of the change, in pixel units. None: no bound.
    """

    def __init__(self, spec: ImageSpec, center: Tensor, *, linf: float | None = None, l2: float | None = None) -> None:
        self._center, self._linf, self._l2 = center, linf, l2
        super().__init__(spec)

    def project(self) -> None:
        """Project to the nearest image within the bounds, then clip to valid colours."""
        with torch.no_grad():
            change = self.pixels() - self._center
            if self._linf is not None:
                change = change.clamp(-self._linf, self._linf)
            if self._l2 is not None:
                change = change.renorm(2, 0, self._l2)
            self.parameters[0].copy_(self._normalization.to_model((self._center + change).clamp(0, 1)))


class _Spectral(Parameterization):
    """A spectrum of decorrelated colours; pixels are the sigmoid of the recorrelated colours."""

    def __init__(self, spec: ImageSpec) -> None:
        self._size = (spec.shape[-2], spec.shape[-1])
        self._colours = spec.statistics.colours().to(spec.device)
        self._mean = spec.statistics.mean(*self._size).to(spec.device)
        self._spread = spec.statistics.spread(*self._size).to(spec.device)

    def _to_pixels(self, spectrum: Tensor) -> Tensor:
        planes = torch.fft.irfft2(spectrum, s=self._size, norm="ortho")
        mixed = torch.einsum("dc,nchw->ndhw", self._colours, planes)
        return (mixed * self._spread + self._mean).sigmoid()

    def _to_spectrum(self, pixels: Tensor) -> Tensor:
        """Return the spectrum ``(N, C, H, W // 2 + 1)`` of the decorrelated colours of pixels."""
        logits = (_logits(pixels) - self._mean) / self._spread
        planes = torch.einsum("dc,nchw->ndhw", torch.linalg.inv(self._colours), logits)
        spectrum: Tensor = torch.fft.rfft2(planes, norm="ortho")
        return spectrum


class Fourier(_Spectral):
    """A spectrum scaled by 1/f, of decorrelated colours (Olah et al., "Feature visualization", Distill 2017).

    Args:
        spec: The images to be made.
        noise: Standard deviation of the initial coefficients.
    """

    def __init__(self, spec: ImageSpec, *, noise: float = 0.01) -> None:
        super().__init__(spec)
        count, channels, height, width = spec.shape
        # A quarter, as in Lucid, for which the usual learning rates were chosen.
        self._scale = 0.25 / frequencies(height, width).clamp_min(1 / max(height, width)).to(spec.device)
        if spec.init is None:
            start = noise * spec.noise(count, channels, height, width // 2 + 1, 2)
        else:
            start = torch.view_as_real(self._to_spectrum(spec.init) / self._scale).contiguous()
        self.parameters = [start.requires_grad_()]

    def pixels(self) -> Tensor:
        """Return the images ``(N, C, H, W)`` in [0, 1]."""
        return self._to_pixels(torch.view_as_complex(self.parameters[0]) * self._scale)


class Maco(_Spectral):
    """Only phases are optimised; magnitudes are those of natural images (Fel et al., "MACO", arXiv 2306.06805).

    Args:
        spec: The images to be made.
        gain: Contrast, as a multiple of that of natural images.
    """

    def __init__(self, spec: ImageSpec, *, gain: float = 1.0) -> None:
        super().__init__(spec)
        bands = _Bands(spec)
        self._magnitude = gain * bands.expand(bands.energies / bands.sizes).sqrt()
        if spec.init is None:
            start = torch.fft.rfft2(spec.noise(*spec.shape)).angle()
        else:
            start = self._to_spectrum(spec.init).angle()
        self.parameters = [start.requires_grad_()]

    def pixels(self) -> Tensor:
        """Return the images ``(N, C, H, W)`` in [0, 1]."""
        return self._to_pixels(torch.polar(self._magnitude.expand_as(self.parameters[0]), self.parameters[0]))


class BandEnergy(_Spectral):
    """A spectrum whose energy in each frequency band of each decorrelated colour is fixed to that of natural images.

    A compromise between a free spectrum, which gets too much fine detail, and fixed magnitudes: the ascent chooses how
    the energy is distributed within a band.

    Args:
        spec: The images to be made.
        gain: Contrast, as a multiple of that of natural images.
        noise: Standard deviation of the initial coefficients of the spectrum. As the energy is fixed, it does not show:
            the smaller, the sooner the ascent replaces the noise.
    """

    def __init__(self, spec: ImageSpec, *, gain: float = 1.0, noise: float = 1.0) -> None:
        super().__init__(spec)
        self._bands = _Bands(spec)
        # Above zero, where the root's gradient is infinite: colours that no image has, as in gray ones, have no energy.
        self._wanted = (gain**2 * self._bands.energies).clamp_min(1e-20)
        # Noise drawn as pixels, as spectra of real images are symmetric in their first column.
        if spec.init is None:
            start = noise * self._whitened(torch.fft.rfft2(spec.noise(*spec.shape)))
        else:
            start = self._whitened(self._to_spectrum(spec.init))
        self.parameters = [torch.view_as_real(start).contiguous().requires_grad_()]

    def pixels(self) -> Tensor:
        """Return the images ``(N, C, H, W)`` in [0, 1]."""
        found = self._bands.energy(self.parameters[0].square().sum(-1))
        factor = self._bands.expand((self._wanted / found.clamp_min(1e-12)).sqrt())
        return self._to_pixels(torch.view_as_complex(self.parameters[0] * factor.unsqueeze(-1)))

    def _whitened(self, spectrum: Tensor) -> Tensor:
        # Every band gets a mean square of 2, as white noise has: one learning rate then suits all bands.
        mean_square = self._bands.energy(spectrum.abs().square()) / self._bands.sizes
        return spectrum * self._bands.expand((2 / mean_square.clamp_min(1e-12)).sqrt())


class _Bands:
    """Sums over frequency bands, and values per band expanded to frequencies."""

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

    def expand(self, values: Tensor) -> Tensor:
        """Return each frequency's value, that of its band, ``(..., H, W // 2 + 1)``; 0 for the mean."""
        padded = torch.nn.functional.pad(values, (1, 0))
        return padded.index_select(-1, self._index).view(*values.shape[:-1], *self._size)


def _logits(pixels: Tensor) -> Tensor:
    # The logit of a pixel at 0 or 1 would be infinite, and its gradient 0.
    return pixels.detach().clamp(0.002, 0.998).logit()
