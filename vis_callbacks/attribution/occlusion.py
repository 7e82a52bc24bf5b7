"""Occlusion: how far the logit drops when a window of the image is covered."""

import math
import operator
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from vis_callbacks import checks
from vis_callbacks.attribution.callback import AttributionCallback, AttributionOptions
from vis_callbacks.data.samples import Samples
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.event import Event, Moment
from vis_callbacks.model import (
    Meaning,
    Targets,
    baseline_for,
    check_images,
    guarded,
    in_chunks,
    likelihoods_of,
    pixels_of,
    resolve_targets,
    rounding_of,
    target_scores,
)

Score = Literal["logit", "probability"]


@guarded
def occlusion(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    window: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    baseline: Tensor | float | None = None,
    *,
    score: Score = "logit",
    meaning: Meaning = "classes",
    chunk_size: int | None = None,
) -> Tensor:
    """Cover each place of the image with a window and measure how far the target's score drops.

    The windows start at every stride from the top left; the last ones may be cut by the right and the lower edge, so
    that every pixel is covered. A pixel's value is the mean drop of the windows over it.

    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2013, arXiv:1311.2901.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space.
        targets: Classes ``(N,)``, pairs ``(N, 2)`` for the first's score minus the second's, one class for all, or
            None for those predicted for the whole images.
        window: Height and width in pixels, or one number for both; None: an eighth of the image's.
        stride: Pixels between windows, down and across, or one number for both; None: half a window.
        baseline: Value that replaces covered pixels, in the model's input space: a number, or a tensor that broadcasts
            to the images. None: zero, for most models the mean colour.
        score: ``"logit"``, or ``"probability"`` for drops of the target's probability.
        meaning: What the outputs mean; several that the model puts through a sigmoid are ``"labels"`` anyway.
        chunk_size: Images in one pass; None: chosen by their size. It has no effect on the result.

    Returns:
        ``(N, 1, H, W)`` float32, signed: positive where covering lowers the score.

    Raises:
        ConfigurationError: If the images, targets or baseline do not fit, a window or stride is below 1, a window is
            larger than the image, or a stride is larger than the window, which would leave pixels uncovered.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
        >>> occlusion(model, torch.rand(2, 3, 4, 4), window=2, stride=1).shape
        torch.Size([2, 1, 4, 4])
    """
    check_images(images)
    checks.one_of("score", score, Score)
    rows, columns = (side.to(images.device) for side in _windows(images, window, stride))
    cover = baseline_for(images, baseline)
    per_image = len(rows) * len(columns)

    def scores(of: Tensor, chosen: Targets) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            logits, likely = likelihoods_of(model, of, meaning)
        resolved = resolve_targets(chosen, logits)
        return target_scores(likely if score == "probability" else logits, resolved), resolved, logits

    whole, chosen, logits = scores(images, targets)
    rounding = rounding_of(logits, images)
    if score == "probability":  # what the logits' rounding changes of it, and its own
        rounding = whole * (1 - whole) * rounding + rounding_of(whole[:, None], images)

    def drops(items: Tensor) -> Tensor:
        image, place = items // per_image, items % per_image
        covered = rows[place // len(columns)][:, None, :, None] & columns[place % len(columns)][:, None, None, :]
        return whole[image] - scores(torch.where(covered, cover[image], images[image].float()), chosen[image])[0]

    chunks = in_chunks(
        drops, len(images) * per_image, pixels=pixels_of(images), device=images.device, chunk_size=chunk_size
    )
    found = torch.cat([drop for _, drop in chunks]).view(len(images), len(rows), len(columns))
    # Where the image does not matter, what covering it seems to change is no evidence.
    found = found.where(found.abs() > rounding[:, None, None], 0)
    down, across = rows.float(), columns.float()
    return ((down.T @ found @ across) / (down.sum(0)[:, None] * across.sum(0)))[:, None]


def _windows(
    images: Tensor, window: int | tuple[int, int] | None, stride: int | tuple[int, int] | None
) -> tuple[Tensor, Tensor]:
    """Return which rows each row of windows covers, ``(n, H)``, and the same of the columns, ``(m, W)``."""
    height, width = images.shape[-2:]
    windows = checks.optional(checks.sides, "window", window) or (max(1, height // 8), max(1, width // 8))
    halves = math.ceil(windows[0] / 2), math.ceil(windows[1] / 2)
    strides = checks.optional(checks.sides, "stride", stride) or halves
    return _covered(height, windows[0], strides[0], "height"), _covered(width, windows[1], strides[1], "width")


def _covered(length: int, window: int, stride: int, side: str) -> Tensor:
    """Return which pixels of one side each window covers, ``(windows, length)``."""
    if window > length:
        raise ConfigurationError(f"window of {window} pixels: expected 1 to {length}, the image's {side}")
    if stride > window:
        raise ConfigurationError(
            f"stride of {stride} pixels: expected 1 to {window}, the window's {side}, or pixels stay uncovered"
        )
    starts = torch.arange(1 + math.ceil((length - window) / stride))[:, None] * stride
    pixels = torch.arange(length)
    return (pixels >= starts) & (pixels < starts + window)


class Occlusion(AttributionCallback):
    """Shows how far the target's score drops when a window of the image is covered. See `occlusion`.

    Read it for what the score needs, as it is measured; it is as coarse as its window, and misses what is there
    twice.

    Args:
        window: Height and width in pixels, or one number for both; None: an eighth of the image's.
        stride: Pixels between windows, down and across, or one number for both; None: half a window.
        pixel: Value of covered pixels, in [0, 1]; None: zero in model space, for most models the mean colour.
        score: ``"logit"`` or ``"probability"``.
        options: See `AttributionCallback`.

    Raises:
        ConfigurationError: If the score is unknown or the pixel value out of range.
    """

    function = staticmethod(occlusion)
    one_channel = True
    split = "samples"

    def __init__(
        self,
        *,
        window: int | tuple[int, int] | None = None,
        stride: int | tuple[int, int] | None = None,
        pixel: float | None = None,
        score: Score = "logit",
        **options: Unpack[AttributionOptions],
    ) -> None:
        super().__init__(**options)
        self.window = checks.optional(checks.sides, "window", window)
        self.stride = checks.optional(checks.sides, "stride", stride)
        self.pixel = checks.optional(checks.number, "pixel", pixel, 0, 1)
        self.score = checks.one_of("score", score, Score)
        if self.window and self.stride and any(map(operator.gt, self.stride, self.window)):
            raise checks.refused("stride", stride, f"at most the window's {window}, or pixels stay uncovered")

    def passes(self, moment: Moment, samples: Samples) -> int:
        """One forward, about a third of a pass, per window."""
        rows, columns = _windows(samples.images, self.window, self.stride)
        return len(rows) * len(columns) * len(samples) // 3

    def attribute(self, event: Event) -> Tensor:
        """Return ``(N, 1, H, W)``, signed."""
        samples = event.samples
        baseline = None
        if self.pixel is not None:
            baseline = samples.normalization.to_model(torch.full_like(samples.images[0], self.pixel))
        return occlusion(
            event.model,
            samples.images,
            event.trace.targets,
            self.window,
            self.stride,
            baseline,
            score=self.score,
            meaning=event.meaning,
        )
