"""Gaussian blur: of images, whatever the kernel's width, and of maps that are drawn."""

import torch
from torch import Tensor
from torch.nn import functional as F

_NARROW = 16  # pixels that a kernel reaches


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Blur images ``(N, C, H, W)`` by a Gaussian, with reflected border.

    Args:
        images: Any float images.
        sigma: Standard deviation in pixels; the kernel ends at three of them, or at the image's size.
    """
    for dim in (-1, -2):
        kernel = _kernel(images, dim, sigma)
        reach, channels = len(kernel) // 2, images.shape[1]
        weight = kernel.view((1, 1, 1, -1) if dim == -1 else (1, 1, -1, 1))
        weight = weight.expand(channels, 1, *weight.shape[2:])
        images = F.conv2d(_reflected(images, dim, reach), weight, groups=channels)
    return images


def blurred_maps(maps: Tensor, sigma: float) -> Tensor:
    """Blur maps ``(N, 1, H, W)`` as `gaussian_blur` does, several times faster on a CPU where the kernel is narrow.

    A convolution of one channel takes far longer there than the few sums that it is.
    """
    if round(3 * sigma) > _NARROW:
        return torch.cat([gaussian_blur(one, sigma) for one in maps[:, None]])
    for dim in (-1, -2):
        kernel = _kernel(maps, dim, sigma).tolist()
        size, last = maps.shape[dim], len(kernel) - 1
        padded = _reflected(maps, dim, last // 2)
        maps = padded.narrow(dim, last // 2, size) * kernel[last // 2]
        for at in range(last // 2):
            for start in (at, last - at):
                maps.add_(padded.narrow(dim, start, size), alpha=kernel[at])
    return maps


def _kernel(images: Tensor, dim: int, sigma: float) -> Tensor:
    reach = min(max(round(3 * sigma), 1), images.shape[dim] - 1)
    offsets = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-offsets.square() / (2 * sigma**2))
    return kernel / kernel.sum()


def _reflected(images: Tensor, dim: int, reach: int) -> Tensor:
    return F.pad(images, (reach, reach, 0, 0) if dim == -1 else (0, 0, reach, reach), mode="reflect")
