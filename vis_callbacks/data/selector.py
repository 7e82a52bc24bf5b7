"""Select each callback's samples once, and find their labels, names and normalization."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from vis_callbacks import checks
from vis_callbacks.data.batches import BatchToImages, images_and_labels, load_images, read_batch
from vis_callbacks.data.class_names import find_class_names
from vis_callbacks.data.normalization import (
    Normalization,
    normalization_from,
    normalization_in,
    normalization_of,
)
from vis_callbacks.data.samples import UNKNOWN, Samples
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.model.pretrained_cfg import stated_input_size

SampleSource: TypeAlias = int | Literal["per_class"] | Tensor | Sequence[str] | Sequence[Path]
"""The first n images of the data, one image per class, images in model space ``(N, C, H, W)``, or image files."""

MOST_CLASSES = 100  # images that ``"per_class"`` takes at most


@dataclass(frozen=True)
class SampleRequest:
    """The samples that a callback asks for.

    Attributes:
        source: Which images, see `SampleSource`.
        normalization: From pixels to model inputs. None: found automatically.
        class_names: Names of the classes. Empty: found automatically.
        batch_to_images: How to read a batch. None: found automatically.

    Raises:
        ConfigurationError: If the source is not a `SampleSource`.
    """

    source: SampleSource
    normalization: Normalization | None = None
    class_names: tuple[str, ...] = ()
    batch_to_images: BatchToImages | None = None

    def __post_init__(self) -> None:
        source = self.source
        if isinstance(source, Tensor):
            if source.ndim != 4 or not source.is_floating_point() or not len(source):
                raise ConfigurationError(
                    f"samples: found a {source.dtype} tensor {tuple(source.shape)}, expected floating (N, C, H, W)"
                )
        elif isinstance(source, Integral):
            object.__setattr__(self, "source", checks.whole("samples", source))
        elif not isinstance(source, str) or source != "per_class":
            expected = "a whole number from 1, 'per_class', a tensor (N, C, H, W) or a list of image files"
            if not isinstance(source, Sequence):
                raise checks.refused("samples", source, expected)
            checks.several("samples", source, _image_file, expected)
        checks.optional(checks.function, "batch_to_images", self.batch_to_images)

    @cached_property
    def key(self) -> str:
        """Equal for requests that select the same images, also across processes."""
        source = self.source
        reader = f" by {getattr(self.batch_to_images, '__qualname__', 'a hook')}" if self.batch_to_images else ""
        if isinstance(source, Tensor):
            return fingerprint(source)
        if isinstance(source, (int, str)):
            return f"{source}{reader}"
        return "files " + ", ".join(map(str, source))


def _image_file(name: str, path: Any) -> str | Path:
    if not isinstance(path, (str, Path)):
        raise checks.refused(name, path, "an image file")
    if not Path(path).is_file():
        raise ConfigurationError(f"{name}: no file {str(path)!r}")
    return path


def fingerprint(tensor: Tensor) -> str:
    """Return a short text that identifies a tensor's values, also across processes."""
    plain = tensor.detach().cpu().float() if tensor.is_floating_point() else tensor.detach().cpu()
    digest = hashlib.sha256(plain.contiguous().numpy().tobytes()).hexdigest()
    return f"tensor {tuple(tensor.shape)} {digest[:16]}"


class SampleSelector:
    """Holds the samples of one Trainer's callbacks: selected once, then the same throughout training."""

    def __init__(self) -> None:
        self._collectors: dict[str, Collector] = {}
        self._chosen: dict[str, tuple[Tensor, Tensor]] = {}
        self._found: dict[str, Samples] = {}
        self._problems: dict[str, Exception] = {}
        self._shape: torch.Size | None = None
        self._shape_reader: BatchToImages | None = None
        self._shape_problem: Exception | None = None
        self._classes: int | None = None

    def request(self, request: SampleRequest) -> None:
        """Announce a request, so that samples for it are taken from the coming batches."""
        source = request.source
        if isinstance(source, (int, str)):
            if request.key not in self._chosen:
                classes = len(request.class_names) or self._classes
                collector = Collector(source, classes=classes, batch_to_images=request.batch_to_images)
                self._collectors.setdefault(request.key, collector)
        elif not isinstance(source, Tensor):
            self._shape_reader = request.batch_to_images or self._shape_reader or images_and_labels

    @property
    def wants_batches(self) -> bool:
        """Whether any request still needs batches."""
        shape_wanted = self._shape_reader is not None and self._shape is None
        return shape_wanted or any(not collector.complete for collector in self._collectors.values())

    def pass_start(self) -> None:
        """Start a new pass through the data: incomplete collections start again from its beginning."""
        for collector in self._collectors.values():
            if not collector.complete:
                collector.restart()

    def observe(self, batch: Any) -> None:
        """Take what is needed from a batch. If it has no images, `samples` raises the error later."""
        for key, collector in self._collectors.items():
            if not collector.complete:
                try:
                    collector.observe(batch)
                    self._problems.pop(key, None)
                except Exception as error:
                    self._problems[key] = error
        if self._shape_reader is not None and self._shape is None:
            try:
                self._shape = read_batch(self._shape_reader, batch)[0].shape[1:]
            except Exception as error:
                self._shape_problem = error

    def set_class_count(self, count: int) -> None:
        """Set the number of classes, at which ``"per_class"`` is complete."""
        self._classes = count
        for collector in self._collectors.values():
            collector.expect_classes(count)

    def samples(
        self, request: SampleRequest, model: nn.Module, holders: Iterable[Any], *, enough: bool
    ) -> Samples | None:
        """Return the samples of a request, or None if more batches are needed first.

        Args:
            request: Which samples.
            model: May hold normalization and class names.
            holders: Datasets, data modules and modules, which may hold them too.
            enough: Whether all batches were seen, so that fewer samples than requested are returned.

        Raises:
            ConfigurationError: If there will never be any.
        """
        identity = f"{request.key} {request.normalization} {request.class_names}"
        if identity not in self._found:
            holders = list(holders)
            chosen = self._choose(request, model, holders, enough=enough)
            if chosen is None:
                return None
            images, labels = chosen
            class_names = request.class_names or find_class_names(model, holders)
            self._found[identity] = Samples(
                images=images,
                labels=labels,
                names=_names(request, labels, class_names),
                class_names=class_names,
                normalization=_normalization(request, images, model, holders),
            )
        return self._found[identity]

    @property
    def known(self) -> Mapping[str, Samples]:
        """All samples returned so far."""
        return self._found

    def take_over(self, known: Mapping[str, Samples]) -> None:
        """Use the samples that another process has selected."""
        self._found.update(known)

    def state_dict(self) -> dict[str, Any]:
        """Return what was selected from batches, as tensors and strings only, which any checkpoint can hold."""
        return {key: {"images": images, "labels": labels} for key, (images, labels) in self._chosen.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Use the samples of a checkpoint."""
        for key, value in state.items():
            self._chosen[key] = (value["images"], value["labels"])
            self._collectors.pop(key, None)

    def _choose(
        self, request: SampleRequest, model: nn.Module, holders: Sequence[Any], *, enough: bool
    ) -> tuple[Tensor, Tensor] | None:
        source = request.source
        if isinstance(source, Tensor):
            return source.detach().clone(), torch.full((len(source),), UNKNOWN)
        if isinstance(source, (int, str)):
            collector = self._collectors.get(request.key)
            if collector is None:
                return self._chosen.get(request.key)
            if collector.complete or (enough and not collector.empty):
                self._chosen[request.key] = collector.samples()
                del self._collectors[request.key]
                return self._chosen[request.key]
            if collector.empty and request.key in self._problems:
                raise self._problems[request.key].with_traceback(None)
            if enough:
                raise ConfigurationError(
                    "the batches had no labels, which samples='per_class' needs: give a number, or batch_to_images="
                    if source == "per_class"
                    else "no batch was seen to take samples from: give samples= as a tensor or image files"
                )
            return None
        shape = self._shape or stated_input_size(model)
        if shape is None and self._shape_problem is not None:
            raise self._shape_problem.with_traceback(None)
        if shape is None:
            return None
        normalization = request.normalization or _stated_normalization(model, holders) or Normalization()
        images = load_images(source, size=(shape[1], shape[2]), channels=shape[0], normalization=normalization)
        return images, torch.full((len(images),), UNKNOWN)


class Collector:
    """Takes samples from batches and keeps copies of them.

    Args:
        source: A number of samples, or ``"per_class"``.
        classes: Number of classes, if known: ``"per_class"`` is complete when each was seen.
        batch_to_images: How to read a batch. None: found automatically.
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
        """Set the number of classes, when it becomes known."""
        self._classes = min(count, MOST_CLASSES)

    def restart(self) -> None:
        """Drop all samples and start again."""
        self._images, self._labels = [], []

    def take_over(self, images: Tensor, labels: Tensor) -> None:
        """Replace the samples by those of another collector."""
        self._images, self._labels = list(images), labels.tolist()

    @property
    def complete(self) -> bool:
        """Whether all samples were taken."""
        if self._source == "per_class":
            return len(self._images) >= (self._classes or MOST_CLASSES)
        return len(self._images) >= int(self._source)

    @property
    def empty(self) -> bool:
        """Whether no sample was taken yet."""
        return not self._images

    def __len__(self) -> int:
        return len(self._images)

    def observe(self, batch: Any) -> None:
        """Take the samples that are still missing from a batch, which is not changed.

        Raises:
            ConfigurationError: If the batch has no images.
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
        """Return images ``(N, C, H, W)`` and labels ``(N,)``; ``"per_class"`` sorts them by class."""
        order = list(range(len(self._images)))
        if self._source == "per_class":
            order = sorted(order, key=self._labels.__getitem__)
        with torch.inference_mode(False):
            images = torch.stack([self._images[index] for index in order])
            labels = torch.tensor([self._labels[index] for index in order])
        return images if images.is_floating_point() else images.float(), labels


def _stated_normalization(model: nn.Module, holders: Iterable[Any]) -> Normalization | None:
    return next((found for holder in holders if (found := normalization_in(holder))), None) or normalization_of(model)


def _normalization(request: SampleRequest, images: Tensor, model: nn.Module, holders: Iterable[Any]) -> Normalization:
    channels = images.shape[1]
    if request.normalization is not None:
        return request.normalization
    guessed = normalization_from(images.float())
    # Images in [0, 1] are not normalised, whatever the model was trained with or does to them itself.
    normalized = guessed != Normalization()
    candidates = [normalization_in(holder) for holder in holders if normalized or not isinstance(holder, nn.Module)]
    if normalized:
        candidates.append(normalization_of(model))
    for found in candidates:
        if found is not None and found.suits(channels):
            pixels = found.to_pixels(images.float())
            if pixels.min() > -0.1 and pixels.max() < 1.1:
                return found
    return guessed


def _names(request: SampleRequest, labels: Tensor, class_names: tuple[str, ...]) -> tuple[str, ...]:
    source = request.source
    if source == "per_class":
        return tuple(class_names[label] if label < len(class_names) else str(label) for label in labels.tolist())
    if isinstance(source, (int, str, Tensor)):
        return tuple(f"sample_{index}" for index in range(len(labels)))
    stems = [Path(path).stem for path in source]
    return tuple(stem if stems.count(stem) == 1 else f"{stem}_{index}" for index, stem in enumerate(stems))
