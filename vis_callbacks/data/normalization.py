"""Convert between pixels in [0, 1] and the model's input space."""

from collections.abc import Sequence
from dataclasses import dataclass

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
        return cls(numbers_of(mean), numbers_of(std))

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


def numbers_of(values: float | Sequence[float]) -> tuple[float, ...]:
    """Return a number, list, array or tensor as numbers."""
    return tuple(torch.as_tensor(values, dtype=torch.float64).flatten().tolist())
