"""What passes by in one epoch of training or validation: answers, statistics of images, and some images themselves."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vis_callbacks.diagnostics.facts import StageFacts

MOST_IMAGES = 1000
"""Images of an epoch whose statistics are measured."""

MOST_KEYS = 100_000
"""Images of an epoch that are compared with those of the other stage."""

_TOGETHER, _SMALL = 512, 2**20
"""Images that are looked at together, of batches of up to so many bytes: each look has a price of its own."""

_KEPT, _KEPT_BYTES = 160, 64 * 2**20
_RANGED = 32  # of those that are kept
_AROUND = 2  # pixels
_SOME, _FEW_VALUES = 16, 32  # images that have fewer values than this together are drawings, or masks
_DOUBTED, _CONFIDENT = 24, 0.5
_OF_BATCH, _LEAST_OF_BATCH = 8, 4  # at most one in so many images of a batch, or so many, is kept as doubted
_AT_ONCE = 8  # batches whose doubted images are compared at once
_MOST_CLASSES = 1000  # of more, no table of answers is made
_MARKED = 640  # images that are looked at for marks, which takes longest
_GRID = 14
_LEVELS, _LEAST_RANGE, _PATCH = 16, 4, 4
_FINE, _COARSE = 64, 4  # up to this edge marks are looked for at each pixel, then at each fourth
_CONSTANT, _ROUNDED = 1e-3, 1e-6
_ALIKE = 0.9999


@dataclass
class _Batch:
    images: Tensor
    labels: Tensor
    logits: Tensor | None = None


@dataclass
class Ledger:
    """Gathers what the batches of one epoch show. Everything stays on the images' device until it is read.

    Small batches are put aside, and looked at a few together: `settle` before anything is read.

    Attributes:
        classes: How many classes there are.
        measured: Whether images are looked at and kept, and not only answers.
        keys_wanted: Whether images are compared with those of the other stage.
        small: Whether small copies of the images are made.
        marks_wanted: Whether marks are looked for, which repeat at a place.
        answers: Of each image label (-1: none), answer, second choice, gap between their probabilities, and loss.
        doubted: Images whose label is denied with the most confidence; of each this confidence, label and answer. In
            parts, of which the first holds the most denied of all before.
        few_values: Whether images have few values, as drawings have; None: none was compared yet.
        kept: Some images of each class.
        kept_at: Which of all images these are, in the order in which they came.
        batch: How many images the largest batch had.
    """

    classes: int
    measured: bool = True
    keys_wanted: bool = True
    small: bool = True
    marks_wanted: bool = True
    labels: list[Tensor] = field(default_factory=list)
    answers: list[Tensor] = field(default_factory=list)
    means: list[Tensor] = field(default_factory=list)
    deviations: list[Tensor] = field(default_factory=list)
    thumbnails: list[Tensor] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)
    marks: list[Tensor] = field(default_factory=list)
    image_labels: list[Tensor] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)
    kept_labels: list[int] = field(default_factory=list)
    kept_at: list[int] = field(default_factory=list)
    doubted: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    count: int = 0
    images: int = 0
    keyed: int = 0
    batch: int = 0
    width: int = 0
    range: tuple[float, float] | None = None
    few_values: bool | None = None
    shape: tuple[int, ...] = ()
    _aside: list[_Batch] = field(default_factory=list)

    def add_images(self, images: Tensor, labels: Tensor) -> None:
        """Look at a batch of images ``(N, C, H, W)`` with labels ``(N,)``, before the step, which may change it."""
        self.batch = max(self.batch, len(labels))
        # What is not looked at is not kept.
        images = images.detach() if self.measured else images.new_empty(len(labels), 0, 0, 0)
        small = images.nbytes <= _SMALL
        if self._aside and (
            not small
            or images.shape[1:] != self._aside[0].images.shape[1:]
            or sum(len(one.labels) for one in self._aside) >= _TOGETHER
        ):
            self.settle()
        if small:
            self._aside.append(_Batch(images.clone(), labels.detach().clone()))
        else:
            self._look_at(images, labels)

    def add_answers(self, logits: Tensor, labels: Tensor, images: Tensor) -> None:
        """Note what the outputs ``(N, K)`` for the batch that was added last say, in a few numbers for each image."""
        if self._aside:
            self._aside[-1].logits = logits.detach().clone()
        else:
            self._note(logits, labels, images)

    def settle(self) -> None:
        """Look at what was put aside. Idempotent."""
        batches, self._aside = self._aside, []
        if batches:
            self._look_at(torch.cat([one.images for one in batches]), torch.cat([one.labels for one in batches]))
        # Of a step that failed, or whose network is not known yet, there are no answers.
        answered = [(one.logits, one.labels, one.images) for one in batches if one.logits is not None]
        if answered:
            self._note(*(torch.cat(column) for column in zip(*answered, strict=True)))

    def _look_at(self, images: Tensor, labels: Tensor) -> None:
        self.labels.append(labels.detach())
        self.count += len(labels)
        if not self.measured or (self.shape and images.shape[1:] != self.shape):
            return
        images, self.shape = images.detach().float(), images.shape[1:]
        if self.keys_wanted and self.keyed < MOST_KEYS:
            if self.few_values is None:
                self.few_values = len(torch.unique(images[:_SOME])) < _FEW_VALUES
            self.keys.append(content_keys(images, neighbours=self.few_values))
            self.keyed += len(images)
        if self.images >= MOST_IMAGES:
            return
        means = images.mean(dim=(2, 3))
        self.means.append(means)
        # Twenty times faster than `std`.
        apart = torch.linalg.vector_norm(images - means[:, :, None, None], dim=(2, 3))
        self.deviations.append(apart / images[0, 0].numel() ** 0.5)
        if self.small:
            self.thumbnails.append(F.adaptive_avg_pool2d(images, _GRID).nan_to_num(0, 0, 0))
            self.image_labels.append(labels.detach())
        if self.marks_wanted and self.images < _MARKED:
            self._mark(images)
        self.images += len(images)
        self._keep(images, labels)

    def _mark(self, images: Tensor) -> None:
        if self.range is None:
            self.range = float(images.amin().nan_to_num(0)), float(images.amax().nan_to_num(0))
        self.marks.append(mark_keys(images[: _MARKED - self.images], *self.range))

    def _note(self, logits: Tensor, labels: Tensor, images: Tensor) -> None:
        logits, labels = logits.detach().float(), labels.detach()
        fits = (labels >= 0) & (labels < logits.shape[1])
        logarithms = logits.log_softmax(dim=1)
        loss = -logarithms.gather(1, labels.where(fits, 0)[:, None])[:, 0]
        values, indices = logarithms.topk(min(2, logits.shape[1]), dim=1)
        gap = values[:, 0].exp() - values[:, -1].exp()
        found, second = indices[:, 0], indices[:, -1]
        self.width = logits.shape[1]
        self.answers.append(torch.stack([labels.where(fits, -1), found, second, gap, loss], dim=1))
        if self.measured:
            self._doubt(images, labels, found, gap.where(fits & (found != labels), 0))

    def facts(self) -> StageFacts:
        """Return the numbers."""
        labels = self.all_labels
        known = labels[(labels >= 0) & (labels < self.classes)]
        counts = torch.bincount(known, minlength=self.classes)
        shares = counts[counts > 0] / max(1, len(known))
        measured = {} if not self.means else self._image_facts()
        return StageFacts(
            labels=tuple(counts.tolist()),
            entropy=float(-(shares * shares.log()).sum()),
            **self._answer_facts(),
            **measured,
        )

    @property
    def most_doubted(self) -> list[tuple[Tensor, int, int]]:
        """Images whose label is denied with the most confidence, each with label and answer."""
        if not self.doubted:
            return []
        images, numbers = (one.cpu() for one in _worst(self.doubted))
        told = [row for row, gap in enumerate(numbers[:, 0].tolist()) if gap > _CONFIDENT]
        return [(images[row], int(numbers[row, 1]), int(numbers[row, 2])) for row in told]

    @property
    def all_labels(self) -> Tensor:
        """The labels of the epoch ``(N,)``, in the order in which they came."""
        return torch.cat(self.labels).cpu() if self.labels else torch.zeros(0, dtype=torch.long)

    @property
    def kept_answers(self) -> Tensor | None:
        """The answers to the images that are kept ``(N,)``; None if those to any image are not known."""
        answers = torch.cat(self.answers) if self.answers else torch.zeros(0, 5)
        return answers[self.kept_at, 1].long().cpu() if len(answers) == self.count else None

    def _image_facts(self) -> dict[str, Any]:
        means, channels = torch.cat(self.means).cpu(), torch.cat(self.deviations).cpu()
        whole = channels.isfinite().all(dim=1)
        broken, means, channels = int((~whole).sum()), means[whole], channels[whole]
        if not len(means):
            return {"broken": broken}
        # Of all pixels: within the channels, and between them.
        deviations = (channels.square() + (means - means.mean(dim=1, keepdim=True)).square()).mean(dim=1).sqrt()
        # Where all images have one colour, what is left of it is what rounding leaves.
        flat = channels <= max(_CONSTANT * float(deviations.median()), _ROUNDED * float(means.abs().max()))
        some = torch.stack(self.kept[:_RANGED])
        return {
            "images": len(means),
            "ends": float(some.amin() + some.amax()),
            "gray": float(_are_gray(some).float().mean()),
            "broken": broken,
            "flat": tuple(flat.sum(dim=0).tolist()),
            "means": tuple(means.mean(dim=0).tolist()),
            "spread": tuple(means.std(dim=0).tolist()),
            "contrast": float(deviations.square().mean().sqrt()),
            "constant": int(flat.all(dim=1).sum()),
        }

    def _answer_facts(self) -> dict[str, Any]:
        if not self.answers:
            return {}
        answers = torch.cat(self.answers).cpu()
        answers = answers[answers[:, 0] >= 0]
        if not len(answers):
            return {}
        labels, found, second = (column.long() for column in answers[:, :3].T)
        gap, loss = answers[:, 3], answers[:, 4]
        doubted = (found != labels) & (gap > _CONFIDENT)
        last = (found == labels)[-max(1, len(labels) // 4) :]
        facts = {
            "cross_entropy": float(loss[len(labels) // 2 :].mean()),
            "doubted": int(doubted.sum()),
            "second": int((doubted & (second == labels)).sum()),
            "tail": (float(last.float().mean()), len(last)),
        }
        if self.width <= _MOST_CLASSES:
            pairs = torch.bincount(labels * self.width + found, minlength=self.width**2)
            facts["confusion"] = tuple(map(tuple, pairs.view(self.width, self.width).tolist()))
        return facts

    def _doubt(self, images: Tensor, labels: Tensor, answers: Tensor, gap: Tensor) -> None:
        """Keep the images whose label is denied with the most confidence. Nothing waits for the device here."""
        if self.doubted and images.shape[1:] != self.doubted[0][0].shape[1:]:
            return
        numbers = torch.stack([gap, labels.float(), answers.float()], dim=1)
        worst = gap.topk(min(_DOUBTED, len(gap), max(_LEAST_OF_BATCH, len(gap) // _OF_BATCH))).indices
        self.doubted.append((images.detach()[worst].float(), numbers[worst]))
        if len(self.doubted) > _AT_ONCE:
            self.doubted = [_worst(self.doubted)]

    def _keep(self, images: Tensor, labels: Tensor) -> None:
        most = min(_KEPT, max(16, _KEPT_BYTES // max(1, images[0].numel() * 4)))
        quota = max(1, most // max(1, min(self.classes, most)))
        if len(self.kept) >= most:
            return
        chosen = []
        for index, label in enumerate(labels.tolist()):
            if len(self.kept_labels) < most and self.kept_labels.count(label) < quota:
                chosen.append(index)
                self.kept_labels.append(label)
                self.kept_at.append(self.count - len(labels) + index)
        self.kept.extend(images[chosen].cpu())


def _worst(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the images that are denied with the most confidence, and their numbers, the most denied first."""
    images, numbers = (torch.cat(column) for column in zip(*parts, strict=True))
    worst = numbers[:, 0].topk(min(_DOUBTED, len(numbers))).indices
    return images[worst], numbers[worst]


def _are_gray(images: Tensor) -> Tensor:
    """Return which images ``(N, C, H, W)`` have channels that are alike, but for contrast and brightness."""
    channels = images.flatten(2)
    channels = channels - channels.mean(dim=2, keepdim=True)
    likeness = F.cosine_similarity(channels[:, :1], channels[:, 1:], dim=2)
    return (likeness > _ALIKE).all(dim=1) if images.shape[1] > 1 else torch.zeros(len(images), dtype=torch.bool)


def content_keys(images: Tensor, *, neighbours: bool = False) -> Tensor:
    """Return a number for each image ``(N,)`` that does not depend on the order of its pixels.

    Flips, turns and shifts over an even border have the same; images of a single colour have 0.

    Args:
        images: ``(N, C, H, W)`` float32.
        neighbours: Whether a pixel counts with those around it: how many are black and how many white tells little.

    Example:
        >>> image = torch.rand(1, 3, 4, 4)
        >>> torch.equal(content_keys(image), content_keys(image.flip(3)))
        True
    """
    bits = images.contiguous().view(torch.int32)
    flat = bits.flatten(2)
    several = (flat.amin(dim=2) != flat.amax(dim=2)).any(dim=1)
    for _ in range(_AROUND if neighbours else 0):
        bits = _mixed(bits)
        # A sum is the same however the image is turned.
        bits = 5 * bits + sum(bits.roll(by, dim) for dim in (2, 3) for by in (1, -1))
    mixed = _mixed(bits.flatten(1))
    halves = mixed.sum(dim=1, dtype=torch.int32), mixed.mul_(mixed).sum(dim=1, dtype=torch.int32)
    keys = (halves[0].long() << 32) + halves[1].long()
    return keys.where(several, 0)


def _mixed(bits: Tensor) -> Tensor:
    # What is too large for 32 bits wraps around, which a key may. Numbers of few digits end in zeros: the factor brings
    # what they have to the upper bits, the shift to the lower ones.
    mixed = bits * -1_640_531_527
    mixed ^= mixed >> 16
    return mixed


def mark_keys(images: Tensor, low: float, high: float) -> Tensor:
    """Return a number for the 4x4 pixels at each place, ``(N, rows, columns)``; 0 where they are flat."""
    scale = (_LEVELS - 1) / max(high - low, 1e-12)
    levels = (images - low).mul_(scale).round_().clamp_(0, _LEVELS - 1).to(torch.uint8)
    if min(levels.shape[-2:]) < _PATCH:
        return levels.new_zeros(len(images), 1, 1).long()
    step = 1 if max(images.shape[-2:]) <= _FINE else _COARSE
    highest, lowest = (
        reduce(larger, _shifted(reduce(larger, _shifted(levels, 3, step)), 2, step))
        for larger in (torch.maximum, torch.minimum)
    )
    ranged = (highest - lowest).amax(dim=1) >= _LEAST_RANGE
    # Sixteen pixels of sixteen levels are exactly the bits of a number.
    rows = _packed([one.int() for one in _shifted(levels, 3, step)], 4)
    patches = _packed([one.long() for one in _shifted(rows, 2, step)], 16)
    random = torch.Generator().manual_seed(0)
    factors = 2 * torch.randint(2**31, (levels.shape[1], 1, 1), generator=random) + 1
    return (patches * factors.to(images.device)).sum(dim=1).where(ranged, 0)


def _shifted(images: Tensor, dim: int, step: int) -> list[Tensor]:
    """Return the first, second, ... pixel of each patch along an axis."""
    last = images.shape[dim] - _PATCH + 1
    return [images.narrow(dim, at, last)[(slice(None),) * dim + (slice(None, None, step),)] for at in range(_PATCH)]


def _packed(parts: list[Tensor], bits: int) -> Tensor:
    return reduce(torch.add, (part << bits * at for at, part in enumerate(parts)))
