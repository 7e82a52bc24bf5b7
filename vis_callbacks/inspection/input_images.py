"""Input images: the batch as the network gets it, of training and of validation."""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from typing_extensions import Unpack

from vis_callbacks import checks
from vis_callbacks.callback import SharedOptions, VisualizationCallback
from vis_callbacks.data.batches import Batch, read_batch
from vis_callbacks.data.pixels import find_normalization
from vis_callbacks.data.samples import Samples
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.event import Event
from vis_callbacks.inspection.filters import columns_for
from vis_callbacks.model.calls import alike, is_compiled
from vis_callbacks.model.looks import Look
from vis_callbacks.model.subject import Subject, part_of
from vis_callbacks.panel import Panel, Tile


@dataclass(frozen=True)
class _Seen:
    """The first images of a pass through the data.

    Attributes:
        batch: As the loader gave them, with labels.
        part: Number of the pass.
        images: What went into the network. None: it is not known yet.
    """

    batch: Batch
    part: int
    images: Tensor | None = None


class InputImages(VisualizationCallback):
    """Shows a batch of training and one of validation as the network gets them: augmented, normalised, with labels.

    The first batch of each pass is shown, with the pixels that went into the network, whatever the loader, the transfer
    to the device or the step itself did to them. Both sets are displayed in the same way, so that a difference between
    their transforms shows.

    Args:
        images: How many images of each batch.
        options: Shared by all callbacks, see `VisualizationCallback`.

    Raises:
        ConfigurationError: If an option has a wrong value.

    Example:
        >>> InputImages(images=9).name
        'InputImages'
    """

    def __init__(self, images: int = 16, **options: Unpack[SharedOptions]) -> None:
        super().__init__(**options)
        self.images = checks.whole("images", images)
        self._seen: dict[str, _Seen] = {}
        self._look: Look | None = None

    # What the run tells of the training.

    def training_starts(self, module: nn.Module, optimized: frozenset[int]) -> None:
        """Forget the batches of an earlier training."""
        del module, optimized
        self._seen = {}

    def batch_starts(
        self, stage: str, epoch: int, part: int, module: nn.Module, batch: Any, subject: Subject | None
    ) -> None:
        """Copy the first images of a pass, and look at what goes into the network."""
        del epoch
        self.stop_watching()
        seen = self._seen.get(stage)
        # In the first pass the network is known from the second batch on.
        if seen is not None and seen.part == part and (seen.images is not None or subject is None):
            return
        try:
            found = read_batch(self.sample_request.batch_to_images, batch)
        except ConfigurationError:
            # The callbacks that show the run's samples say so.
            return
        first = {
            name: one[: self.images].detach().to("cpu", copy=True)
            for name, one in vars(found).items()
            if one is not None
        }
        compiled = subject is not None and is_compiled(module)
        self._seen[stage] = _Seen(Batch(**first), part, first["images"] if compiled else None)
        if subject is not None and not compiled:
            self._look = Look(part_of(module, subject.network), inputs=self.images)

    def batch_ends(self, stage: str, module: nn.Module, outputs: Any, optimized: Callable[[], frozenset[int]]) -> None:
        """Keep what went into the network."""
        del module, outputs, optimized
        look, seen = self._look, self._seen.get(stage)
        self.stop_watching()
        if look is not None and seen is not None:
            # Where nothing was seen, the batch itself must do.
            images = seen.batch.images if look.images is None else look.images
            self._seen[stage] = dataclasses.replace(seen, images=images)

    def training_ends(self, epoch: int) -> None:
        """There is nothing left to say."""

    def stop_watching(self) -> None:
        """Take the hook from the network."""
        if self._look is not None:
            self._look.stop()
            self._look = None

    # What makes the pictures.

    def visualize(self, event: Event) -> Iterable[Panel]:
        """Show each batch in one panel."""
        for stage, name in (("train", "training"), ("validation", "validation")):
            seen = self._seen.get(stage)
            if seen is not None and event.moment.stage == "fit" and event.moment.epoch:
                yield self._panel(name, seen, event)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without what was seen in one training."""
        return {**super().__getstate__(), "_seen": {}, "_look": None}

    def _panel(self, name: str, seen: _Seen, event: Event) -> Panel:
        images, samples = seen.batch.images if seen.images is None else seen.images, event.samples
        values = images.float()
        mean, deviation = float(values.mean()), float(values.std()) if values.numel() > 1 else 0.0
        normalization = samples.normalization
        if images.shape != seen.batch.images.shape or not alike(images, seen.batch.images):
            # The step has changed them, and may have normalised them: their values tell.
            normalization, _ = find_normalization(images, event.model, (), bands=samples.bands)
        pixels = samples.displayable(normalization.to_pixels(values))
        tiles = [Tile(one, caption=_label(seen.batch, index, samples)) for index, one in enumerate(pixels)]
        height, width = images.shape[-2:]
        return Panel(
            name,
            tiles,
            columns=columns_for(len(tiles)),
            captions_inside=True,
            caption=f"a batch of {name}, as the network gets it; {height}×{width}, values "
            f"{float(values.min()):.3g} to {float(values.max()):.3g}, mean {mean:.3g}, deviation {deviation:.3g}",
            scalars={"mean": mean, "deviation": deviation},
        )


def _label(batch: Batch, index: int, samples: Samples) -> str:
    """Return what a batch says about an image, as text."""
    if batch.truths is not None and index < len(batch.truths) and int(batch.truths[index].sum()) != 1:
        return " + ".join(samples.class_name(number) for number in batch.truths[index].nonzero()[:, 0].tolist())
    if batch.labels is not None and index < len(batch.labels):
        label = int(batch.labels[index])
        return samples.class_name(label) if label >= 0 else ""
    if batch.values is not None and index < len(batch.values):
        return ", ".join(f"{value:.3g}" for value in batch.values[index].reshape(-1)[:3].tolist())
    return ""
