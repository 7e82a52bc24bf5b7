"""Images and labels from batches of any common shape, and from image files."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import InterpolationMode, resize

from vis_callbacks.data.normalization import Normalization
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.model.nested import shapes_in, tensors_in

BatchToImages: TypeAlias = Callable[[Any], Any]
"""A function from a batch to its images ``(N, C, H, W)``, or to images and labels ``(N,)``."""


def images_and_labels(batch: Any) -> tuple[Tensor, Tensor | None]:
    """Find images and labels in a batch of any common structure.

    Images are the first tensor of four dimensions in tuples, lists, dicts, dataclasses and objects. Labels are the
    first integer tensor of one dimension and the same length, or one-hot rows.

    Args:
        batch: One batch of a data loader.

    Returns:
        Images ``(N, C, H, W)`` and labels ``(N,)`` long, or None.

    Raises:
        ConfigurationError: If there is no tensor of four dimensions.

    Example:
        >>> images, labels = images_and_labels({"image": torch.zeros(4, 3, 8, 8), "label": torch.arange(4)})
        >>> images.shape, labels
        (torch.Size([4, 3, 8, 8]), tensor([0, 1, 2, 3]))
    """
    tensors = list(tensors_in(batch))
    images = next((tensor for tensor in tensors if tensor.ndim == 4), None)
    if images is None:
        raise ConfigurationError(
            f"no images in a batch of {shapes_in(batch)}: expected a tensor (N, C, H, W); give batch_to_images="
        )
    return images, next((label for t in tensors if (label := _as_labels(t, len(images))) is not None), None)


def read_batch(reader: BatchToImages, batch: Any) -> tuple[Tensor, Tensor | None]:
    """Return the images ``(N, C, H, W)`` of a batch and, if the reader returns them, the labels ``(N,)``.

    Raises:
        ConfigurationError: If the reader returns no images.
    """
    found = reader(batch)
    images, labels = (found, None) if isinstance(found, Tensor) else found
    if not isinstance(images, Tensor) or images.ndim != 4:
        raise ConfigurationError(
            f"batch_to_images gave {shapes_in(images)} for a batch of {shapes_in(batch)}: expected (N, C, H, W)"
        )
    return images, labels


def load_images(
    paths: Sequence[str] | Sequence[Path], *, size: tuple[int, int], channels: int, normalization: Normalization
) -> Tensor:
    """Read image files as a batch in model space.

    Args:
        paths: Image files that Pillow can open.
        size: Height and width of the result; images are resized and center-cropped.
        channels: 1 for gray, otherwise RGB.
        normalization: Applied to pixels in [0, 1].

    Returns:
        ``(N, C, H, W)`` float32.

    Raises:
        ConfigurationError: If a file cannot be read as an image.
    """
    images = []
    for path in map(Path, paths):
        try:
            with Image.open(path) as file:
                pixels = np.asarray(file.convert("L" if channels == 1 else "RGB"), dtype=np.float32) / 255
        except OSError as error:
            raise ConfigurationError(f"sample {str(path)!r} cannot be read as an image: {error}") from error
        image = torch.from_numpy(pixels).reshape(*pixels.shape[:2], -1).permute(2, 0, 1)
        images.append(_cover(image, size))
    return normalization.to_model(torch.stack(images))


def _as_labels(tensor: Tensor, count: int) -> Tensor | None:
    if len(tensor.shape) == 0 or len(tensor) != count:
        return None
    if tensor.ndim == 2 and tensor.shape[1] == 1:
        tensor = tensor[:, 0]
    if tensor.ndim == 2 and bool(((tensor >= 0) & (tensor <= 1)).all()):
        # One-hot or soft labels; the first of several true labels.
        return tensor.argmax(dim=1)
    if tensor.ndim != 1:
        return None
    if tensor.is_floating_point() and not bool(((tensor == 0) | (tensor == 1)).all()):
        return None
    return tensor.long()


def _cover(image: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = image.shape[1:]
    scale = max(size[0] / height, size[1] / width)
    full = [max(size[0], round(height * scale)), max(size[1], round(width * scale))]
    image = resize(image, full, InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
    top, left = (full[0] - size[0]) // 2, (full[1] - size[1]) // 2
    return image[:, top : top + size[0], left : left + size[1]]
