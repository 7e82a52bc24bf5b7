"""Chooses each callback's samples, once, and finds what is known about them."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vis_callbacks import checks
from vis_callbacks.data.normalization import (
    Normalization,
    normalization_from,
    normalization_in,
    normalization_of,
)
from vis_callbacks.data.samples import (
    UNKNOWN,
    BatchToImages,
    Collector,
    Samples,
    SampleSource,
    class_names_in,
    images_and_labels,
    load_images,
    read_batch,
)
from vis_callbacks.errors import ConfigurationError


@dataclass(frozen=True)
class SampleRequest:
    """What a callback asks for.

    Attributes:
        source: Which images, see `SampleSource`.
        normalization: How pixels become model inputs. None: found.
        class_names: Names of the classes. Empty: found.
        batch_to_images: How to read a batch. None: found.

    Raises:
        ConfigurationError: If the source is none.
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
        """The same for requests that choose the same images, also in another process."""
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
    """Return a few characters that tell a tensor from others, also in another process."""
    plain = tensor.detach().cpu().float() if tensor.is_floating_point() else tensor.detach().cpu()
    digest = hashlib.sha256(plain.contiguous().numpy().tobytes()).hexdigest()
    return f"tensor {tuple(tensor.shape)} {digest[:16]}"


class SampleSelector:
    """Holds the samples of one Trainer's callbacks: chosen once, then the same all through."""

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
        """Announce a request, so that passing batches are looked at for it."""
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
        """Whether passing batches still matter."""
        shape_wanted = self._shape_reader is not None and self._shape is None
        return shape_wanted or any(not collector.complete for collector in self._collectors.values())

    def pass_start(self) -> None:
        """The data are gone through from their beginning: what was not completed before is begun anew."""
        for collector in self._collectors.values():
            if not collector.complete:
                collector.restart()

    def offer(self, batch: Any) -> None:
        """Show a passing batch. Where no images are found in it, `samples` says so when they are asked for."""
        for key, collector in self._collectors.items():
            if not collector.complete:
                try:
                    collector.offer(batch)
                    self._problems.pop(key, None)
                except Exception as error:
                    self._problems[key] = error
        if self._shape_reader is not None and self._shape is None:
            try:
                self._shape = read_batch(self._shape_reader, batch)[0].shape[1:]
            except Exception as error:
                self._shape_problem = error

    def classes_are(self, count: int) -> None:
        """Tell the number of classes, so that one sample of each is enough."""
        self._classes = count
        for collector in self._collectors.values():
            collector.expect_classes(count)

    def samples(
        self, request: SampleRequest, model: nn.Module, holders: Iterable[Any], *, enough: bool
    ) -> Samples | None:
        """Return the samples of a request, or None while there are none.

        Args:
            request: What is asked for.
            model: Where normalization and class names may be found.
            holders: Datasets, data modules and modules, where they may be found too.
            enough: Whether all batches have passed by, so that fewer samples than asked for must do.

        Raises:
            ConfigurationError: If there will be none.
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
        """All samples that were asked for so far."""
        return self._found

    def take_over(self, known: Mapping[str, Samples]) -> None:
        """Use the samples that another process has chosen."""
        self._found.update(known)

    def state_dict(self) -> dict[str, Any]:
        """Return what was chosen from passing batches: tensors and strings alone, as checkpoints want it."""
        return {key: {"images": images, "labels": labels} for key, (images, labels) in self._chosen.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the samples of a checkpoint."""
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
                self._chosen[request.key] = collector.taken()
                del self._collectors[request.key]
                return self._chosen[request.key]
            if collector.empty and request.key in self._problems:
                raise self._problems[request.key].with_traceback(None)
            if enough:
                raise ConfigurationError(
                    "the batches had no labels, which samples='per_class' needs: give a number, or batch_to_images="
                    if source == "per_class"
                    else "no batch has passed by: give samples= as a tensor or image files"
                )
            return None
        shape = self._shape or _input_shape(model)
        if shape is None and self._shape_problem is not None:
            raise self._shape_problem.with_traceback(None)
        if shape is None:
            return None
        normalization = request.normalization or _stated_normalization(model, holders) or Normalization()
        images = load_images(source, size=(shape[1], shape[2]), channels=shape[0], normalization=normalization)
        return images, torch.full((len(images),), UNKNOWN)


def find_class_names(model: nn.Module, holders: Iterable[Any]) -> tuple[str, ...]:
    """Return class names stated by a dataset or module, or those of ImageNet for a timm model with 1,000 classes."""
    for holder in holders:
        if names := class_names_in(holder):
            return names
    for module in model.modules():
        config = getattr(module, "pretrained_cfg", None)
        if isinstance(config, dict) and config.get("label_names"):
            return tuple(config["label_names"])
        if isinstance(config, dict) and getattr(module, "num_classes", 0) == config.get("num_classes") == 1000:
            return _imagenet_names()
    return ()


def _imagenet_names() -> tuple[str, ...]:
    # A model with a timm configuration comes from timm, so it is loaded already.
    data = sys.modules.get("timm.data")
    if data is None:
        return ()
    info = data.ImageNetInfo()
    return tuple(info.index_to_description(index) for index in range(1000))


def _stated_normalization(model: nn.Module, holders: Iterable[Any]) -> Normalization | None:
    return next((found for holder in holders if (found := normalization_in(holder))), None) or normalization_of(model)


def _normalization(request: SampleRequest, images: Tensor, model: nn.Module, holders: Iterable[Any]) -> Normalization:
    channels = images.shape[1]
    if request.normalization is not None:
        return request.normalization
    guessed = normalization_from(images.float())
    # Images in [0, 1] were not normalised yet, whatever the model was once trained with, or does to them itself.
    normalized = guessed != Normalization()
    candidates = [normalization_in(holder) for holder in holders if normalized or not isinstance(holder, nn.Module)]
    if normalized:
        candidates.append(normalization_of(model))
    for found in candidates:
        if found is not None and found.fits(channels):
            pixels = found.to_pixels(images.float())
            if pixels.min() > -0.1 and pixels.max() < 1.1:
                return found
    return guessed


def _input_shape(model: nn.Module) -> torch.Size | None:
    for module in model.modules():
        config = getattr(module, "pretrained_cfg", None)
        if isinstance(config, dict) and config.get("input_size"):
            return torch.Size(config["input_size"])
    return None


def _names(request: SampleRequest, labels: Tensor, class_names: tuple[str, ...]) -> tuple[str, ...]:
    source = request.source
    if source == "per_class":
        return tuple(class_names[label] if label < len(class_names) else str(label) for label in labels.tolist())
    if isinstance(source, (int, str, Tensor)):
        return tuple(f"sample_{index}" for index in range(len(labels)))
    stems = [Path(path).stem for path in source]
    return tuple(stem if stems.count(stem) == 1 else f"{stem}_{index}" for index, stem in enumerate(stems))
