"""Select each callback's samples once, and find their labels, names and normalization."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from vis_callbacks import checks
from vis_callbacks.data.batches import Batch, BatchToImages, load_images, read_batch
from vis_callbacks.data.class_names import find_class_names
from vis_callbacks.data.collectors import ClassCollector, Collector, SpreadCollector, as_input
from vis_callbacks.data.normalization import Normalization
from vis_callbacks.data.pixels import find_normalization
from vis_callbacks.data.samples import UNKNOWN, Samples
from vis_callbacks.errors import ConfigurationError, brief
from vis_callbacks.model.pretrained_cfg import stated_input_size

SampleSource: TypeAlias = int | Literal["per_class"] | Tensor | Sequence[str] | Sequence[Path]
"""N images spread over the classes, one image per class, images in model space ``(N, C, H, W)``, or image files."""

_FEW = 8
"""Images of a batch by which the pixels of image files are normalised."""


@dataclass(frozen=True)
class SampleRequest:
    """The samples that a callback asks for.

    Attributes:
        source: Which images, see `SampleSource`.
        normalization: From pixels to model inputs. None: found automatically.
        class_names: Names of the classes. Empty: found automatically.
        batch_to_images: How to read a batch. None: found automatically.
        bands: The channels that are shown. None: the first three, or the mean of two.

    Raises:
        ConfigurationError: If the source is not a `SampleSource`.
    """

    source: SampleSource
    normalization: Normalization | None = None
    class_names: tuple[str, ...] = ()
    batch_to_images: BatchToImages | None = None
    bands: tuple[int, ...] | None = None

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
    """Holds the samples of one Trainer's callbacks: selected once, then the same throughout training.

    They are selected as soon as images of enough classes have passed by, at the latest when the first pass through the
    data ends. A picture that is due earlier takes what was seen, if that is of several classes, else it waits.
    """

    def __init__(self) -> None:
        self._collectors: dict[str, Collector] = {}
        self._chosen: dict[str, Batch] = {}
        self._found: dict[str, Samples] = {}
        self._problems: dict[str, Exception] = {}
        self._reads_shape = False
        self._shape_reader: BatchToImages | None = None
        self._first: Tensor | None = None
        self._shape_problem: Exception | None = None
        self._classes: int | None = None
        self.name_problem = ""
        """Why the class names that were found are not used, as one sentence; "" if they are."""
        self.batch_problem = ""
        """Why fewer samples were taken than were asked for, as one sentence; "" if nothing failed."""

    def request(self, request: SampleRequest) -> None:
        """Announce a request, so that samples for it are taken from the coming batches."""
        source, classes = request.source, len(request.class_names) or self._classes
        if isinstance(source, (int, str)):
            if request.key not in self._chosen | self._collectors:
                read = request.batch_to_images
                self._collectors[request.key] = (
                    ClassCollector(classes=classes, batch_to_images=read)
                    if isinstance(source, str)
                    else SpreadCollector(source, classes=classes, batch_to_images=read)
                )
        elif not isinstance(source, Tensor):
            self._reads_shape, self._shape_reader = True, request.batch_to_images or self._shape_reader

    @property
    def wants_batches(self) -> bool:
        """Whether any request still needs batches."""
        shape_wanted = self._reads_shape and self._first is None
        return shape_wanted or any(not collector.complete for collector in self._collectors.values())

    @property
    def has_seen(self) -> bool:
        """Whether any image has been kept."""
        return any(not collector.empty for collector in self._collectors.values())

    @property
    def labels(self) -> set[int]:
        """The labels that were seen so far."""
        seen = {label for collector in self._collectors.values() for label in collector.labels}
        chosen = [batch.labels for batch in self._chosen.values() if batch.labels is not None]
        return seen.union(*(labels.tolist() for labels in chosen))

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
        if self._reads_shape and self._first is None:
            try:
                images = read_batch(self._shape_reader, batch).images[:_FEW]
                self._first = images.detach().to("cpu", copy=True)
            except Exception as error:
                self._shape_problem = error

    def set_class_count(self, count: int) -> None:
        """Set the number of classes, which tells when samples are of as many as there are."""
        self._classes = count
        for collector in self._collectors.values():
            if isinstance(collector, (SpreadCollector, ClassCollector)):
                collector.classes = count

    def samples(
        self,
        request: SampleRequest,
        model: nn.Module,
        holders: Iterable[Any],
        *,
        enough: bool,
        now: bool = False,
        width: int | None = None,
    ) -> Samples | None:
        """Return the samples of a request, or None if more batches are needed first.

        Args:
            request: Which samples.
            model: May hold normalization and class names.
            holders: Datasets, data modules and modules, which may hold them too.
            enough: Whether all batches were seen, so that what was seen must do, whatever it is.
            now: Whether a picture cannot be made later, so that what was seen must do, if it is of several classes.
            width: Number of classes by the model's outputs, if known.

        Raises:
            ConfigurationError: If there will never be any.
        """
        if width is not None and self._classes is None:
            self.set_class_count(width)
        identity = f"{request.key} {request.normalization} {request.class_names} {request.bands}"
        if identity not in self._found:
            holders = list(holders)
            chosen = self._choose(request, model, holders, enough=enough, now=now)
            if chosen is None:
                return None
            batch, normalization, source = chosen
            assert batch.labels is not None
            class_names = request.class_names
            if not class_names:
                width = width if batch.truths is None else batch.truths.shape[1]
                class_names, self.name_problem = find_class_names(model, holders, labels=self.labels, width=width)
            self._found[identity] = Samples(
                images=as_input(batch.images),
                labels=batch.labels,
                names=_names(request, batch.labels, class_names),
                class_names=class_names,
                normalization=normalization,
                pixel_source=source,
                bands=request.bands,
                truths=batch.truths,
                values=batch.values,
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
        return {
            key: {name: value for name, value in vars(batch).items() if value is not None}
            for key, batch in self._chosen.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Use the samples of a checkpoint."""
        for key, value in state.items():
            self._chosen[key] = Batch(**value)
            self._collectors.pop(key, None)

    def _choose(
        self, request: SampleRequest, model: nn.Module, holders: Sequence[Any], *, enough: bool, now: bool
    ) -> tuple[Batch, Normalization, str] | None:
        """Return the images with labels, their normalization and its source."""
        source = request.source
        if isinstance(source, (int, str)):
            batch = self._taken(request, enough=enough, now=now)
        elif isinstance(source, Tensor):
            batch = Batch(source.detach().as_subclass(Tensor).clone(), torch.full((len(source),), UNKNOWN))
        else:
            return self._loaded(request, source, model, holders)
        return None if batch is None else (batch, *_normalization(request, batch.images, model, holders))

    def _taken(self, request: SampleRequest, *, enough: bool, now: bool) -> Batch | None:
        """Return what was taken from batches."""
        collector = self._collectors.get(request.key)
        if collector is None:
            return self._chosen.get(request.key)
        if collector.ready or (now and collector.usable) or (enough and not collector.empty):
            chosen = self._chosen[request.key] = collector.batch()
            del self._collectors[request.key]
            if not collector.ready and (problem := self._problems.get(request.key)):
                self.batch_problem = (
                    f"Only {len(chosen.images)} images are shown, as later batches could not be read: "
                    f"{brief(problem)}. Look at what the loader returns, or give batch_to_images="
                )
            return self._chosen[request.key]
        if collector.empty and request.key in self._problems:
            raise self._problems[request.key].with_traceback(None)
        if enough:
            raise ConfigurationError(
                "the batches had no labels, which samples='per_class' needs: give a number, or batch_to_images="
                if request.source == "per_class"
                else "no batch was seen to take samples from: give samples= as a tensor or image files"
            )
        return None

    def _loaded(
        self,
        request: SampleRequest,
        files: Sequence[str] | Sequence[Path],
        model: nn.Module,
        holders: Sequence[Any],
    ) -> tuple[Batch, Normalization, str] | None:
        """Return image files as the model's own images are: of their size, and normalised like them."""
        shape = stated_input_size(model) if self._first is None else tuple(self._first.shape[1:])
        if shape is None and self._shape_problem is not None:
            raise self._shape_problem.with_traceback(None)
        if shape is None:
            return None
        # Without a batch, what is stated cannot be contradicted.
        first = torch.full((1, *shape), math.nan) if self._first is None else self._first
        normalization, found = _normalization(request, first, model, holders)
        images = load_images(files, size=(shape[1], shape[2]), channels=shape[0], normalization=normalization)
        return Batch(images, torch.full((len(images),), UNKNOWN)), normalization, found


def _normalization(
    request: SampleRequest, images: Tensor, model: nn.Module, holders: Sequence[Any]
) -> tuple[Normalization, str]:
    channels = images.shape[1]
    if request.bands is not None and max(request.bands) >= channels:
        raise ConfigurationError(f"bands={request.bands}: the images have {channels} channels, 0 to {channels - 1}")
    if request.normalization is not None:
        return request.normalization, "given as mean= and std="
    return find_normalization(images, model, holders, bands=request.bands)


def _names(request: SampleRequest, labels: Tensor, class_names: tuple[str, ...]) -> tuple[str, ...]:
    source = request.source
    if source == "per_class":
        return tuple(class_names[label] if label < len(class_names) else str(label) for label in labels.tolist())
    if isinstance(source, (int, str, Tensor)):
        return tuple(f"sample_{index}" for index in range(len(labels)))
    stems = [Path(path).stem for path in source]
    return tuple(stem if stems.count(stem) == 1 else f"{stem}_{index}" for index, stem in enumerate(stems))
