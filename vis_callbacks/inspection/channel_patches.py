"""The crops of images that excite the channels of a layer most."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vis_callbacks import checks
from vis_callbacks.model import Sides
from vis_callbacks.model.receptive_field import ReceptiveField


class ChannelPatches:
    """The crops that excite the channels of a layer most, of all images seen so far: at most one per image and channel.

    Crops have one size, the receptive field of a unit, and are moved inside the image at its borders. Only the
    best crops of each channel are kept, as tensors.

    Args:
        channels: Numbers of the channels that are followed.
        top: Crops kept for each.
        field: The layer's receptive field; None where its units see the whole image.
        patch: Size of a crop instead; None: the receptive field, or a quarter of the image's sides without one.

    Attributes:
        scores: Largest activation in each crop's image, ``(channels, top)`` float32, largest first; -inf where there is
            none yet.
        crops: ``(channels, top, C, h, w)`` float32, in model space; empty before the first update.
        boxes: Where they are in their images, ``(channels, top, 4)`` long, as x0, y0, x1, y1.
        images: Number of each crop's image, counted over all updates, ``(channels, top)`` long; -1 where there is none.

    Example:
        >>> patches = ChannelPatches([0, 2], top=3, field=None)
        >>> patches.update(torch.rand(4, 3, 16, 16), torch.rand(4, 8, 4, 4))
        >>> patches.crops.shape, patches.scores.shape
        (torch.Size([2, 3, 3, 4, 4]), torch.Size([2, 3]))
    """

    def __init__(
        self, channels: Sequence[int], top: int = 5, *, field: ReceptiveField | None = None, patch: Sides | None = None
    ) -> None:
        top = checks.whole("top", top)
        self._channels = torch.tensor(list(channels))
        self._field = field
        self._patch = checks.optional(checks.sides, "patch", patch)
        self._seen = 0
        self.scores = torch.full((len(channels), top), -math.inf)
        self.images = torch.full((len(channels), top), -1)
        self.boxes = torch.zeros((len(channels), top, 4), dtype=torch.long)
        self.crops = torch.empty(0)

    def update(self, images: Tensor, maps: Tensor) -> None:
        """Look at a batch.

        Args:
            images: ``(N, C, H, W)``, all of one size over all updates.
            maps: The layer's output for them, ``(N, C, h, w)``.
        """
        height, width = images.shape[-2:]
        rows, columns = maps.shape[-2:]
        boxes = unit_boxes((height, width), (rows, columns), self._field, self._patch)
        if not len(self.crops):
            left, up, right, down = boxes[0].tolist()
            self.crops = torch.zeros((*self.scores.shape, images.shape[1], down - up, right - left))
        strengths, places = maps.detach()[:, self._channels.to(maps.device)].float().flatten(2).max(dim=2)
        top = self.scores.shape[1]
        # Old and new candidates side by side; the old ones come first and win ties.
        scores = torch.cat([self.scores, strengths.T.cpu()], dim=1)
        spots = torch.cat([self.boxes, boxes[places.T.cpu()]], dim=1)
        numbers = torch.cat([self.images, (self._seen + torch.arange(len(images))).expand(len(scores), -1)], dim=1)
        order = scores.argsort(dim=1, descending=True, stable=True)[:, :top]
        self.crops = torch.stack(
            [
                torch.stack(
                    [
                        self.crops[channel, index] if index < top else _crop(images[index - top], spots[channel, index])
                        for index in row
                    ]
                )
                for channel, row in enumerate(order.tolist())
            ]
        )
        self.scores = scores.gather(1, order)
        self.images = numbers.gather(1, order)
        self.boxes = spots.gather(1, order[:, :, None].expand(-1, -1, 4))
        self._seen += len(images)


def _crop(image: Tensor, box: Tensor) -> Tensor:
    left, up, right, down = box.tolist()
    return image[:, up:down, left:right].detach().float().cpu()


def unit_boxes(
    image_size: tuple[int, int], map_size: tuple[int, int], field: ReceptiveField | None, patch: Sides | None = None
) -> Tensor:
    """Return the box of each unit of a map, row by row, ``(h * w, 4)`` long as x0, y0, x1, y1, all of one size.

    Boxes lie around the middle of what the unit sees, moved inside the image where needed.

    Args:
        image_size: ``(H, W)``.
        map_size: ``(h, w)``.
        field: What units see; None: the whole image, and the unit's place in the map is taken for its middle.
        patch: Size of the boxes; None: the receptive field's, or a quarter of the image's sides without one.

    Example:
        >>> unit_boxes((8, 8), (2, 2), None).tolist()[3]
        [5, 5, 7, 7]
    """
    sides = []
    for side, (length, units) in enumerate(zip(image_size, map_size, strict=True)):
        window = None if field is None else (field.down, field.across)[side]
        places = torch.arange(units)
        if window is None:
            middle = (places + 0.5) * length / units
            size = math.ceil(length / 4)
        else:
            middle = window.offset + places * window.stride + window.size / 2
            size = window.size
        size = min(size if patch is None else checks.sides("patch", patch)[side], length)
        start = (middle - size / 2).floor().long().clamp(0, length - size)
        sides.append(torch.stack([start, start + size], dim=1))
    return boxes_of(*sides)


def boxes_of(down: Tensor, across: Tensor) -> Tensor:
    """Return boxes ``(P, 4)`` as x0, y0, x1, y1, row by row, of begins and ends ``(rows, 2)`` and ``(columns, 2)``.

    Example:
        >>> boxes_of(torch.tensor([[0, 2]]), torch.tensor([[0, 3], [3, 6]])).tolist()
        [[0, 0, 3, 2], [3, 0, 6, 2]]
    """
    grid = torch.cat([across.repeat(len(down), 1), down.repeat_interleave(len(across), dim=0)], dim=1)
    return grid[:, [0, 2, 1, 3]]
