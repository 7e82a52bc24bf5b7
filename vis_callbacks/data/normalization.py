"""Convert between pixels in [0, 1] and the model's input space."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vis_callbacks.errors import ConfigurationError
from vis_callbacks.model.pretrained_cfg import pretrained_cfgs


@dataclass(frozen=True)
class Normalization:
    """Per-channel ``(pixels - mean) / std``; without arguments the identity.

    Attributes:
        mean: One number, or one per channel, in pixel units ([0, 1]).
        std: The same.

    Raises:
        ConfigurationError: If a standard deviation is not positive.

    Example:
        >>> half = Normalization((0.5,), (0.5,))
        >>> half.to_model(torch.ones(1, 3, 2, 2)).max()
        tensor(1.)
        >>> half.to_pixels(torch.zeros(1, 3, 2, 2)).max()
        tensor(0.5000)
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not all(value > 0 for value in self.std):
            raise ConfigurationError(f"std {self.std}: expected numbers above 0")

    @classmethod
    def of(cls, mean: float | Sequence[float], std: float | Sequence[float]) -> "Normalization":
        """Create one from numbers, lists or tensors."""
        return cls(_numbers(mean), _numbers(std))

    def to_model(self, pixels: Tensor) -> Tensor:
        """Normalise pixels ``(..., C, H, W)`` in [0, 1]."""
        return (pixels - self._tensor(self.mean, pixels)) / self._tensor(self.std, pixels)

    def to_pixels(self, images: Tensor) -> Tensor:
        """Invert `to_model`, without clipping to [0, 1]."""
        return images * self._tensor(self.std, images) + self._tensor(self.mean, images)

    def suits(self, channels: int) -> bool:
        """Whether it applies to images with this number of channels."""
        return {len(self.mean), len(self.std)} <= {1, channels}

    def _tensor(self, values: tuple[float, ...], like: Tensor) -> Tensor:
        if len(values) not in (1, like.shape[-3]):
            raise ConfigurationError(
                f"normalization for {len(values)} channels cannot be applied to images of shape {tuple(like.shape)}: "
                f"give mean and std with 1 or {like.shape[-3]} numbers"
            )
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)


def normalization_of(model: nn.Module) -> Normalization | None:
    """Return the normalization in the ``pretrained_cfg`` of a timm model, which may be a part of `model`."""
    for _, config in pretrained_cfgs(model):
        if config.get("mean") and config.get("std"):
            return Normalization.of(config["mean"], config["std"])
    return None


def normalization_in(dataset: Any) -> Normalization | None:
    """Return the last ``Normalize`` among a dataset's transforms, also inside subsets and compositions.

    Example:
        >>> from torchvision.transforms import Compose, Normalize
        >>> class Photos: transform = Compose([Normalize((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))])
        >>> normalization_in(Photos()).mean
        (0.5, 0.4, 0.3)
    """
    found = None
    for transform in _transforms(dataset, set()):
        if "normalize" in type(transform).__name__.lower() and hasattr(transform, "mean") and hasattr(transform, "std"):
            found = Normalization.of(transform.mean, transform.std)
    return found


def normalization_from(images: Tensor) -> Normalization:
    """Guess from the images alone: identity if they lie in [0, 1], else the one that maps their range to [0, 1].

    Example:
        >>> normalization_from(torch.tensor([-1.0, 1.0]).view(1, 1, 1, 2))
        Normalization(mean=(0.5,), std=(0.5,))
    """
    finite = images[torch.isfinite(images)]
    if not len(finite):
        return Normalization()
    low, high = float(finite.min()), float(finite.max())
    if low >= 0 and high <= 1:
        return Normalization()
    # With low -> 0 and high -> 1, pixels = images / (high - low) - low / (high - low).
    span = max(high - low, 1e-6)
    return Normalization((-low / span,), (1 / span,))


def _numbers(values: float | Sequence[float]) -> tuple[float, ...]:
    return tuple(torch.as_tensor(values, dtype=torch.float64).flatten().tolist())


def _transforms(holder: Any, seen: set[int]) -> Iterator[Any]:
    if holder is None or id(holder) in seen or len(seen) > 1000:
        return
    seen.add(id(holder))
    yield holder
    for name in ("dataset", "datasets", "transform", "transforms"):
        inner = getattr(holder, name, None)
        if isinstance(inner, nn.Module):
            inner = list(inner.modules())
        for item in inner if isinstance(inner, (list, tuple)) else [inner]:
            yield from _transforms(item, seen)
