"""The images that are shown, with labels, names and normalization."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vis_callbacks.data.normalization import Normalization

UNKNOWN = -1
"""The label of an image without one."""


@dataclass(frozen=True)
class Samples:
    """Fixed images with labels, names and normalization.

    Attributes:
        images: ``(N, C, H, W)`` float, in model space.
        labels: ``(N,)`` long; -1 where unknown.
        names: One name per image, used in tags.
        class_names: Names of the classes; empty if unknown.
        normalization: From pixels to `images`.
        pixel_source: Where `normalization` is from, in a few words.
        bands: The channels that are shown, one or three. None: the first three, or the mean of two.
        truths: ``(N, K)`` bool, which classes are true, if several may be; then `labels` holds the first of them.
        values: ``(N,)`` or ``(N, K)`` float, if the labels are numbers and not classes; then no label is known.

    Example:
        >>> samples = Samples(torch.zeros(2, 3, 8, 8), torch.tensor([1, 0]), ("0", "1"), ("cat", "dog"))
        >>> samples.label(0)
        'dog'
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]
    class_names: tuple[str, ...] = ()
    normalization: Normalization = field(default_factory=Normalization)
    pixel_source: str = ""
    bands: tuple[int, ...] | None = None
    truths: Tensor | None = None
    values: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, part: slice) -> "Samples":
        parts = {name: one[part] for name, one in self._tensors().items()}
        return dataclasses.replace(self, names=self.names[part], **parts)

    @cached_property
    def pixels(self) -> Tensor:
        """The images for display: ``(N, C, H, W)`` in [0, 1], with 1 or 3 channels, on the CPU."""
        return self.displayable(self.normalization.to_pixels(self.images.detach().float().cpu()))

    @cached_property
    def contents(self) -> tuple[str, ...]:
        """A short fingerprint of each image as it is displayed, by which another run's is known to be the same."""
        pixels = (255 * self.pixels).round().to(torch.uint8).numpy()
        return tuple(hashlib.blake2b(one.tobytes(), digest_size=8).hexdigest() for one in pixels)

    def displayable(self, pixels: Tensor) -> Tensor:
        """Return the shown channels, 1 or 3, of pixels ``(..., C, H, W)``, in [0, 1]; black where they are NaN."""
        return displayable(pixels, self.bands).nan_to_num(0, 1, 0).clamp(0, 1)

    def class_name(self, index: int) -> str:
        """Return the name of a class, or its number as text if there is no name."""
        return self.class_names[index] if 0 <= index < len(self.class_names) else str(index)

    def label(self, index: int) -> str | None:
        """Return the name of a sample's true class; None if unknown."""
        label = int(self.labels[index])
        return None if label == UNKNOWN else self.class_name(label)

    def at(self, items: Tensor) -> "Samples":
        """Return the samples at these indices ``(n,)``."""
        names = tuple(self.names[item] for item in items.tolist())
        return dataclasses.replace(self, names=names, **{name: one[items] for name, one in self._tensors().items()})

    def to(self, device: torch.device) -> "Samples":
        """Return the samples with all tensors on a device."""
        return dataclasses.replace(self, **{name: one.to(device) for name, one in self._tensors().items()})

    def _tensors(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name in _TENSORS and value is not None}


_TENSORS = ("images", "labels", "truths", "values")


def displayable(pixels: Tensor, bands: Sequence[int] | None = None) -> Tensor:
    """Return images ``(..., C, H, W)`` with 1 or 3 channels.

    Args:
        pixels: The images.
        bands: The channels to show. None: the first three of more, the mean of two.
    """
    if bands is not None:
        return pixels[..., list(bands), :, :]
    if pixels.shape[-3] in (1, 3):
        return pixels
    return pixels[..., :3, :, :] if pixels.shape[-3] > 3 else pixels.mean(dim=-3, keepdim=True)


def size_within(side: int, size: Sequence[int]) -> tuple[int, int]:
    """Return height and width in the same ratio, with at most `side` pixels on the longer side.

    Example:
        >>> size_within(512, (2048, 1024)), size_within(512, (100, 200))
        ((512, 256), (100, 200))
    """
    height, width = size
    scale = min(1.0, side / max(height, width))
    return max(round(height * scale), 1), max(round(width * scale), 1)


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Return images ``(N, C, H, W)`` in another size."""
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
