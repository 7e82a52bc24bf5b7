"""What natural images have in common: where they are bright and vary, and how much energy each scale and colour has."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from vis_callbacks.errors import ConfigurationError

BANDS = 14
"""Number of log-radial frequency bands."""

_CLIP = 0.05
"""Pixels are kept this far from 0 and 1, whose logits are infinite."""

# Mean colour and principal colour axes of ImageNet photographs, the axes as long as their standard deviations and taken
# from the Lucid project.
_MEAN = (0.485, 0.456, 0.406)
_COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
_LOGITS_PER_PIXEL = 5.0
"""Slope of the logit, averaged over the pixel values of photographs."""

_FALL = 2.5
"""Power is proportional to frequency to the minus this, as measured on photographs of 224 pixels."""

_GRID = 32
"""Largest side of the maps of brightness and variation."""

_SHRINKAGE = 16
"""That many images without any place are counted in, so that the maps of a few images do not show those images."""


_AT_A_TIME = 8
"""Images whose spectra are held at a time."""


class ImageStatistics:
    """Place, colour and frequency statistics of images, gathered batch by batch.

    They describe the logits of pixel values, so that a sigmoid of what they describe is an image. Without any batch
    they are those of photographs: the colours of ImageNet, and a power that falls with the frequency.

    Args:
        channels: Channels of the images.

    Example:
        >>> statistics = ImageStatistics(3)
        >>> statistics.update(torch.rand(4, 3, 16, 16))
        >>> again = ImageStatistics(3)
        >>> again.load_state_dict(statistics.state_dict())
        >>> again.count
        4
    """

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self._count = torch.zeros((), dtype=torch.long)
        self._mean = torch.zeros(channels, 1, 1)
        self._square = torch.zeros(1, 1, 1)
        self._bands = torch.zeros(BANDS, channels, channels)

    @property
    def count(self) -> int:
        """How many images were seen."""
        return int(self._count)

    def update(self, pixels: Tensor) -> None:
        """Take in a batch.

        Args:
            pixels: ``(N, C, H, W)`` in [0, 1]; values outside are clipped.

        Raises:
            ConfigurationError: If the number of channels is another.
        """
        if pixels.ndim != 4 or pixels.shape[1] != self.channels:
            raise ConfigurationError(f"images of shape {tuple(pixels.shape)}: expected (N, {self.channels}, H, W)")
        logits = pixels.detach().to("cpu", torch.float32).clamp(_CLIP, 1 - _CLIP).logit_()
        height, width = logits.shape[-2:]
        grid = (min(height, _GRID), min(width, _GRID))
        if self.count:
            grid = (self._mean.shape[-2], self._mean.shape[-1])
        mean = F.adaptive_avg_pool2d(logits.mean(dim=0), grid)
        square = F.adaptive_avg_pool2d(logits.square().mean(dim=(0, 1))[None], grid)
        share = len(pixels) / (self.count + len(pixels))
        self._mean = self._mean + share * (mean - self._mean)
        self._square = self._square + share * (square - self._square)
        self._count = self._count + len(pixels)
        center = self.mean(height, width)
        weight = (hermitian_weight(width).expand(height, -1) / (height * width)).flatten()
        one_hot = F.one_hot(band_index(height, width).flatten(), BANDS + 1)[:, 1:].to(torch.cfloat)
        # Cross-spectra of the channels, so that any later choice of colour axes can be served.
        cross = torch.zeros_like(self._bands)
        for start in range(0, len(logits), _AT_A_TIME):
            spectrum = torch.fft.rfft2(logits[start : start + _AT_A_TIME] - center, norm="ortho").flatten(2)
            cross += torch.einsum("ncf,ndf,fb->bcd", spectrum * weight, spectrum.conj(), one_hot).real
        self._bands = self._bands + share * (cross / len(pixels) - self._bands)

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that was gathered, as tensors."""
        return {"count": self._count, "mean": self._mean, "square": self._square, "bands": self._bands}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` returned."""
        self._count, self._mean, self._square, self._bands = (
            state[name].detach().cpu() for name in ("count", "mean", "square", "bands")
        )
        self.channels = len(self._mean)

    def mean(self, height: int, width: int) -> Tensor:
        """Return the mean logit of each channel at each place, ``(C, H, W)``."""
        if not self.count and self.channels == 3:
            return torch.tensor(_MEAN).logit().view(3, 1, 1).expand(3, height, width)
        return self._sized(self._shrunk(self._mean), height, width)

    def spread(self, height: int, width: int) -> Tensor:
        """Return how much images vary at each place, ``(1, H, W)``, relative to the root mean square of all places."""
        variance = (self._square - self._mean.square().mean(dim=0, keepdim=True)).clamp_min(0)
        spread = self._sized(self._shrunk(variance), height, width).sqrt()
        size = spread.square().mean().sqrt()
        return (spread / size).clamp_min(0.05) if size > 0 else torch.ones(1, height, width)

    def _shrunk(self, maps: Tensor) -> Tensor:
        everywhere = maps.mean(dim=(-2, -1), keepdim=True)
        return everywhere + (maps - everywhere) * (self.count / (self.count + _SHRINKAGE))

    def _sized(self, maps: Tensor, height: int, width: int) -> Tensor:
        return F.interpolate(maps[None], size=(height, width), mode="bilinear", align_corners=False)[0]

    def colours(self) -> Tensor:
        """Return ``(C, C)``: a column for each principal colour axis, as long as its standard deviation in logits."""
        if not self.count:
            return _photograph_colours(self.channels)
        variances, axes = torch.linalg.eigh(self._bands.sum(dim=0).double())
        floor = variances.max().clamp_min(1e-6) * 1e-4
        order = variances.argsort(descending=True)
        colours: Tensor = axes * variances.clamp_min(floor).sqrt()
        return colours[:, order].float()

    def energies(self, height: int, width: int) -> Tensor:
        """Return the variance that each band of each decorrelated colour has, ``(C, BANDS)``; each row sums to 1.

        Args:
            height: Height of the image to be made.
            width: Its width. Bands that such an image does not have get 0.
        """
        index = band_index(height, width)
        weight = hermitian_weight(width).expand(height, -1)
        if self.count:
            unmix = torch.linalg.inv(self.colours())
            energies = torch.einsum("ic,bcd,id->ib", unmix, self._bands, unmix).clamp_min(0)
        else:
            power = weight * frequencies(height, width).clamp_min(1e-9).pow(-_FALL)
            energies = torch.zeros(BANDS + 1).index_add_(0, index.flatten(), power.flatten())[1:]
            energies = energies.expand(self.channels, -1)
        present = torch.zeros(BANDS + 1).index_add_(0, index.flatten(), weight.flatten())[1:] > 0
        energies = energies * present
        total = energies.sum(dim=1, keepdim=True)
        even = present / present.sum().clamp_min(1)
        return torch.where(total > 0, energies / total.clamp_min(1e-12), even)


def frequencies(height: int, width: int) -> Tensor:
    """Return the radial frequency of each entry of ``rfft2``, ``(H, W // 2 + 1)``, in cycles per pixel."""
    return torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None])


def band_index(height: int, width: int) -> Tensor:
    """Return the band of each entry of ``rfft2``, ``(H, W // 2 + 1)``: 0 for the mean, else 1 to `BANDS`."""
    radius = frequencies(height, width)
    lowest, highest = 1 / max(height, width, 2), float(radius.max().clamp_min(1e-9))
    span = max(torch.tensor(highest / lowest).log().item(), 1e-9)
    place = (radius.clamp_min(lowest) / lowest).log() / span
    return torch.where(radius > 0, (place * BANDS).long().clamp_max(BANDS - 1) + 1, 0)


def hermitian_weight(width: int) -> Tensor:
    """Return how many entries of the full spectrum each column of ``rfft2`` stands for, ``(W // 2 + 1,)``."""
    weight = torch.full((width // 2 + 1,), 2.0)
    weight[0] = 1
    if width % 2 == 0:
        weight[-1] = 1
    return weight


def _photograph_colours(channels: int) -> Tensor:
    if channels == 3:
        return torch.tensor(_COLOURS) * _LOGITS_PER_PIXEL
    return torch.eye(channels) * (torch.tensor(_COLOURS)[:, 0].mean() * _LOGITS_PER_PIXEL)
