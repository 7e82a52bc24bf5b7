"""Maximal patches: the parts of images that matter most, to a class by occlusion, or to a channel by its activation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vis_callbacks.attribution.chunks import in_chunks, pixels_of, scores_of
from vis_callbacks.attribution.inputs import baseline_for, check_images, fixed_targets
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.inspection.channel_patches import Sides, both_sides, boxes_of
from vis_callbacks.model.classifier import Targets
from vis_callbacks.model.undisturbed import leaves_no_trace


@leaves_no_trace
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
    leaves a rest, so that each lies inside the image and every pixel that a stride does not skip is covered.

    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2013, arXiv:1311.2901.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space.
        targets: Classes ``(N,)``, pairs ``(N, 2)`` for the first's logit minus the second's, one class for all, or
            None for the predicted ones.
        patch: Size of a patch; cut to the image's where it is larger. None: a quarter of the image's sides.
        stride: Pixels between patches. None: half a patch.
        top: How many patches; fewer where the image does not hold so many.
        baseline: What covers, in the model's input space: a number, or a tensor that broadcasts to the images. None:
            zero, for most models the mean colour.
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
    if top < 1:
        raise ConfigurationError(f"top={top}: expected a number from 1")
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

    pixels = pixels_of(images)
    whole = torch.cat([part for _, part in in_chunks(whole_scores, len(images), pixels=pixels, chunk_size=chunk_size)])
    occluded = in_chunks(scores, len(images) * len(boxes), pixels=pixels, chunk_size=chunk_size)
    drops = whole[:, None] - torch.cat([part for _, part in occluded]).view(len(images), len(boxes))
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
    patches = tuple(math.ceil(length / 4) for length in image_size) if patch is None else both_sides(patch)
    strides = tuple(math.ceil(length / 2) for length in patches) if stride is None else both_sides(stride)
    for name, values in (("patch", patches), ("stride", strides)):
        if min(values) < 1:
            raise ConfigurationError(f"{name} of {values} pixels: expected sizes from 1")
    sides = []
    for length, size, step in zip(image_size, patches, strides, strict=True):
        last = max(length - size, 0)
        starts = torch.tensor(sorted({*range(0, last + 1, step), last}))
        sides.append(torch.stack([starts, (starts + size).clamp(max=length)], dim=1))
    return boxes_of(*sides)
