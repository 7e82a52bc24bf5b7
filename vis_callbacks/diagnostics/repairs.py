"""Validation images that are shown in other ways: what makes more of them right."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vis_callbacks.diagnostics.facts import RepairFacts
from vis_callbacks.diagnostics.mending import GAIN, LAGGING, MENDED, mends_part
from vis_callbacks.diagnostics.passes import answers
from vis_callbacks.diagnostics.statistics import mcnemar

_STEPS = ((24, 0.25), (96, 0.01))
"""Images that promising ways are tried on; the best one is tried on more if it is less probable than this by chance."""

_FEW, _MENDED, _WAYS_KEPT = (4, 8), 0.25, 2
"""Wrong images that each way is tried on at first, and the share that it must mend, to be one of so many promising."""

_LARGE_GAP, _EXPLAINED = 0.2, 0.5
"""Share of right answers by which validation is worse, from which on rare ways are tried too if no usual one helps, and
the part of it that one must mend."""

_BATCH, _LEAST_BATCH, _PROBABLE = 32, 16, 0.05
"""Images whose statistics are tried first, the fewest that have any, and what must be the probability by chance at most
for those of all to be tried."""

_PROMISING, _CERTAIN = 0.05, 1e-5
"""Share of images that must be right more often, for more to be tried, and probability by chance that ends it too."""

_Way = Callable[[Tensor], Tensor]


class Comparison:
    """Compares the answers to images with those to the same images shown in another way.

    Images are asked about in random order, as they may be sorted by class, and only as many as it takes.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)``.
        labels: ``(N,)``.
        answers: The answers to the images as they come ``(N,)``. None: the model is asked.
    """

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, answers: Tensor | None = None) -> None:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        self._model, self._images, self._labels = model, images[order], labels[order]
        self._plain = self._asked(_as_they_come, None if answers is None else (answers == labels)[order])
        # Those whose answers are asked for first.
        self._first = torch.arange(len(images) if answers is not None else min(_BATCH, len(images)))

    def facts(
        self, gap: float, *, lagging: bool = False, settled: bool = False
    ) -> tuple[list[RepairFacts], RepairFacts | None]:
        """Return what changes with each way to show images, and with the statistics of the batch in BatchNorm.

        Where statistics of the batch are promising, the best way and they are compared on all images. There are no ways
        where statistics that lag behind explain what validation is worse by, or where too few images are wrong. The
        second is None where there is no BatchNorm.

        Args:
            gap: Share of right answers by which validation is worse than training.
            lagging: Whether BatchNorm is known to lag behind: then its statistics are tried on all images.
            settled: Whether its statistics must fit: where they do not, images are others than those of training.
        """
        norms = [
            one
            for one in self._model.modules()
            if isinstance(one, nn.modules.batchnorm._BatchNorm) and one.track_running_stats
        ]
        if not norms or len(self._images) < _LEAST_BATCH:
            return self._repairs(gap, until_certain=True), None
        statistics = self._with_statistics(norms, len(self._images) if lagging else min(_BATCH, len(self._images)))
        if not _is_promising(statistics, _PROBABLE):
            return self._repairs(gap, until_certain=True), statistics
        if len(self._images) > statistics.tried:
            statistics = self._with_statistics(norms, len(self._images))
        if not settled and statistics.gain >= LAGGING * gap:
            return [], statistics
        return self._repairs(gap, until_certain=False), statistics

    def reordered(self, order: Sequence[int]) -> RepairFacts:
        """Return what changes with the channels in another order."""
        first = torch.arange(min(_BATCH, len(self._images)))
        return self._compared("reordered", self._right(first, _ordered(*order)))

    def _repairs(self, gap: float, *, until_certain: bool) -> list[RepairFacts]:
        wrong = self._first[~self._plain(self._first)]
        if len(wrong) < GAIN * len(self._first):
            return []
        square = self._images.shape[2] == self._images.shape[3]
        channels = self._images.transpose(0, 1).flatten(1)
        ends = (channels.amin(dim=1) + channels.amax(dim=1)).view(-1, 1, 1)
        ways = {name: way for name, way in _WAYS.items() if square or name not in _SQUARE}
        ways["inverted"] = lambda images: ends - images
        if len(channels) == 3:
            ways[_BGR] = _ordered(2, 1, 0)
        found = self._tried(ways, wrong, until_certain=until_certain)
        if gap < _LARGE_GAP or any(one.gain >= LAGGING * gap or mends_part(one) for one in found):
            return found
        rare = self._tried(
            {**_RARE_WAYS, **(_ORDERS if len(channels) == 3 else {})}, wrong, until_certain=until_certain
        )
        if max(one.gain for one in rare) < _EXPLAINED * gap:
            # What moves images a little makes some right by chance.
            return found
        return [*rare, *(RepairFacts(one.name, 0, 0, 0) for one in found)]

    def _tried(self, ways: Mapping[str, _Way], wrong: Tensor, *, until_certain: bool) -> list[RepairFacts]:
        """Return what changes with each way; those that mend few of some wrong images are not tried on more."""
        asked = {name: self._asked(way) for name, way in ways.items()}
        names = list(ways)
        for few in _FEW:
            mended = {name: float(asked[name](wrong[:few]).float().mean()) for name in names}
            names = sorted((name for name in names if mended[name] >= _MENDED), key=lambda name: -mended[name])
        names = names[:_WAYS_KEPT]
        found = {name: RepairFacts(name, 0, 0, 0) for name in ways}
        for count, probable in (*_STEPS, (len(self._images), 0.0)):
            for name in names:
                found[name] = self._compared(name, asked[name](torch.arange(min(count, len(self._images)))))
            best = _most_promising([found[name] for name in names], probable)
            if best is None or (until_certain and (_is_promising(best, _CERTAIN) or mends_part(best))):
                break
            names = [best.name]
        return list(found.values())

    def _with_statistics(self, norms: list[nn.modules.batchnorm._BatchNorm], count: int) -> RepairFacts:
        with _in_training(norms):
            mended = self._right(torch.arange(count), _as_they_come)
        return self._compared("with the statistics of the batch", mended)

    def _compared(self, name: str, mended: Tensor) -> RepairFacts:
        right = self._plain(torch.arange(len(mended)))
        better = mended & ~right
        return RepairFacts(
            name,
            better=int(better.sum()),
            worse=int((right & ~mended).sum()),
            tried=len(mended),
            wrong=int((~right).sum()),
            classes=len(set(self._labels[: len(mended)][better].tolist())),
            channels=name in (_BGR, *_ORDERS),
        )

    def _right(self, at: Tensor, way: Callable[[Tensor], Tensor]) -> Tensor:
        """Return which of some images are answered rightly."""
        right: Tensor = answers(self._model, way(self._images[at])).argmax(dim=1) == self._labels[at]
        return right

    def _asked(self, way: _Way, told: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """Return a function from numbers of images to whether each is answered rightly; it asks once about each."""
        right = torch.zeros(len(self._images), dtype=torch.bool) if told is None else told
        known = torch.full((len(self._images),), told is not None)

        def ask(at: Tensor) -> Tensor:
            new = at[~known[at]]
            if len(new):
                right[new], known[new] = self._right(new, way), True
            return right[at]

        return ask


def _most_promising(found: Sequence[RepairFacts], probable: float) -> RepairFacts | None:
    """Return the way that makes most images right, or else most of the wrong ones: those of a part of the images."""
    best = max(found, key=lambda one: one.gain, default=None)
    if best is not None and not _is_promising(best, probable):
        best = max(found, key=lambda one: one.mended)
        return best if best.mended >= MENDED else None
    return best


def _is_promising(found: RepairFacts, probable: float) -> bool:
    return found.gain >= _PROMISING and mcnemar(found.better, found.worse) <= probable


def _as_they_come(images: Tensor) -> Tensor:
    return images


def _ordered(*order: int) -> _Way:
    return lambda images: images[:, list(order)]


def _mapped(width: float, height: float, x: float = 0.0, y: float = 0.0) -> _Way:
    """Return a way that reads images at other places: relative widths and heights, and the middle in [-1, 1]."""
    return _read_at([[width, 0.0, x], [0.0, height, y]])


def _turned(degrees: float) -> _Way:
    """Return a way that turns images against the clock; those that are not square are sheared a little, too."""
    angle = math.radians(degrees)
    return _read_at([[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]])


def _read_at(matrix: list[list[float]]) -> _Way:
    def change(images: Tensor) -> Tensor:
        places = torch.tensor([matrix], dtype=images.dtype).expand(len(images), 2, 3)
        grid = F.affine_grid(places, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

    return change


def _smoothed(images: Tensor) -> Tensor:
    for dim in (2, 3):
        at = torch.arange(images.shape[dim])
        before, after = (images.index_select(dim, (at + by).clamp(0, len(at) - 1)) for by in (-1, 1))
        images = (before + 2 * images + after) / 4
    return images


_WAYS: dict[str, _Way] = {
    "mirrored left to right": lambda images: images.flip(3),
    "turned upside down": lambda images: images.flip(2),
    "turned by 90 degrees": lambda images: images.rot90(1, (2, 3)),
    "turned by 180 degrees": lambda images: images.rot90(2, (2, 3)),
    "turned by 270 degrees": lambda images: images.rot90(3, (2, 3)),
    "with rows and columns exchanged": lambda images: images.transpose(2, 3),
    **{f"reduced to {factor:.0%}": _mapped(1 / factor, 1 / factor) for factor in (0.6, 0.7)},
    **{f"enlarged {factor} times": _mapped(1 / factor, 1 / factor) for factor in (1.4, 1.7)},
}
_RARE_WAYS: dict[str, _Way] = {
    "inverted around their mean": lambda images: 2 * images.mean(dim=(1, 2, 3), keepdim=True) - images,
    "turned by 30 degrees to the left": _turned(30),
    "turned by 30 degrees to the right": _turned(-30),
    "sharpened against blur": lambda images: images + 4 * (images - _smoothed(images)),
    "smoothed against noise": _smoothed,
    "stretched in width": _mapped(1 / 1.5, 1),
    "stretched in height": _mapped(1, 1 / 1.5),
    **{
        f"shifted by a fifth {name}": _mapped(1, 1, x, y)
        for name, x, y in (
            ("to the right", -0.4, 0), ("to the left", 0.4, 0), ("down", 0, -0.4), ("up", 0, 0.4),
            ("down and right", -0.4, -0.4), ("down and left", 0.4, -0.4),
            ("up and right", -0.4, 0.4), ("up and left", 0.4, 0.4),
        )
    },
}  # fmt: skip
"""Ways that are tried only where validation is far worse than training."""

_BGR = "with red and blue swapped"
_ORDERS: dict[str, _Way] = {
    "with red and green swapped": _ordered(1, 0, 2),
    "with green and blue swapped": _ordered(0, 2, 1),
    "with green, blue and red for red, green and blue": _ordered(1, 2, 0),
    "with blue, red and green for red, green and blue": _ordered(2, 0, 1),
}
"""The same of images with three channels."""

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
