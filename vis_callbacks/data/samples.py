"""Which images are shown: chosen once, the same all through training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import InterpolationMode, resize

from vis_callbacks.data.normalization import Normalization
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.model.classifier import shapes_in

SampleSource: TypeAlias = int | Literal["per_class"] | Tensor | Sequence[str] | Sequence[Path]
"""The first n images that pass by, one of each class, images in model space ``(N, C, H, W)``, or image files."""

BatchToImages: TypeAlias = Callable[[Any], Any]
"""From a batch to its images ``(N, C, H, W)``, or to images and labels ``(N,)``."""

UNKNOWN = -1
MOST_CLASSES = 100


@dataclass(frozen=True)
class Samples:
    """Fixed images with all that is known about them.

    Attributes:
        images: ``(N, C, H, W)`` float, in model space.
        labels: ``(N,)`` long; `UNKNOWN` where there is none.
        names: A name for each, used in tags.
        class_names: Names of the classes, empty where none are known.
        normalization: How pixels became `images`.

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

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, part: slice) -> Samples:
        return dataclasses.replace(self, images=self.images[part], labels=self.labels[part], names=self.names[part])

    @cached_property
    def pixels(self) -> Tensor:
        """The images for display: ``(N, C, H, W)`` in [0, 1], with 1 or 3 channels, on the CPU."""
        return displayable(self.normalization.to_pixels(self.images.detach().float().cpu()).clamp(0, 1))

    def class_name(self, index: int) -> str:
        """Return the name of a class, or its number."""
        return self.class_names[index] if 0 <= index < len(self.class_names) else str(index)

    def label(self, index: int) -> str | None:
        """Return the name of a sample's true class."""
        label = int(self.labels[index])
        return None if label == UNKNOWN else self.class_name(label)

    def at(self, items: Tensor) -> Samples:
        """Return some of the samples, by number ``(n,)``."""
        names = tuple(self.names[item] for item in items.tolist())
        return dataclasses.replace(self, images=self.images[items], labels=self.labels[items], names=names)

    def to(self, device: torch.device) -> Samples:
        """Return the samples with images and labels on a device."""
        return dataclasses.replace(self, images=self.images.to(device), labels=self.labels.to(device))


def displayable(pixels: Tensor) -> Tensor:
    """Return images ``(..., C, H, W)`` with 1 or 3 channels: the first three of more, the mean of two."""
    if pixels.shape[-3] in (1, 3):
        return pixels
    return pixels[..., :3, :, :] if pixels.shape[-3] > 3 else pixels.mean(dim=-3, keepdim=True)


class Collector:
    """Takes samples from batches that pass by, and keeps them for good.

    Args:
        source: What to take, see `SampleSource`; an int or ``"per_class"`` here.
        classes: Number of classes, where it is known: ``"per_class"`` is complete when each was seen.
        batch_to_images: How to read a batch; None: found from its shape.
    """

    def __init__(
        self, source: int | str, *, classes: int | None = None, batch_to_images: BatchToImages | None = None
    ) -> None:
        self._source = source
        self._classes = min(classes, MOST_CLASSES) if classes else None
        self._read = batch_to_images or images_and_labels
        self._images: list[Tensor] = []
        self._labels: list[int] = []

    def expect_classes(self, count: int) -> None:
        """Tell the number of classes, when it becomes known."""
        self._classes = min(count, MOST_CLASSES)

    def restart(self) -> None:
        """Begin anew."""
        self._images, self._labels = [], []

    def take_over(self, images: Tensor, labels: Tensor) -> None:
        """Hold what another collector has taken, and nothing else."""
        self._images, self._labels = list(images), labels.tolist()

    @property
    def complete(self) -> bool:
        """Whether nothing more is taken."""
        if self._source == "per_class":
            return len(self._images) >= (self._classes or MOST_CLASSES)
        return len(self._images) >= int(self._source)

    @property
    def empty(self) -> bool:
        """Whether nothing was taken yet."""
        return not self._images

    def __len__(self) -> int:
        return len(self._images)

    def observe(self, batch: Any) -> None:
        """Take what is wanted of a batch; the batch is not changed.

        Raises:
            ConfigurationError: If no images are found in it.
        """
        images, labels = read_batch(self._read, batch)
        for index in range(len(images)):
            label = UNKNOWN if labels is None else int(labels[index])
            if self.complete:
                return
            if self._source == "per_class" and (label == UNKNOWN or label in self._labels):
                continue
            if self._images and images[index].shape != self._images[0].shape:
                continue
            self._images.append(images[index].detach().to("cpu", copy=True))
            self._labels.append(label)

    def samples(self) -> tuple[Tensor, Tensor]:
        """Return images ``(N, C, H, W)`` and labels ``(N,)``, by class where one of each was asked for."""
        order = list(range(len(self._images)))
        if self._source == "per_class":
            order = sorted(order, key=self._labels.__getitem__)
        with torch.inference_mode(False):
            images = torch.stack([self._images[index] for index in order])
            labels = torch.tensor([self._labels[index] for index in order])
        return images if images.is_floating_point() else images.float(), labels


def images_and_labels(batch: Any) -> tuple[Tensor, Tensor | None]:
    """Find images and labels in a batch of any common shape.

    Images are the first tensor of four dimensions, looked for in tuples, lists, dicts, dataclasses and objects; labels
    are the next whole-number tensor of one dimension and the same length, or one-hot rows.

    Args:
        batch: What a data loader gives.

    Returns:
        Images ``(N, C, H, W)`` and labels ``(N,)`` long, or None.

    Raises:
        ConfigurationError: If there is no tensor of four dimensions.

    Example:
        >>> images, labels = images_and_labels({"image": torch.zeros(4, 3, 8, 8), "label": torch.arange(4)})
        >>> images.shape, labels
        (torch.Size([4, 3, 8, 8]), tensor([0, 1, 2, 3]))
    """
    tensors = list(_tensors(batch))
    images = next((tensor for tensor in tensors if tensor.ndim == 4), None)
    if images is None:
        raise ConfigurationError(
            f"no images in a batch of {shapes_in(batch)}: expected a tensor (N, C, H, W); give batch_to_images="
        )
    return images, next((label for t in tensors if (label := _as_labels(t, len(images))) is not None), None)


def read_batch(reader: BatchToImages, batch: Any) -> tuple[Tensor, Tensor | None]:
    """Return the images ``(N, C, H, W)`` and, where the reader gives them, the labels ``(N,)`` of a batch.

    Raises:
        ConfigurationError: If the reader gives no images.
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
        size: Height and width of the result; images are resized and cropped in the middle.
        channels: 1 for gray, else colour.
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


def class_names_in(holder: Any) -> tuple[str, ...]:
    """Return the class names that a dataset states as ``classes``, seen through subsets and concatenations."""
    for _ in range(10):
        classes = getattr(holder, "classes", None)
        if isinstance(classes, (list, tuple)) and classes and all(isinstance(name, (str, int)) for name in classes):
            return tuple(map(str, classes))
        datasets = getattr(holder, "datasets", None)
        holder = datasets[0] if isinstance(datasets, (list, tuple)) and datasets else getattr(holder, "dataset", None)
    return ()


def _tensors(value: Any, depth: int = 0) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif depth < 4:
        for item in _items(value):
            yield from _tensors(item, depth + 1)


def _items(value: Any) -> Sequence[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, (list, tuple)):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, item.name) for item in dataclasses.fields(value)]
    return list(getattr(value, "__dict__", {}).values())


def _as_labels(tensor: Tensor, count: int) -> Tensor | None:
    if len(tensor.shape) == 0 or len(tensor) != count:
        return None
    if tensor.ndim == 2 and tensor.shape[1] == 1:
        tensor = tensor[:, 0]
    if tensor.ndim == 2 and bool(((tensor >= 0) & (tensor <= 1)).all()):
        # One-hot or soft labels; of several true labels the first.
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
