"""Pictures of the images that may have to be shown, of a stream of far more images."""

from collections.abc import Iterable

import torch
from torch import Tensor

from vis_callbacks.data.samples import resized, size_within

_SIDE = 96
_OF_BATCH = 8
_OF_PASS = 128


class Gallery:
    """Keeps small copies of the images with the highest scores, without waiting for the device that they are on.

    Example:
        >>> gallery = Gallery()
        >>> gallery.add(torch.tensor([5, 6]), torch.tensor([0.1, 0.9]), torch.rand(2, 1, 8, 8))
        >>> gallery.fold()
        >>> gallery[6].shape, gallery[7]
        (torch.Size([1, 8, 8]), None)
    """

    def __init__(self) -> None:
        self._kept: dict[int, Tensor] = {}
        self._wanted: Tensor | None = None
        self._keys: Tensor | None = None
        self._scores: Tensor | None = None
        self._images: Tensor | None = None

    def __getitem__(self, key: int) -> Tensor | None:
        return self._kept.get(key)

    def add(self, keys: Tensor, scores: Tensor, images: Tensor) -> None:
        """Look at a batch of images ``(N, C, H, W)`` with keys and scores ``(N,)``."""
        if self._wanted is not None and len(self._wanted):
            self._wanted = self._wanted.to(keys.device)
            scores = scores + 2 * torch.isin(keys, self._wanted)
        scores, chosen = scores.topk(min(_OF_BATCH, len(scores)))
        keys = keys[chosen]
        small = resized(images[chosen].detach().float(), size_within(_SIDE, images.shape[-2:]))
        if self._keys is not None and self._scores is not None and self._images is not None:
            if self._images.shape[1:] != small.shape[1:]:
                return
            keys, scores = torch.cat([self._keys, keys]), torch.cat([self._scores, scores])
            small = torch.cat([self._images, small])
            if len(keys) > 2 * _OF_PASS:
                scores, best = scores.topk(_OF_PASS)
                keys, small = keys[best], small[best]
        self._keys, self._scores, self._images = keys, scores, small

    def fold(self) -> None:
        """Read what was kept. Idempotent."""
        if self._keys is not None and self._images is not None:
            self._kept.update(zip(self._keys.tolist(), self._images.cpu(), strict=True))
        self._keys = self._scores = self._images = None

    def keep(self, wanted: Iterable[int]) -> None:
        """Drop all but the pictures of these keys, and look for those that are missing."""
        keys = list(dict.fromkeys(wanted))
        self._kept = {key: self._kept[key] for key in keys if key in self._kept}
        self._wanted = torch.tensor([key for key in keys if key not in self._kept], dtype=torch.long)
