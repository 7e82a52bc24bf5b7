"""Maximal patches: the parts of images that matter most, to a class by occlusion, or to a channel by its activation."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from vis_callbacks import checks
from vis_callbacks._lightning import LightningModule, Trainer
from vis_callbacks.callback import SharedOptions, VisualizationCallback
from vis_callbacks.data.collectors import Collector
from vis_callbacks.event import Event
from vis_callbacks.inspection.activations import Channels, check_channels, choose_channels
from vis_callbacks.inspection.channel_patches import ChannelPatches, boxes_of
from vis_callbacks.model import (
    Layout,
    Sides,
    Targets,
    baseline_for,
    check_images,
    find_layer,
    find_layout,
    fixed_targets,
    guarded,
    in_chunks,
    pixels_of,
    scores_of,
    trace,
)
from vis_callbacks.model.receptive_field import ReceptiveField, receptive_field
from vis_callbacks.panel import Panel, Tile
from vis_callbacks.run.run import Run

_CHOOSING_IMAGES = 32
"""Number of images among which the strongest channels are found."""


@guarded
def maximal_patches(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    *,
    patch: Sides | None = None,
    stride: Sides | None = None,
    top: int = 5,
    baseline: Tensor | float | None = None,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the patches of each image whose occlusion lowers the target's logit most.

    Patches start at every stride from the top left, and one more ends at the right and the lower edge where the stride
    leaves a remainder, so that each lies inside the image and every pixel that a stride does not skip is covered.

    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2013, arXiv:1311.2901.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space.
        targets: Classes ``(N,)``, pairs ``(N, 2)`` for the first's logit minus the second's, one class for all, or
            None for the predicted ones.
        patch: Size of a patch; cut to the image's where it is larger. None: a quarter of the image's sides.
        stride: Pixels between patches. None: half a patch.
        top: How many patches; fewer if the image has fewer.
        baseline: Value that replaces covered pixels, in the model's input space: a number, or a tensor that broadcasts
            to the images. None: zero, for most models the mean colour.
        chunk_size: Images in one pass; None: chosen by their size. It has no effect on the result.

    Returns:
        Boxes ``(N, top, 4)`` long as x0, y0, x1, y1 in pixels, x1 and y1 just outside; and scores ``(N, top)`` float32,
        the drops of the logit, largest first.

    Raises:
        ConfigurationError: If the images, targets or baseline do not fit, or a size or number is below 1.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
        >>> boxes, scores = maximal_patches(model, torch.rand(2, 3, 4, 4), patch=2, stride=1, top=3)
        >>> boxes.shape, scores.shape
        (torch.Size([2, 3, 4]), torch.Size([2, 3]))
    """
    check_images(images)
    top = checks.whole("top", top)
    height, width = images.shape[-2:]
    boxes = patch_boxes((height, width), patch, stride).to(images.device)
    cover = baseline_for(images, baseline)
    chosen = fixed_targets(model, images, targets)
    rows, columns = (torch.arange(length, device=images.device) for length in (height, width))

    def scores(items: Tensor) -> Tensor:
        image, place = items // len(boxes), items % len(boxes)
        left, up, right, down = boxes[place].T[:, :, None]
        inside = ((rows >= up) & (rows < down))[:, None, :, None] & ((columns >= left) & (columns < right))[
            :, None, None
        ]
        return scores_of(model, torch.where(inside, cover[image], images[image].float()), chosen[image])

    def whole_scores(items: Tensor) -> Tensor:
        return scores_of(model, images[items], chosen[items])

    def all_of(work: Callable[[Tensor], Tensor], items: int) -> Tensor:
        chunks = in_chunks(work, items, pixels=pixels_of(images), device=images.device, chunk_size=chunk_size)
        return torch.cat([part for _, part in chunks])

    occluded = all_of(scores, len(images) * len(boxes)).view(len(images), len(boxes))
    drops = all_of(whole_scores, len(images))[:, None] - occluded
    best = drops.topk(min(top, len(boxes)), dim=1)
    return boxes[best.indices], best.values


def patch_boxes(image_size: tuple[int, int], patch: Sides | None = None, stride: Sides | None = None) -> Tensor:
    """Return the boxes ``(P, 4)`` long of all patches, as x0, y0, x1, y1; see `maximal_patches`.

    Raises:
        ConfigurationError: If a size is below 1.

    Example:
        >>> patch_boxes((4, 5), patch=4, stride=4).tolist()
        [[0, 0, 4, 4], [1, 0, 5, 4]]
    """
    patches = checks.optional(checks.sides, "patch", patch) or tuple(math.ceil(length / 4) for length in image_size)
    strides = checks.optional(checks.sides, "stride", stride) or tuple(math.ceil(length / 2) for length in patches)
    sides = []
    for length, size, step in zip(image_size, patches, strides, strict=True):
        last = max(length - size, 0)
        starts = torch.tensor(sorted({*range(0, last + 1, step), last}))
        sides.append(torch.stack([starts, (starts + size).clamp(max=length)], dim=1))
    return boxes_of(*sides)


class MaximalPatches(VisualizationCallback):
    """Shows the patches of each sample that matter most to its class, or those that excite a layer's channels most.

    Read it for which parts of real images count; patches of a few samples do not stand for a class.

    Without a layer or channels, patches of each sample are found by occlusion, see `maximal_patches`. With either,
    crops of validation images are shown, a row per channel, cut at the channel's receptive field, see `ChannelPatches`.

    Args:
        patch: Size of a patch, one number or height and width. None: a quarter of the image's sides; in rows of
            channels the receptive field where there is one.
        stride: Pixels between patches. None: half a patch.
        top: How many patches of each sample or channel.
        layer: Name of a layer to show the channels of. None: with channels, the last one that gives a map.
        channels: Which channels, see `Channels`; the strongest are found at the first event.
        max_channels: Largest number of channels.
        images: How many validation images are searched for crops: the first ones, kept in memory.
        options: Shared by all callbacks, see `VisualizationCallback`.

    Raises:
        ConfigurationError: If an option has a wrong value; at `setup`, if the layer is not found.
    """

    def __init__(
        self,
        patch: Sides | None = None,
        stride: Sides | None = None,
        *,
        top: int = 5,
        layer: str | None = None,
        channels: Channels | None = None,
        max_channels: int = 8,
        images: int = 128,
        **options: Unpack[SharedOptions],
    ) -> None:
        super().__init__(**options)
        self.patch = checks.optional(checks.sides, "patch", patch)
        self.stride = checks.optional(checks.sides, "stride", stride)
        self.top = checks.whole("top", top)
        self.layer = checks.optional(checks.layer_name, "layer", layer)
        self.channels: Channels = "strongest" if channels is None else check_channels(channels)
        self.max_channels = checks.whole("max_channels", max_channels)
        self.by_channel = layer is not None or channels is not None
        self.split = None if self.by_channel else "samples"
        self.chosen: list[int] | None = None
        self._found: tuple[Layout, ReceptiveField | None] | None = None
        self._images = checks.whole("images", images)
        self._seen = self._new_collector()

    def check(self, model: nn.Module) -> None:
        """Raise a `LayerError` if a named layer is not found."""
        if self.layer is not None:
            find_layer(model, self.layer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep images to search, then call the run's hook."""
        if self.by_channel and trainer.is_global_zero and dataloader_idx == 0 and not self._seen.complete:
            try:
                self._seen.observe(batch)
            except Exception as error:
                what, remedy = "cuts its crops from the samples alone", "batch_to_images= is to read validation batches"
                Run.of(trainer).warnings.warn(self.name, what, error, remedy)
        super().on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)

    def visualize(self, event: Event) -> Iterable[Panel]:
        """Show the patches of each sample, or of each channel."""
        return self._of_channels(event) if self.by_channel else self._of_samples(event)

    def state_dict(self) -> dict[str, Any]:
        """Keep the channels."""
        return {**super().state_dict(), "chosen": self.chosen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the channels."""
        super().load_state_dict(state_dict)
        self.chosen = state_dict["chosen"]

    def restart(self) -> None:
        """Forget the images of an earlier run."""
        super().restart()
        self._found = None
        self._seen = self._new_collector()

    def _new_collector(self) -> Collector:
        return Collector(self._images, batch_to_images=self.sample_request.batch_to_images)

    def _of_samples(self, event: Event) -> Iterator[Panel]:
        boxes, scores = maximal_patches(
            event.model,
            event.samples.images,
            event.trace.targets,
            patch=self.patch,
            stride=self.stride,
            top=self.top,
        )
        for index, pixels in enumerate(event.samples.pixels):
            crops = [
                Tile(pixels[:, up:down, left:right], caption=f"{score:+.2g}")
                for (left, up, right, down), score in zip(boxes[index].tolist(), scores[index].tolist(), strict=True)
            ]
            height, width = crops[0].values.shape[-2:]
            caption = f"patches of {height}×{width} whose occlusion lowers the logit most, and by how much"
            yield event.sample_panel(index, Tile(outlined(pixels, boxes[index])), *crops, caption=caption)

    def _of_channels(self, event: Event) -> Iterator[Panel]:
        images = event.samples.images if self._seen.empty else self._seen.samples()[0]
        device = event.samples.images.device
        if self._found is None:
            layout = find_layout(event.model, images[:1].to(device), self.layer)
            self._found = layout, receptive_field(event.model, images[:1].to(device), layout.layer)
        layout, field = self._found

        def maps_of(items: Tensor) -> Tensor:
            with torch.no_grad():
                seen = trace(event.model, images[items].to(device), activations=[layout])
            return layout.to_map(seen.activations[layout.layer])

        def chunks(count: int) -> Iterator[tuple[Tensor, Tensor]]:
            return in_chunks(maps_of, count, pixels=pixels_of(images), device=device)

        if self.chosen is None:
            maps = torch.cat([part for _, part in chunks(min(len(images), _CHOOSING_IMAGES))])
            self.chosen = choose_channels(maps, self.channels, self.max_channels, seed=self.seed)
        found = ChannelPatches(self.chosen, self.top, field=field, patch=self.patch)
        for items, maps in chunks(len(images)):
            found.update(images[items], maps)
        pixels = dataclasses.replace(event.samples, images=found.crops.flatten(0, 1)).pixels
        captions = [
            f"{channel}: {score:.2g}" if math.isfinite(score) else ""
            for channel, row in zip(self.chosen, found.scores.tolist(), strict=True)
            for score in row
        ]
        yield Panel(
            layout.layer,
            [Tile(crop, caption=caption) for crop, caption in zip(pixels, captions, strict=True)],
            columns=self.top,
            caption=f"{layout.layer}: crops of {len(images)} images that excite channels most; a row a channel; "
            + (f"receptive field {field}" if field else "each unit sees the whole image"),
        )


def outlined(pixels: Tensor, boxes: Tensor) -> Tensor:
    """Return an image ``(3, H, W)`` with the edges of boxes drawn in red.

    Args:
        pixels: ``(1 or 3, H, W)`` in [0, 1].
        boxes: ``(P, 4)`` as x0, y0, x1, y1.

    Example:
        >>> outlined(torch.zeros(1, 3, 3), torch.tensor([[0, 0, 3, 3]]))[0].tolist()
        [[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]
    """
    picture = pixels.expand(3, -1, -1).clone()
    red = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    for left, up, right, down in boxes.tolist():
        picture[:, [up, down - 1], left:right] = red
        picture[:, up:down, [left, right - 1]] = red
    return picture
