"""Base class of the synthesis callbacks: keeps real images of the run, for statistics of natural images."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from numbers import Integral
from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import Unpack

from vis_callbacks import checks
from vis_callbacks._lightning import LightningModule, Trainer
from vis_callbacks.callback import SharedOptions, VisualizationCallback
from vis_callbacks.data.collectors import Collector
from vis_callbacks.data.samples import Samples, resized, size_within
from vis_callbacks.event import Event, Moment
from vis_callbacks.run.run import Run
from vis_callbacks.synthesis.optimization.feature_prior import (
    FeatureStatistics,
    batchnorm_statistics,
    collect_statistics,
)
from vis_callbacks.synthesis.optimization.generate import accepts_sizes
from vis_callbacks.synthesis.optimization.image_statistics import ImageStatistics
from vis_callbacks.synthesis.optimization.loop import OptimizerFactory

POOL = 64
"""Number of real images kept for statistics."""

LARGEST = 512
"""Pixels on the longer side of the images that are made, unless `image_size` says otherwise or the model needs more."""

MIN_IMAGES = 16
"""With fewer colour images, the statistics of photographs are used."""


class SynthesisCallback(VisualizationCallback):
    """Base class of callbacks that make images by gradient ascent.

    Args:
        steps: Steps of the optimizer, each with one forward and one backward pass.
        image_size: An int, ``(H, W)`` or ``(C, H, W)``. None: the size of the samples, but at most 512 on the longer
            side if the model takes smaller images; the caption says so.
        optimizer: From parameters to a torch optimizer. None: the technique's own.
        progress: Whether to show a progress bar on stderr once it takes longer than a few seconds; a Trainer without
            progress bar shows none.
        options: Shared by all callbacks, see `VisualizationCallback`.

    Raises:
        ConfigurationError: If the number of steps is below 1.
    """

    learns_from_images: ClassVar[bool] = True
    """Whether the technique uses `real_images` or statistics of them; if not, none are kept."""

    def __init__(
        self,
        *,
        steps: int,
        image_size: int | Sequence[int] | None = None,
        optimizer: OptimizerFactory | None = None,
        progress: bool = True,
        **options: Unpack[SharedOptions],
    ) -> None:
        super().__init__(**options)
        self.steps = checks.whole("steps", steps)
        self.image_size = checks.optional(_check_image_size, "image_size", image_size)
        self.optimizer = checks.optional(checks.function, "optimizer", optimizer)
        self.progress = checks.switch("progress", progress)
        self._trainer_shows_progress = True
        self._statistics: ImageStatistics | None = None
        self._pool_size = POOL
        self._pool = self._new_pool()
        self._shared_count = 0
        self._sizes: dict[tuple[int, int], tuple[int, int]] = {}

    @property
    def shows_progress(self) -> bool:
        """Whether a bar is shown: it was asked for, and the Trainer shows its own."""
        return self.progress and self._trainer_shows_progress

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Join the run, and see whether it shows progress bars."""
        self._trainer_shows_progress = trainer.progress_bar_callback is not None
        super().setup(trainer, pl_module, stage)

    def restart(self) -> None:
        """Forget the images of an earlier run."""
        super().restart()
        self._statistics = None
        self._pool = self._new_pool()
        self._shared_count = 0
        self._sizes = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep some of the first training images."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if self.learns_from_images and trainer.is_global_zero and not self._pool.complete:
            try:
                self._pool.observe(batch)
            except Exception as error:
                run = Run.of(trainer)
                if run.inputs.selector.has_seen or not run.inputs.selector.wants_batches:
                    what, remedy = "learns from the samples alone", "batch_to_images= is to read training batches too"
                    run.warnings.warn(self.name, what, error, remedy)
                # Else there are no samples either, as far as is known, which is told of all callbacks at once.

    def passes(self, moment: Moment, samples: Samples) -> int:
        """Return the number of passes: one per step and image."""
        return self.at_size(self.steps * len(samples), samples)

    def at_size(self, passes: float, samples: Samples) -> int:
        """Return a number of passes of images as large as they are made, in passes of the samples."""
        size = samples.images.shape[-2:]
        made = size if self.image_size is not None else size_within(LARGEST, size)
        return round(passes * math.prod(made) / math.prod(size))

    def size(self, event: Event) -> tuple[int, ...] | int:
        """Return the size of the images to be made."""
        if self.image_size is None:
            return (event.samples.images.shape[1], *self._side_lengths(event))
        return self.image_size if isinstance(self.image_size, int) else tuple(self.image_size)

    def small_samples(self, event: Event) -> Samples:
        """Return the samples in the size in which they are changed or reconstructed."""
        images = resized(event.samples.images, self._side_lengths(event))
        return event.samples if images is event.samples.images else replace(event.samples, images=images)

    def size_note(self, event: Event) -> str:
        """Return the end of a caption that says that images are smaller than the samples; "" if they are not."""
        own, made = event.samples.images.shape[-2:], self._side_lengths(event)
        if self.image_size is not None or tuple(own) == made:
            return ""
        return f", at {made[0]}×{made[1]} of {own[0]}×{own[1]} pixels"

    def _side_lengths(self, event: Event) -> tuple[int, int]:
        """Return the size of the samples, or one of at most `LARGEST` if the model takes it."""
        images = event.samples.images
        own = (images.shape[-2], images.shape[-1])
        if max(own) <= LARGEST:
            return own
        if own not in self._sizes:
            exact = size_within(LARGEST, own)
            # Transformers need whole patches.
            whole = (max(exact[0] // 32, 1) * 32, max(exact[1] // 32, 1) * 32)
            fits = partial(accepts_sizes, event.model, images.shape[1:])
            self._sizes[own] = next((size for size in (exact, whole) if fits([size])), own)
        return self._sizes[own]

    def real_images(self, event: Event) -> tuple[Tensor, Tensor]:
        """Return training images ``(N, C, H, W)`` in model space and their labels; without them, the samples."""
        samples = self.small_samples(event)
        if self._pool.empty:
            return samples.images, samples.labels
        images, labels = self._pool.samples()
        if images.shape[-2:] == event.samples.images.shape[-2:]:
            images = resized(images, self._side_lengths(event))
        return images.to(samples.images), labels.to(samples.labels)

    def image_statistics(self, event: Event) -> ImageStatistics:
        """Return the statistics of the run's images, or of photographs if there are too few."""
        samples = event.samples
        known, channels = len(self._pool) or len(samples), samples.images.shape[1]
        if known < MIN_IMAGES and channels == 3:
            # The colours of a few images would tint the result.
            return ImageStatistics(3)
        if self._statistics is None or self._statistics.count < known:
            images = samples.images.cpu() if self._pool.empty else self._pool.samples()[0]
            self._statistics = ImageStatistics(channels)
            self._statistics.update(samples.normalization.to_pixels(images.float()))
        return self._statistics

    def feature_statistics(self, event: Event) -> FeatureStatistics:
        """Return the statistics kept by BatchNorm, or without BatchNorm those measured on real images."""
        found = batchnorm_statistics(event.model)
        return found or collect_statistics(event.model, self.real_images(event)[0][:POOL])

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with the image statistics."""
        known = None if self._statistics is None else self._statistics.state_dict()
        return {**super().state_dict(), "image_statistics": known}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the image statistics of a checkpoint."""
        super().load_state_dict(state_dict)
        known = state_dict["image_statistics"]
        self._statistics = None
        if known is not None:
            self._statistics = ImageStatistics(len(known["mean"]))
            self._statistics.load_state_dict(known)

    def shared_state(self) -> Any:
        """Return the real images, if any were added since the last call."""
        new, self._shared_count = len(self._pool) - self._shared_count, len(self._pool)
        return {"pool": self._pool.samples() if new else None}

    def load_shared_state(self, state: Any) -> None:
        """Take over the real images of another process."""
        if state["pool"] is not None:
            self._pool.take_over(*state["pool"])
            self._shared_count = len(self._pool)

    def _new_pool(self) -> Collector:
        read = self.sample_request.batch_to_images
        return Collector(self._pool_size, most_pixels=POOL * LARGEST**2, batch_to_images=read)


def _check_image_size(name: str, value: Any) -> int | tuple[int, ...]:
    if isinstance(value, Integral):
        return checks.whole(name, value)
    expected = "a whole number from 1, (H, W) or (C, H, W)"
    found = checks.several(name, value, checks.whole, expected, least=2)
    if len(found) > 3:
        raise checks.refused(name, value, expected)
    return found


def psnr(found: Tensor, wanted: Tensor) -> float:
    """Return the peak signal-to-noise ratio of images in [0, 1], in dB.

    Example:
        >>> import torch
        >>> round(psnr(torch.zeros(1, 2, 2), torch.full((1, 2, 2), 0.1)), 3)
        20.0
    """
    error = (found - wanted).square().mean().clamp_min(1e-10)
    return float(-10 * error.log10())
