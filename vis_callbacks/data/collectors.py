"""Take images from batches as they pass by, and keep copies of few."""

from collections import Counter
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vis_callbacks.data.batches import Batch, BatchToImages, read_batch
from vis_callbacks.data.samples import UNKNOWN

MOST_CLASSES = 100  # images that ``"per_class"`` takes at most


class _Item(NamedTuple):
    """One image with what its batch says about it, on the CPU."""

    place: int
    label: int
    image: Tensor
    truth: Tensor | None
    value: Tensor | None


class Collector:
    """Keeps copies of the first images that it sees.

    Args:
        count: How many.
        most_pixels: Height x width of all of them together, after which no more are kept. None: no bound.
        batch_to_images: How to read a batch. None: found automatically.

    Attributes:
        classes: Number of classes, if known.
    """

    classes: int | None = None

    def __init__(
        self, count: int, *, most_pixels: int | None = None, batch_to_images: BatchToImages | None = None
    ) -> None:
        self.count = count
        self.most_pixels = most_pixels
        self._read = batch_to_images
        self.restart()

    def restart(self) -> None:
        """Drop all images and start again."""
        self._items: list[_Item] = []
        self._place = 0
        self.labels: set[int] = set()
        self._labelled = self._several = self._numbers = False

    def take_over(self, images: Tensor, labels: Tensor) -> None:
        """Replace the images by those of another collector."""
        pairs = zip(labels.tolist(), images, strict=True)
        self._items = [_Item(at, label, image, None, None) for at, (label, image) in enumerate(pairs)]

    @property
    def complete(self) -> bool:
        """Whether no further batch would change what is kept."""
        if self._items and self.most_pixels is not None:
            return len(self._items) >= min(self.count, max(1, self.most_pixels // self._items[0].image[0].numel()))
        return len(self._items) >= self.count

    @property
    def ready(self) -> bool:
        """Whether what is kept is all that was asked for. It need not be complete: later images might be better."""
        return self.complete

    @property
    def usable(self) -> bool:
        """Whether what is kept must do if a picture is due now."""
        return self.ready

    @property
    def empty(self) -> bool:
        """Whether no image was kept yet."""
        return not self._items

    def __len__(self) -> int:
        return len(self._items)

    def observe(self, batch: Any) -> None:
        """Take what is missing from a batch, which is not changed.

        Raises:
            ConfigurationError: If the batch has no images.
        """
        read = read_batch(self._read, batch, self.classes)
        labels = [UNKNOWN] * len(read.images) if read.labels is None else read.labels.tolist()
        self.labels.update(labels)
        self._labelled |= read.labels is not None
        self._several |= read.truths is not None and bool((read.truths.sum(dim=1) != 1).any())
        self._numbers |= read.values is not None and read.labels is None
        shape = self._items[0].image.shape if self._items else read.images.shape[1:]
        if read.images.shape[1:] != shape:
            return
        broken = _broken(read.images)
        for index, label in enumerate(labels):
            if self.complete:
                return
            if index not in broken and self._accepts(label):
                truth, value = (None if one is None else _copied(one[index]) for one in (read.truths, read.values))
                self._items.append(_Item(self._place, label, _copied(read.images[index]), truth, value))
            self._place += 1

    def samples(self) -> tuple[Tensor, Tensor]:
        """Return images ``(N, C, H, W)``, float, and labels ``(N,)``, -1 where unknown."""
        kept = self.batch()
        assert kept.labels is not None
        return as_input(kept.images), kept.labels

    def batch(self) -> Batch:
        """Return what is kept, in order, with the images as they were seen."""
        items = self._ordered()
        with torch.inference_mode(False):
            kept = Batch(torch.stack([item.image for item in items]), torch.tensor([item.label for item in items]))
            truths = [item.truth for item in items if item.truth is not None]
            values = [item.value for item in items if item.value is not None]
            # One-hot rows say no more than labels do, and zeros and ones among other numbers are numbers.
            if self._several and len(truths) == len(items):
                kept = replace(kept, truths=torch.stack(truths))
            if self._numbers and len(values) == len(items):
                kept = replace(kept, labels=torch.full((len(items),), UNKNOWN), values=torch.stack(values))
        return kept

    def _accepts(self, label: int) -> bool:
        """Whether the next image, of this label, is kept; may make room for it."""
        return True

    def _ordered(self) -> list[_Item]:
        return self._items


def _broken(images: Tensor) -> set[int]:
    """Return which images hold NaN or infinity: no map of them can be drawn."""
    if not images.is_floating_point():
        return set()
    return {index for index, finite in enumerate(images.isfinite().flatten(1).all(dim=1).tolist()) if not finite}


class SpreadCollector(Collector):
    """Keeps copies of images spread over the classes, and without labels over all images seen.

    Of labelled images it keeps as many classes as possible, of each as many images as of the others, and of each class
    the first. Of images without labels it keeps evenly spaced ones. Never more than twice the count are kept.

    Args:
        count: How many.
        classes: Number of classes, if known.
        batch_to_images: How to read a batch. None: found automatically.
    """

    def __init__(self, count: int, *, classes: int | None = None, batch_to_images: BatchToImages | None = None) -> None:
        super().__init__(count, batch_to_images=batch_to_images)
        self.classes = classes

    def restart(self) -> None:
        """Drop all images and start again."""
        super().restart()
        self._stride = 1

    @property
    def complete(self) -> bool:
        """Whether each class has its share."""
        wanted = min(self.classes or self.count, self.count)
        full = [label for label, count in self._counts().items() if count >= self.count // wanted]
        return len(self._items) >= self.count and len(full) >= wanted

    @property
    def ready(self) -> bool:
        """Whether each class has its share; without labels, whether there are enough images."""
        return self.complete if self._labelled else len(self._items) >= self.count

    @property
    def usable(self) -> bool:
        """Whether there are enough images, of more than one class."""
        return len(self._items) >= self.count and (not self._labelled or len(self._counts()) > min(1, self.count - 1))

    def _accepts(self, label: int) -> bool:
        if not self._labelled:
            if len(self._items) >= 2 * self.count:
                self._items, self._stride = self._items[::2], 2 * self._stride
            return self._place % self._stride == 0
        if len(self._items) < self.count:
            return True
        counts = self._counts()
        most = max(reversed(counts), key=counts.__getitem__)
        if counts[label] + 1 >= counts[most]:
            return False
        # The latest of the class that has the most makes room.
        del self._items[max(at for at, item in enumerate(self._items) if item.label == most)]
        return True

    def _counts(self) -> Counter[int]:
        return Counter(item.label for item in self._items)

    def _ordered(self) -> list[_Item]:
        count = min(self.count, len(self._items))
        return [self._items[len(self._items) * at // count] for at in range(count)]


class ClassCollector(Collector):
    """Keeps a copy of the first image of each class, sorted by class.

    Args:
        classes: Number of classes, if known; it is complete when each was seen.
        batch_to_images: How to read a batch. None: found automatically.
    """

    def __init__(self, *, classes: int | None = None, batch_to_images: BatchToImages | None = None) -> None:
        super().__init__(MOST_CLASSES, batch_to_images=batch_to_images)
        self.classes = classes

    @property
    def complete(self) -> bool:
        """Whether each class was seen."""
        return len(self._items) >= min(self.classes or MOST_CLASSES, MOST_CLASSES)

    def _accepts(self, label: int) -> bool:
        return label != UNKNOWN and all(label != item.label for item in self._items)

    def _ordered(self) -> list[_Item]:
        return sorted(self._items, key=lambda item: item.label)


def as_input(images: Tensor) -> Tensor:
    """Return images as floating numbers, which models take."""
    return images if images.is_floating_point() else images.float()


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)
