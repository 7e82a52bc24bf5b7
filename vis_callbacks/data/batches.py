"""Images and labels from batches of any common shape, and from image files."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import InterpolationMode, resize

from vis_callbacks.data.normalization import Normalization
from vis_callbacks.data.samples import UNKNOWN
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.model.nested import named_tensors_in, shapes_in

BatchToImages: TypeAlias = Callable[[Any], Any]
"""A function from a batch to its images ``(N, C, H, W)``, or to images and labels ``(N,)``."""

_IMAGE_NAMES = {"image", "images", "img", "imgs", "pixel_values", "pixels", "x", "input", "inputs", "data"}
_LABEL_NAMES = {"label", "labels", "target", "targets", "y", "class", "classes", "class_id", "class_label", "category"}
_OTHER_NAMES = {"index", "indices", "idx", "id", "ids", "image_id", "sample_id", "weight", "weights", "path"}
"""Names of parts of a batch that may look like labels and are none."""

_NO_IMAGE = ("mask", "seg", "label", "target", "depth", "heatmap")
"""Parts of names of maps that are as large as images."""


@dataclass(frozen=True)
class Batch:
    """Images with what is known about them.

    Attributes:
        images: ``(N, C, H, W)``.
        labels: ``(N,)`` long; -1 where no class is true, of several true ones the first. None: there are none.
        truths: ``(N, K)`` bool, which classes are true, if the labels are rows of zeros and ones.
        values: ``(N,)`` or ``(N, K)`` float, if the labels are numbers and not classes, or may be.
    """

    images: Tensor
    labels: Tensor | None = None
    truths: Tensor | None = None
    values: Tensor | None = None


def find_batch(batch: Any, classes: int | None = None) -> Batch:
    """Find images and labels in a batch of any common structure: tuples, lists, dicts, dataclasses and objects.

    Images are the tensor of four dimensions with the name of one, such as ``image``, ``pixel_values`` or ``x``, else
    the first whose name is not that of a mask. Labels are the tensor with the name of labels, else the first one behind
    the images that looks like labels: integers, one-hot or multi-hot rows, probabilities, or numbers. Rows with any
    number of ones may be a table beside integers, unless they are as wide as there are classes. Integers beside others
    are no labels if they count the images, or are too large for the classes.

    Args:
        batch: One batch of a data loader.
        classes: Number of classes, if known.

    Raises:
        ConfigurationError: If there is no tensor of four dimensions, or its channels are last.

    Example:
        >>> found = find_batch({"image": torch.zeros(4, 3, 8, 8), "label": torch.arange(4)})
        >>> found.images.shape, found.labels
        (torch.Size([4, 3, 8, 8]), tensor([0, 1, 2, 3]))
    """
    tensors = [(name.lower(), tensor) for name, tensor in named_tensors_in(batch)]
    maps = [one for one in tensors if one[1].ndim == 4]
    if not maps:
        raise ConfigurationError(_without_images(batch, [tensor for _, tensor in tensors]))
    named = [one for one in maps if one[0] in _IMAGE_NAMES]
    others = [one for one in maps if not any(word in one[0] for word in _NO_IMAGE)]
    images = (named or others or maps)[0][1]
    at = next(at for at, (_, tensor) in enumerate(tensors) if tensor is images)
    # Those behind the images first, as in (index, image, label).
    rest = [one for one in [*tensors[at + 1 :], *tensors[:at]] if one[0] not in _OTHER_NAMES]
    rest.sort(key=lambda one: one[0] not in _LABEL_NAMES)
    read = [(name, Batch(images, *found)) for name, one in rest if (found := _labels_of(one, len(images))) is not None]
    labelled = [one for one in read if one[1].labels is not None]
    name, chosen = next(iter([*labelled, *read]), ("", Batch(images)))
    doubtful = name not in _LABEL_NAMES and len(labelled) > 1
    if doubtful and (_may_be_a_table(chosen, classes) or _count_images(chosen, classes)):
        chosen = next((one for _, one in labelled if _are_numbers(one, classes)), chosen)
    return _checked(chosen)


def read_batch(reader: BatchToImages | None, batch: Any, classes: int | None = None) -> Batch:
    """Return images and labels of a batch, as a reader returns them; None: they are found, see `find_batch`.

    Raises:
        ConfigurationError: If there are no images.
    """
    if reader is None:
        return find_batch(batch, classes)
    found = reader(batch)
    images, labels = (found, None) if isinstance(found, Tensor) else found
    if not isinstance(images, Tensor) or images.ndim != 4:
        raise ConfigurationError(
            f"batch_to_images gave {shapes_in(images)[:90]} for a batch of {shapes_in(batch)[:90]}: "
            "expected (N, C, H, W)"
        )
    read = None if labels is None else _labels_of(torch.as_tensor(labels), len(images))
    return _checked(Batch(images, *(read or ())))


def load_images(
    paths: Sequence[str | Path | Image.Image], *, size: tuple[int, int], channels: int, normalization: Normalization
) -> Tensor:
    """Read image files as a batch in model space.

    Args:
        paths: Image files that Pillow can open, or its images.
        size: Height and width of the result; images are resized and center-cropped.
        channels: 1 for gray, otherwise RGB.
        normalization: Applied to pixels in [0, 1].

    Returns:
        ``(N, C, H, W)`` float32.

    Raises:
        ConfigurationError: If a file cannot be read as an image.
    """
    images = []
    for path in paths:
        try:
            with nullcontext(path) if isinstance(path, Image.Image) else Image.open(path) as file:
                pixels = np.asarray(file.convert("L" if channels == 1 else "RGB"), dtype=np.float32) / 255
        except OSError as error:
            raise ConfigurationError(f"sample {str(path)!r} cannot be read as an image: {error}") from error
        image = torch.from_numpy(pixels).reshape(*pixels.shape[:2], -1).permute(2, 0, 1)
        images.append(_cover(image, size))
    return normalization.to_model(torch.stack(images))


def _checked(batch: Batch) -> Batch:
    """Return a batch of plain tensors, not of a subclass; raise an error if its images have their channels last."""
    rows, columns, last = batch.images.shape[1:]
    if last in (1, 3, 4) and min(rows, columns) > 4 and 0.25 <= rows / columns <= 4:
        raise ConfigurationError(
            f"images {tuple(batch.images.shape)} seem to be (N, H, W, C), expected (N, C, H, W): give "
            "batch_to_images=lambda batch: batch[0].permute(0, 3, 1, 2), and forward= that takes such images"
        )
    # Subclasses, such as MONAI's, have operations of their own, and do not load with weights only.
    special = {name: part for name, part in vars(batch).items() if part is not None and type(part) is not Tensor}
    return replace(batch, **{name: part.as_subclass(Tensor) for name, part in special.items()}) if special else batch


def _without_images(batch: Any, tensors: Sequence[Tensor]) -> str:
    largest = max(tensors, key=lambda tensor: tensor.ndim, default=torch.zeros(()))
    shape = tuple(largest.shape)
    if largest.ndim == 5:
        advice = "of a video or volume give one frame or slice, as batch_to_images=lambda batch: batch[0][:, :, 0]"
    elif largest.ndim == 3 and shape[0] in (1, 3, 4):
        advice = "for one image without a batch give batch_to_images=lambda batch: batch[0][None]"
    elif largest.ndim == 3:
        advice = "for gray images without channels give batch_to_images=lambda batch: batch[0][:, None]"
    else:
        advice = "give batch_to_images="
    return f"no images in a batch of {shapes_in(batch)[:120]}: expected a tensor (N, C, H, W); {advice}"


def _labels_of(tensor: Tensor, count: int) -> tuple[Tensor | None, Tensor | None, Tensor | None] | None:
    """Return labels, truths and values as in `Batch`, or None if a tensor is nothing of this."""
    if not tensor.ndim or len(tensor) != count or tensor.is_complex():
        return None
    tensor = tensor.detach().as_subclass(Tensor)
    if tensor.ndim == 2 and tensor.shape[1] == 1:
        tensor = tensor[:, 0]
    real = tensor.is_floating_point()
    if tensor.ndim == 1 and not real:
        # Nothing is read here, which would wait for the device.
        return tensor.long().clamp_min(UNKNOWN), None, None
    zero_one = bool(((tensor == 0) | (tensor == 1)).all())
    if tensor.ndim == 1:
        return tensor.long() if zero_one else None, None, tensor.float()
    if tensor.ndim != 2 or not tensor.shape[1]:
        return None
    # Some data sets mark what is uncertain by -1 or NaN.
    if zero_one or bool((tensor.isnan() | (tensor.abs() == 1) | (tensor == 0)).all()):
        truths = tensor == 1
        return torch.where(truths.any(dim=1), truths.int().argmax(dim=1), UNKNOWN), truths, None
    if not real:
        return None
    if bool((tensor >= 0).all()) and torch.allclose(tensor.sum(dim=1), tensor.new_ones(()), atol=1e-2):
        return tensor.argmax(dim=1), None, None
    return None, None, tensor.float()


def _may_be_a_table(batch: Batch, classes: int | None) -> bool:
    """Whether rows of zeros and ones need not be labels."""
    truths = batch.truths
    return truths is not None and truths.shape[1] != classes and bool((truths.sum(dim=1) != 1).any())


def _count_images(batch: Batch, classes: int | None) -> bool:
    """Whether whole numbers are those of images and not of classes."""
    return batch.truths is None and batch.values is None and not _are_numbers(batch, classes)


def _are_numbers(batch: Batch, classes: int | None) -> bool:
    """Whether labels are whole numbers that may be those of classes, not those that count the images."""
    labels = batch.labels
    if labels is None or batch.truths is not None or batch.values is not None:
        return False
    if classes is not None and int(labels.max()) >= classes:
        return False
    return len(labels) == 1 or bool((labels.diff() != 1).any())


def _cover(image: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = image.shape[1:]
    scale = max(size[0] / height, size[1] / width)
    full = [max(size[0], round(height * scale)), max(size[1], round(width * scale))]
    image = resize(image, full, InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
    top, left = (full[0] - size[0]) // 2, (full[1] - size[1]) // 2
    return image[:, top : top + size[0], left : left + size[1]]
