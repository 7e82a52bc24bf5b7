"""What passes by in one epoch of training or validation: answers, statistics of images, and some images themselves."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vis_callbacks.diagnostics.facts import StageFacts

MOST_IMAGES = 1000
"""Images of an epoch whose statistics are measured."""

_KEPT, _KEPT_BYTES = 160, 64 * 2**20
_DOUBTED = 24
_MARKED = 640  # images that are looked at for marks, which takes longest
_GRID = 14
_LEVELS, _LEAST_RANGE, _PATCH = 16, 4, 4
_FINE, _COARSE = 64, 4  # up to this edge marks are looked for at each pixel, then at each fourth
_CONSTANT = 1e-3


@dataclass
class Ledger:
    """Gathers what the batches of one epoch show. Everything stays on the images' device until it is read.

    Attributes:
        classes: How many classes there are.
        measured: Whether images are looked at, and not only answers.
    """

    classes: int
    measured: bool = True
    labels: list[Tensor] = field(default_factory=list)
    answered: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    means: list[Tensor] = field(default_factory=list)
    deviations: list[Tensor] = field(default_factory=list)
    thumbnails: list[Tensor] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)
    marks: list[Tensor] = field(default_factory=list)
    image_labels: list[Tensor] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)
    kept_labels: list[int] = field(default_factory=list)
    doubted: list[tuple[float, Tensor, int, int]] = field(default_factory=list)
    images: int = 0
    range: tuple[float, float] | None = None
    shape: tuple[int, ...] = ()

    def add_images(self, images: Tensor, labels: Tensor) -> None:
        """Look at a batch of images ``(N, C, H, W)`` with labels ``(N,)``."""
        self.labels.append(labels.detach())
        other = bool(self.thumbnails) and images.shape[1:] != self.shape
        if not self.measured or self.images >= MOST_IMAGES or other:
            return
        images, self.shape = images.detach().float(), images.shape[1:]
        self.images += len(images)
        self.means.append(images.mean(dim=(2, 3)))
        self.deviations.append(images.flatten(1).std(dim=1))
        self.thumbnails.append(F.adaptive_avg_pool2d(images, _GRID))
        self.keys.append(content_keys(images))
        self.image_labels.append(labels.detach())
        if self.range is None:
            self.range = float(images.amin()), float(images.amax())
        if self.images <= _MARKED:
            self.marks.append(mark_keys(images, *self.range))
        self._keep(images, labels)

    def add_answers(self, logits: Tensor, labels: Tensor, images: Tensor) -> None:
        """Note the outputs ``(N, K)`` for a batch."""
        logits = logits.detach().float()
        self.answered.append((logits, labels.detach()))
        top = logits.softmax(dim=1).topk(2, dim=1)
        margin = torch.where(top.indices[:, 0] == labels, 0, top.values[:, 0] - top.values[:, 1])
        least = self.doubted[-1][0] if len(self.doubted) >= _DOUBTED else 0.5
        if not bool((margin > least).any()):
            return
        for index in (margin > least).nonzero()[:, 0].tolist():
            one = (
                float(margin[index]),
                images[index].detach().float().cpu(),
                int(labels[index]),
                int(top.indices[index, 0]),
            )
            self.doubted.append(one)
        self.doubted = sorted(self.doubted, key=lambda one: -one[0])[:_DOUBTED]

    def facts(self) -> StageFacts:
        """Return the numbers."""
        labels = torch.cat(self.labels).cpu() if self.labels else torch.zeros(0, dtype=torch.long)
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

    def _image_facts(self) -> dict[str, Any]:
        means, deviations = torch.cat(self.means).cpu(), torch.cat(self.deviations).cpu()
        usual = float(deviations.median())
        return {
            "images": len(means),
            "means": tuple(means.mean(dim=0).tolist()),
            "spread": tuple(means.std(dim=0).tolist()),
            "contrast": float(deviations.square().mean().sqrt()),
            "constant": int((deviations <= _CONSTANT * usual).sum()),
        }

    def _answer_facts(self) -> dict[str, Any]:
        if not self.answered:
            return {}
        logits = torch.cat([one for one, _ in self.answered]).cpu()
        labels = torch.cat([one for _, one in self.answered]).cpu()
        fits = (labels >= 0) & (labels < logits.shape[1])
        logits, labels = logits[fits], labels[fits]
        if not len(labels):
            return {}
        width = logits.shape[1]
        found = logits.argmax(dim=1)
        pairs = torch.bincount(labels * width + found, minlength=width * width).view(width, width)
        top = logits.softmax(dim=1).topk(min(2, width), dim=1)
        doubted = (found != labels) & (top.values[:, 0] - top.values[:, -1] > 0.5)
        late = slice(len(labels) // 2, None)
        last = (found == labels)[-max(1, len(labels) // 4) :]
        return {
            "confusion": tuple(map(tuple, pairs.tolist())),
            "cross_entropy": float(F.cross_entropy(logits[late], labels[late])),
            "doubted": int(doubted.sum()),
            "second": int((doubted & (top.indices[:, -1] == labels)).sum()),
            "tail": (float(last.float().mean()), len(last)),
        }

    def _keep(self, images: Tensor, labels: Tensor) -> None:
        most = min(_KEPT, max(16, _KEPT_BYTES // max(1, images[0].numel() * 4)))
        quota = max(1, most // max(1, min(self.classes, most)))
        if len(self.kept) >= most:
            return
        for index, label in enumerate(labels.tolist()):
            if len(self.kept) < most and self.kept_labels.count(label) < quota:
                self.kept.append(images[index].cpu())
                self.kept_labels.append(label)


def content_keys(images: Tensor) -> Tensor:
    """Return two numbers for each image ``(N, 2)`` that do not depend on the order of its pixels.

    Flips, turns and shifts over an even border have the same; images of a single colour have zeros.

    Example:
        >>> image = torch.rand(1, 3, 4, 4)
        >>> torch.equal(content_keys(image), content_keys(image.flip(3)))
        True
    """
    bits = images.contiguous().view(torch.int32).flatten(1).long()
    keys = torch.stack([bits.sum(dim=1), (bits * bits % 1_000_003).sum(dim=1)], dim=1)
    flat = images.flatten(1).amax(dim=1) == images.flatten(1).amin(dim=1)
    return torch.where(flat[:, None], 0, keys)


def mark_keys(images: Tensor, low: float, high: float) -> Tensor:
    """Return a number for the 4x4 pixels at each place, ``(N, rows, columns)``; 0 where they are flat."""
    levels = ((images - low) / max(high - low, 1e-12) * (_LEVELS - 1)).round().clamp(0, _LEVELS - 1)
    if min(levels.shape[-2:]) < _PATCH:
        return levels.new_zeros(len(images), 1, 1).long()
    step = 1 if max(images.shape[-2:]) <= _FINE else _COARSE
    high_levels = F.max_pool2d(levels, _PATCH, step)
    low_levels = -F.max_pool2d(-levels, _PATCH, step)
    ranged = (high_levels - low_levels).amax(dim=1) >= _LEAST_RANGE
    channels = levels.shape[1]
    random = torch.Generator().manual_seed(0)
    # Whole numbers below 2**53 are exact in double precision.
    factors = torch.randint(1, 2**31, (2, channels, _PATCH, _PATCH), generator=random).double().to(images.device)
    sums = F.conv2d(levels.double(), factors, stride=step).long()
    return torch.where(ranged, sums[:, 0] * 1_000_003 + sums[:, 1], 0)
