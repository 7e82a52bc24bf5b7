"""Validation images that are shown in other ways: what makes more of them right."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vis_callbacks.diagnostics.facts import RepairFacts
from vis_callbacks.diagnostics.geometry import GAIN, LAGGING
from vis_callbacks.diagnostics.passes import answers
from vis_callbacks.diagnostics.statistics import mcnemar

_STEPS = ((24, 0.25), (96, 0.01))
"""Images that promising ways are tried on; the best one is tried on more if it is less probable than this by chance."""

_WRONG, _MENDED, _WAYS_KEPT = 8, 0.25, 3
"""Wrong images that each way is tried on at first, and the share that it must mend, to be one of so many promising."""

_BATCH, _LEAST_BATCH, _PROBABLE = 48, 16, 0.05
"""Images whose statistics are tried first, the fewest that have any, and what must be the probability by chance at most
for those of all to be tried."""

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
        self._plain = self._asked(_as_they_come)

    def facts(self, gap: float, *, lagging: bool = False) -> tuple[list[RepairFacts], RepairFacts | None]:
        """Return what changes with each way to show images, and with the statistics of the batch in BatchNorm.

        Where statistics of the batch are promising, the best way and they are compared on all images. There are no ways
        where statistics explain what validation is worse by, or where too few images are wrong. The second is None
        where there is no BatchNorm.

        Args:
            gap: Share of right answers by which validation is worse than training.
            lagging: Whether BatchNorm is known to lag behind: then its statistics are tried on all images.
        """
        norms = [
            one
            for one in self._model.modules()
            if isinstance(one, nn.modules.batchnorm._BatchNorm) and one.track_running_stats
        ]
        if not norms or len(self._images) < _LEAST_BATCH:
            return self._repairs(until_certain=True), None
        statistics = self._with_statistics(norms, len(self._images) if lagging else min(_BATCH, len(self._images)))
        if not _is_promising(statistics, _PROBABLE):
            return self._repairs(until_certain=True), statistics
        if len(self._images) > statistics.tried:
            statistics = self._with_statistics(norms, len(self._images))
        if statistics.gain >= LAGGING * gap:
            return [], statistics
        return self._repairs(until_certain=False), statistics

    def reordered(self, order: Sequence[int]) -> RepairFacts:
        """Return what changes with the channels in another order."""
        first = torch.arange(min(_BATCH, len(self._images)))
        return self._compared("reordered", self._right(first, lambda images: images[:, list(order)]))

    def _repairs(self, *, until_certain: bool) -> list[RepairFacts]:
        first = torch.arange(min(_BATCH, len(self._images)))
        wrong = first[~self._plain(first)]
        if len(wrong) < GAIN * len(first):
            return []
        square = self._images.shape[2] == self._images.shape[3]
        channels = self._images.transpose(0, 1).flatten(1)
        ends = (channels.amin(dim=1) + channels.amax(dim=1)).view(-1, 1, 1)
        ways = {name: self._asked(way) for name, way in _WAYS.items() if square or name not in _SQUARE}
        ways["inverted"] = self._asked(lambda images: ends - images)
        if len(channels) == 3:
            ways["with red and blue swapped"] = self._asked(lambda images: images.flip(1))
        mended = {name: float(ask(wrong[:_WRONG]).float().mean()) for name, ask in ways.items()}
        names = sorted((name for name in ways if mended[name] >= _MENDED), key=lambda name: -mended[name])[:_WAYS_KEPT]
        found = {name: RepairFacts(name, 0, 0, 0) for name in ways}
        for count, probable in (*_STEPS, (len(self._images), 0.0)):
            for name in names:
                found[name] = self._compared(name, ways[name](torch.arange(min(count, len(self._images)))))
            best = max((found[name] for name in names), key=lambda one: one.gain, default=None)
            if best is None or not _is_promising(best, probable) or (until_certain and _is_promising(best, _CERTAIN)):
                break
            names = [best.name]
        return list(found.values())

    def _with_statistics(self, norms: list[nn.modules.batchnorm._BatchNorm], count: int) -> RepairFacts:
        with _in_training(norms):
            mended = self._right(torch.arange(count), _as_they_come)
        return self._compared("with the statistics of the batch", mended)

    def _compared(self, name: str, mended: Tensor) -> RepairFacts:
        right = self._plain(torch.arange(len(mended)))
        return RepairFacts(name, int((mended & ~right).sum()), int((right & ~mended).sum()), len(mended))

    def _right(self, at: Tensor, way: Callable[[Tensor], Tensor]) -> Tensor:
        """Return which of some images are answered rightly."""
        right: Tensor = answers(self._model, way(self._images[at])).argmax(dim=1) == self._labels[at]
        return right

    def _asked(self, way: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Return a function from numbers of images to whether each is answered rightly; it asks once about each."""
        known = torch.zeros(len(self._images), dtype=torch.bool)
        right = known.clone()

        def ask(at: Tensor) -> Tensor:
            new = at[~known[at]]
            if len(new):
                right[new], known[new] = self._right(new, way), True
            return right[at]

        return ask


def _is_promising(found: RepairFacts, probable: float) -> bool:
    return found.gain >= _PROMISING and mcnemar(found.better, found.worse) <= probable


def _as_they_come(images: Tensor) -> Tensor:
    return images


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
