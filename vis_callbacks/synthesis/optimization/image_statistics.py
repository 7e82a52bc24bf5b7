"""Statistics of natural images: mean and variance per place, and energy per frequency band and colour."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from vis_callbacks.errors import ConfigurationError

BANDS = 14
"""Number of log-radial frequency bands."""

_CLIP = 0.05
"""Distance kept from pixel values 0 and 1, whose logits are infinite."""

# Mean colour of ImageNet photographs, and their principal colour axes scaled by standard deviation (from Lucid).
_MEAN = (0.485, 0.456, 0.406)
_COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
_LOGITS_PER_PIXEL = 5.0
"""Mean slope of the logit over the pixel values of photographs."""

_POWER_DECAY = 2.5
"""Power falls as frequency to the minus this, as measured on photographs of 224 pixels."""

_GRID = 32
"""Largest side of the maps of mean and variance."""

_SHRINKAGE = 16
"""Weight of the maps' average, in images, so that maps of a few images do not show these images."""

_AT_A_TIME = 8
"""Images per batch of spectra, to limit memory."""


class ImageStatistics:
    """Spatial, colour and frequency statistics of images, updated batch by batch.

    They are taken of the logits of pixel values, so that images can be made by a sigmoid. Before the first batch they
    are those of photographs: the colours of ImageNet, and a power spectrum that falls with frequency.

    Args:
        channels: Number of channels of the images.

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
        """Number of images seen."""
        return int(self._count)

    def update(self, pixels: Tensor) -> None:
        """Add a batch of images.

        Args:
            pixels: ``(N, C, H, W)`` in [0, 1]; values outside are clipped.

        Raises:
            ConfigurationError: If the shape does not fit.
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
        # Cross-spectra of the channels, as the colour axes are known only later.
        cross = torch.zeros_like(self._bands)
        for start in range(0, len(logits), _AT_A_TIME):
            spectrum = torch.fft.rfft2(logits[start : start + _AT_A_TIME] - center, norm="ortho").flatten(2)
            cross += torch.einsum("ncf,ndf,fb->bcd", spectrum * weight, spectrum.conj(), one_hot).real
        self._bands = self._bands + share * (cross / len(pixels) - self._bands)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the statistics as tensors."""
        return {"count": self._count, "mean": self._mean, "square": self._square, "bands": self._bands}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self._count, self._mean, self._square, self._bands = (
            state[name].detach().cpu() for name in ("count", "mean", "square", "bands")
        )
        self.channels = len(self._mean)

    def mean(self, height: int, width: int) -> Tensor:
        """Return the mean logit of each channel and pixel, ``(C, H, W)``."""
        if not self.count and self.channels == 3:
            return torch.tensor(_MEAN).logit().view(3, 1, 1).expand(3, height, width)
        return self._sized(self._shrunk(self._mean), height, width)

    def spread(self, height: int, width: int) -> Tensor:
        """Return the standard deviation at each pixel, ``(1, H, W)``, relative to the root mean square over pixels."""
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
        """Return the principal colour axes as columns ``(C, C)``, scaled by their standard deviations in logits."""
        if not self.count:
            return _photograph_colours(self.channels)
        variances, axes = torch.linalg.eigh(self._bands.sum(dim=0).double())
        floor = variances.max().clamp_min(1e-6) * 1e-4
        order = variances.argsort(descending=True)
        colours: Tensor = axes * variances.clamp_min(floor).sqrt()
        return colours[:, order].float()

    def energies(self, height: int, width: int) -> Tensor:
        """Return the share of variance of each band of each decorrelated colour, ``(C, BANDS)``; each row sums to 1.

        Args:
            height: Height of the image to be made.
            width: Its width. Bands without a frequency at this size get 0.
        """
        index = band_index(height, width)
        weight = hermitian_weight(width).expand(height, -1)
        if self.count:
            unmix = torch.linalg.inv(self.colours())
            energies = torch.einsum("ic,bcd,id->ib", unmix, self._bands, unmix).clamp_min(0)
        else:
            power = weight * frequencies(height, width).clamp_min(1e-9).pow(-_POWER_DECAY)
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
    """Return the number of columns of the full spectrum that each column of ``rfft2`` represents, ``(W // 2 + 1,)``."""
    weight = torch.full((width // 2 + 1,), 2.0)
    weight[0] = 1
    if width % 2 == 0:
        weight[-1] = 1
    return weight


def _photograph_colours(channels: int) -> Tensor:
    if channels == 3:
        return torch.tensor(_COLOURS) * _LOGITS_PER_PIXEL
    return torch.eye(channels) * (torch.tensor(_COLOURS)[:, 0].mean() * _LOGITS_PER_PIXEL)
