"""Validation images that are shown in other ways: what makes more of them right."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vis_callbacks.diagnostics.facts import RepairFacts
from vis_callbacks.diagnostics.passes import answers
from vis_callbacks.diagnostics.statistics import mcnemar

_STEPS = ((12, 3), (24, 1), (96, 1))
"""Images that ways are tried on at first, and how many ways, at most, are then tried on more."""

_BATCH, _LEAST_BATCH = 48, 16
"""Images whose statistics are tried first, those of all if they mend some; of fewer there are none."""

_PROMISING, _CERTAIN = 0.05, 1e-5
"""Share of images that must be right more often, for more to be tried, and probability by chance that ends it too."""


class Comparison:
    """Compares the answers to images with those to the same images shown in another way.

    Images are asked about in random order, as they may be sorted by class, and only as many as it takes.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)``.
        labels: ``(N,)``.
    """

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor) -> None:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        self._model, self._images, self._labels = model, images[order], labels[order]
        self._right = self._answered(0, 0)

    def facts(self) -> tuple[list[RepairFacts], RepairFacts | None]:
        """Return what changes with each way to show images, and with the statistics of the batch in BatchNorm.

        Promising ways are tried on more images. Where statistics of the batch are promising too, the best way and they
        are compared on all images. The second is None where there is no BatchNorm.
        """
        norms = [
            one
            for one in self._model.modules()
            if isinstance(one, nn.modules.batchnorm._BatchNorm) and one.track_running_stats
        ]
        if not norms or len(self._images) < _LEAST_BATCH:
            return self._repairs(until_certain=True), None
        statistics = self._with_statistics(norms, min(_BATCH, len(self._images)))
        if not _is_promising(statistics):
            return self._repairs(until_certain=True), statistics
        return self._repairs(until_certain=False), self._with_statistics(norms, len(self._images))

    def _repairs(self, *, until_certain: bool) -> list[RepairFacts]:
        square = self._images.shape[2] == self._images.shape[3]
        mended = {name: self._right[:0] for name in _WAYS if square or name not in _SQUARE}
        found: dict[str, RepairFacts] = {}
        names = list(mended)
        for count, most in (*_STEPS, (len(self._images), 0)):
            for name in names:
                more = self._answered(len(mended[name]), count, _WAYS[name])
                mended[name] = torch.cat([mended[name], more])
                found[name] = self._compared(name, mended[name])
            best = sorted((found[name] for name in names), key=lambda one: -one.gain)
            names = [one.name for one in best[:most] if _is_promising(one) and not (until_certain and _is_certain(one))]
        return list(found.values())

    def _with_statistics(self, norms: list[nn.modules.batchnorm._BatchNorm], count: int) -> RepairFacts:
        with _in_training(norms):
            mended = self._answered(0, count)
        return self._compared("with the statistics of the batch", mended)

    def _compared(self, name: str, mended: Tensor) -> RepairFacts:
        count = len(mended)
        self._right = torch.cat([self._right, self._answered(len(self._right), count)])
        right = self._right[:count]
        return RepairFacts(name, int((mended & ~right).sum()), int((right & ~mended).sum()), count)

    def _answered(self, start: int, stop: int, change: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return which images of a range are answered rightly."""
        images, labels = self._images[start:stop], self._labels[start:stop]
        if not len(images):
            return torch.zeros(0, dtype=torch.bool)
        return answers(self._model, images if change is None else change(images)).argmax(dim=1) == labels


def _is_promising(found: RepairFacts) -> bool:
    return found.gain >= _PROMISING


def _is_certain(found: RepairFacts) -> bool:
    return mcnemar(found.better, found.worse) < _CERTAIN


def _zoomed(factor: float) -> Callable[[Tensor], Tensor]:
    def change(images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        grid = F.affine_grid(torch.tensor([[[1 / factor, 0, 0], [0, 1 / factor, 0]]]).expand(len(images), 2, 3),
                             [len(images), images.shape[1], height, width], align_corners=False)  # fmt: skip
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

    return change


_WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "mirrored left to right": lambda images: images.flip(3),
    "turned upside down": lambda images: images.flip(2),
    "turned by 90 degrees": lambda images: images.rot90(1, (2, 3)),
    "turned by 180 degrees": lambda images: images.rot90(2, (2, 3)),
    "turned by 270 degrees": lambda images: images.rot90(3, (2, 3)),
    "with rows and columns exchanged": lambda images: images.transpose(2, 3),
    "inverted": lambda images: 2 * images.mean(dim=(2, 3), keepdim=True) - images,
    **{f"reduced to {factor:.0%}": _zoomed(factor) for factor in (0.6, 0.7)},
    **{f"enlarged {factor} times": _zoomed(factor) for factor in (1.4, 1.7)},
}
_SQUARE = {"turned by 90 degrees", "turned by 270 degrees", "with rows and columns exchanged"}


@contextmanager
def _in_training(norms: list[nn.modules.batchnorm._BatchNorm]) -> Iterator[None]:
    """Let BatchNorms use the statistics of the batch, and keep their own."""
    before = [(one.training, one.momentum) for one in norms]
    counts = [None if one.num_batches_tracked is None else one.num_batches_tracked.clone() for one in norms]
    for one in norms:
        one.training, one.momentum = True, 0.0
    try:
        yield
    finally:
        for one, (training, momentum), count in zip(norms, before, counts, strict=True):
            one.training, one.momentum = training, momentum
            if count is not None and one.num_batches_tracked is not None:
                one.num_batches_tracked.copy_(count)
