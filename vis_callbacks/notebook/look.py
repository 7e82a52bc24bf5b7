"""Look at a model with any callbacks, without a Trainer: one shared pass, and a page that shows itself."""

import html
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from PIL import Image
from torch import Tensor, nn

from vis_callbacks import checks
from vis_callbacks.callback import VisualizationCallback
from vis_callbacks.data.batches import load_images
from vis_callbacks.data.class_names import find_class_names
from vis_callbacks.data.normalization import Normalization, normalization_of
from vis_callbacks.data.pixels import KNOWN, find_normalization
from vis_callbacks.data.samples import UNKNOWN, Samples
from vis_callbacks.data.targets import class_index
from vis_callbacks.errors import ConfigurationError, SubjectError
from vis_callbacks.event import Event, Moment, SharedPass
from vis_callbacks.model.batching import CPU_PIXELS, pixels_of
from vis_callbacks.model.evidence import find_subject
from vis_callbacks.model.guard import device_of, seed_all, undisturbed
from vis_callbacks.model.inputs import check_images
from vis_callbacks.model.pretrained_cfg import stated_input_size
from vis_callbacks.model.subject import Forward, Subject, network_of
from vis_callbacks.notebook.figure import PictureFigure
from vis_callbacks.output.destinations import Destinations
from vis_callbacks.output.render import render
from vis_callbacks.output.writer import Output, record_of
from vis_callbacks.panel import Panel
from vis_callbacks.report.html import write_report
from vis_callbacks.run.technique import Watcher

Pictured: TypeAlias = Tensor | str | Path | Image.Image
"""An image ``(C, H, W)`` or images ``(N, C, H, W)`` in model space, an image file, or a picture of Pillow."""

_SIDE = 224
_PAGE_HEIGHT = 720


@dataclass(frozen=True, repr=False)
class Look:
    """What `look` has found; a notebook shows it as a page.

    Attributes:
        panels: The pictures as numbers, callback by callback.
        callbacks: The name of each panel's callback.
        images: The images in the model's input space, ``(N, C, H, W)``, as functions take them.
        model: Class name of the network.
        about: What each callback shows, by its name.
        facts: What is known of the network and the pixels.
    """

    panels: tuple[Panel, ...]
    callbacks: tuple[str, ...]
    images: Tensor
    model: str
    about: dict[str, str]
    facts: dict[str, object]

    def __repr__(self) -> str:
        """Return in one line what was found, not the numbers of the pictures."""
        names = ", ".join(dict.fromkeys(self.callbacks))
        return f"<Look at {self.model}: {len(self.panels)} pictures of {names}; .save('look.html'), .figure(), .panels>"

    def figure(self) -> PictureFigure:
        """Return all pictures below each other, as a figure of matplotlib."""
        titles = [f"{name}: {panel.name}" for name, panel in zip(self.callbacks, self.panels, strict=True)]
        return PictureFigure([render(panel) for panel in self.panels], titles)

    def save(self, path: str | Path) -> Path:
        """Write the page, or a picture of all panels, and return the path; missing folders are created.

        Args:
            path: Ends in ``.html`` for the page, else in that of an image format, such as ``.png``.

        Raises:
            ConfigurationError: If the ending means no format.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in (".html", ".htm"):
            self._write_page(path)
            return path
        figure = self.figure()
        if path.suffix[1:].lower() not in figure.canvas.get_supported_filetypes():
            raise ConfigurationError(f"file {path.name!r}: expected an ending such as .html or .png")
        figure.save(path)
        return path

    def _repr_html_(self) -> str:
        """Return the page as a notebook shows it."""
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder, "look.html")
            self._write_page(page)
            text = html.escape(page.read_text("utf-8"))
        style = f"width:100%;height:{_PAGE_HEIGHT}px;border:0"
        return f'<iframe srcdoc="{text}" style="{style}" title="{html.escape(self.model)}"></iframe>'

    def _write_page(self, path: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            output = Output(folder, [])
            for index, (callback, panel) in enumerate(zip(self.callbacks, self.panels, strict=True)):
                record = record_of(panel, callback=callback, epoch=0, step=0, stage="look")
                output.put(index, record, panel, Destinations(tensorboard=False), None, {})
            output.end_event({**self.facts, "model": self.model, "about": self.about, "updated": time.time()})
            output.drain(timeout=600)
            for _, problem in output.problems():
                raise problem
            write_report(folder, path)


def look(
    model: nn.Module,
    images: Pictured | Sequence[Pictured],
    callbacks: VisualizationCallback | Sequence[VisualizationCallback],
    *,
    labels: Tensor | Sequence[int | str] | int | str | None = None,
    class_names: Sequence[str] | None = None,
    size: int | Sequence[int] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> Look:
    """Make the pictures of callbacks for some images, without a Trainer. One forward and backward serves all that can.

    The model is left as it was found. Pictures and files are resized and cropped to what the model was made for, and
    normalised like its training images, as far as it says so (timm does); tensors are taken as they are.

    Args:
        model: From images to logits, or a module that holds what does.
        images: One or several, see `Pictured`; each callback looks at all of them.
        callbacks: One or several. Their options on schedule and samples mean nothing here.
        labels: The true classes, by number or name; one for all, or one for each image. None: not known.
        class_names: Names of the classes, by number. None: found.
        size: Height and width to which files and pictures are brought, or one number for both. None: the model's, else
            224.
        mean: Mean that is subtracted from pixels in [0, 1]. None: the model's, else that of ImageNet for colours.
        std: Standard deviation that they are divided by. None: in the same way.

    Returns:
        A `Look`: it shows itself in a notebook, and has ``panels``, ``figure()`` and ``save(path)``.

    Raises:
        ConfigurationError: If an argument or an option of a callback does not fit the model.
        SubjectError: If nothing in the module maps images to logits.

    Example:
        >>> import torch
        >>> from vis_callbacks import GradCAM, Saliency
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
        >>> seen = look(net, torch.rand(2, 3, 16, 16), [GradCAM(), Saliency(targets="dog")], class_names=["cat", "dog"])
        >>> [panel.name for panel in seen.panels]
        ['sample_0', 'sample_1', 'sample_0', 'sample_1']
    """
    techniques = [callbacks] if isinstance(callbacks, VisualizationCallback) else list(callbacks)
    for one in techniques:
        if isinstance(one, Watcher):
            raise ConfigurationError(f"{one.name} watches a training: there is none here, add it to a Trainer")
        if not isinstance(one, VisualizationCallback):
            raise checks.refused("callbacks", one, "callbacks of pictures, such as GradCAM()")
    if not techniques:
        raise ConfigurationError("callbacks is empty: expected one or several, such as GradCAM()")
    given = [images] if isinstance(images, (Tensor, str, Path, Image.Image)) else list(images)
    shared_names = tuple(class_names or ())
    samples = _samples(model, given, size, _normalization(mean, std))
    names = shared_names or find_class_names(model, [model])[0]
    samples = Samples(
        samples.images,
        _labels(labels, len(samples), names),
        samples.names,
        names,
        samples.normalization,
        samples.pixel_source,
    )
    # To find one may take a pass: of as many images as go through the model at once.
    few = samples.images[: max(1, CPU_PIXELS // pixels_of(samples.images))]
    forwards = dict.fromkeys(one.forward for one in techniques)
    subjects = {forward: find_subject(model, forward=forward, images=few) for forward in forwards}
    made = list(_panels(model, samples, techniques, subjects))
    kinds = {one.name: (type(one).__doc__ or "").split(". ")[0].split("\n\n")[0].rstrip(".") for one in techniques}
    subject = subjects[techniques[0].forward]
    return Look(
        panels=tuple(panel for _, panel in made),
        callbacks=tuple(name for name, _ in made),
        images=samples.images,
        model=subject.kind or type(model).__name__,
        about={name: f"{text}." for name, text in kinds.items()},
        facts={"subject": subject.as_dict(), "pixels": samples.pixel_source},
    )


def _panels(
    model: nn.Module,
    samples: Samples,
    techniques: Sequence[VisualizationCallback],
    subjects: Mapping[Forward, Subject],
) -> Iterator[tuple[str, Panel]]:
    """Make the pictures of all techniques under one guard, from passes that those with the same targets share."""
    device = device_of(model)
    samples = samples.to(device)
    passes: dict[object, SharedPass] = {}
    events: list[tuple[VisualizationCallback, Event]] = []
    # Outside of the guard, which seeds: a technique that cannot work says so before any picture is made.
    for technique in techniques:
        subject = subjects[technique.forward]
        if not subject.runs:
            raise SubjectError(subject.problem)
        network = network_of(model, subject, technique.forward)
        technique.check(network)
        technique.check_classes(samples.class_names)
        shared = None
        if technique.uses_samples:
            shared = passes.setdefault(
                (subject.network, technique.forward, technique.targets), SharedPass(network, samples, technique.targets)
            )
        event = Event(network, Moment(0, 0, "look"), technique.seed, shared, subject=subject)
        events.append((technique, event))
    with undisturbed(model):
        asked = []
        for technique, event in events:
            if event.shared is not None:
                needs = technique.needs(event)
                event.shared.add(needs, event.subject)
                event = Event(event.model, event.moment, event.seed, event.shared, subject=event.subject, needs=needs)
            asked.append((technique, event))
        for technique, event in asked:
            seed_all(technique.seed, device)
            for panel in technique.visualize(event):
                yield technique.name, panel
            if event.shared is not None:
                event.shared.release(event.needs)


def _samples(
    model: nn.Module, given: Sequence[Pictured], size: int | Sequence[int] | None, asked: Normalization | None
) -> Samples:
    """Return images in model space, with names and what is known of their pixels."""
    if not given:
        raise ConfigurationError("images is empty: expected one or several")
    files = [one for one in given if not isinstance(one, Tensor)]
    tensors = [one if one.ndim == 4 else one[None] for one in given if isinstance(one, Tensor)]
    if files and tensors:
        raise ConfigurationError("images are tensors and pictures: give all as tensors, or all as pictures or files")
    if tensors:
        images = torch.cat([tensor.detach().as_subclass(Tensor) for tensor in tensors])
        check_images(images)
        normalization, source = (asked, "given") if asked else find_normalization(images, model, [model])
        return Samples(images, _unknown(len(images)), _numbered(len(images)), (), normalization, source)
    stated = stated_input_size(model)
    channels = stated[0] if stated else _channels(model)
    sides = checks.sides("size", size) if size is not None else (stated[1], stated[2]) if stated else (_SIDE, _SIDE)
    own, source = normalization_of(model), "the model's pretrained_cfg"
    if asked is not None:
        own, source = asked, "given"
    elif own is None:
        source = "ImageNet statistics" if channels == 3 else "values in [0, 1]"
        own = KNOWN[source]
    images = load_images(files, size=sides, channels=channels, normalization=own)
    names = [Path(one).stem if isinstance(one, (str, Path)) else f"sample_{at}" for at, one in enumerate(files)]
    unique = tuple(name if names.count(name) == 1 else f"{name}_{at}" for at, name in enumerate(names))
    return Samples(images, _unknown(len(images)), unique, (), own, source)


def _channels(model: nn.Module) -> int:
    first = next((one for one in model.modules() if isinstance(one, nn.Conv2d)), None)
    return first.in_channels if first is not None and first.in_channels in (1, 3) else 3


def _unknown(count: int) -> Tensor:
    return torch.full((count,), UNKNOWN)


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"sample_{index}" for index in range(count))


def _normalization(mean: float | Sequence[float] | None, std: float | Sequence[float] | None) -> Normalization | None:
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise ConfigurationError("mean and std belong together: give both, or none")
    return Normalization.of(mean, std)


def _labels(
    labels: Tensor | Sequence[int | str] | int | str | None, count: int, class_names: tuple[str, ...]
) -> Tensor:
    if labels is None:
        return _unknown(count)
    if isinstance(labels, Tensor):
        labels = labels.reshape(-1).tolist()
    several = [labels] * count if isinstance(labels, (int, str)) else list(labels)
    if len(several) != count:
        raise ConfigurationError(f"{len(several)} labels for {count} images: give one for each, or one for all")
    return torch.tensor([class_index(one if isinstance(one, str) else int(one), class_names) for one in several])
