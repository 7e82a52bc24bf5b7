"""Gaussian blur, as fast for a wide kernel as for a narrow one."""

import torch
from torch import Tensor
from torch.nn import functional as F


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Blur images ``(N, C, H, W)`` by a Gaussian, with reflected border.

    Args:
        images: Any float images.
        sigma: Standard deviation in pixels; the kernel ends at three of them, or at the image's size.
    """
    for dim in (-1, -2):
        reach = min(max(round(3 * sigma), 1), images.shape[dim] - 1)
        offsets = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
        kernel = torch.exp(-offsets.square() / (2 * sigma**2))
        kernel = (kernel / kernel.sum()).view((1, 1, 1, -1) if dim == -1 else (1, 1, -1, 1))
        pad = (reach, reach, 0, 0) if dim == -1 else (0, 0, reach, reach)
        channels = images.shape[1]
        weight = kernel.expand(channels, 1, *kernel.shape[2:])
        images = F.conv2d(F.pad(images, pad, mode="reflect"), weight, groups=channels)
    return images
