"""How well a part of the image tells the class by itself: a window, the border, a mark that repeats."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vis_callbacks.diagnostics.facts import PlaceFacts
from vis_callbacks.diagnostics.ledger import Ledger
from vis_callbacks.diagnostics.shortcut import LEAD, MARKS, OF_CLASS, SHARE

_CLASSES = 20  # the most frequent ones are told apart
_LEAST = 8  # images of a class
_LEAST_MARKS = 4  # images of a class
_WINDOW = 2  # cells
_KNOWN = 0.9  # F1 score
_NEAR = 2  # cells
_ALL, _ONE = 0.9, 0.75  # of the windows, that all classes are compared by, and one: a line is in a sixth of them
_INSIDE = 4  # cells between the border and the ring that it is compared with


def place_facts(ledger: Ledger) -> tuple[PlaceFacts, PlaceFacts, Tensor]:
    """Return the best window and the border, and the mean of the small copies of each class.

    A nearest-class-mean rule with diagonal variances is fitted on half of the small copies, and tested on the others.
    """
    if not ledger.thumbnails:
        return PlaceFacts(), PlaceFacts(), torch.zeros(0, 1, 1, 1)
    small, labels = torch.cat(ledger.thumbnails).cpu(), torch.cat(ledger.image_labels).cpu()
    # What has no label is of no class.
    counts = torch.bincount(labels[labels >= 0], minlength=ledger.classes)
    means = torch.stack(
        [
            small[labels == number].mean(dim=0) if counts[number] else torch.zeros_like(small[0])
            for number in range(min(ledger.classes, _CLASSES))
        ]
    )
    frequent = [number for number in counts.argsort(descending=True)[:_CLASSES].tolist() if counts[number] >= _LEAST]
    if len(frequent) < 2:
        return PlaceFacts(), PlaceFacts(), means
    chosen = torch.isin(labels, torch.tensor(frequent))
    small, labels = small[chosen], labels[chosen]
    targets = torch.tensor([frequent.index(label) for label in labels.tolist()])
    # Every other image of each class.
    fitted = F.one_hot(targets).cumsum(dim=0).gather(1, targets[:, None])[:, 0] % 2 == 1
    likely = _log_likelihoods(small[fitted], targets[fitted], small[~fitted], len(frequent))
    asked = targets[~fitted]
    windows = F.avg_pool2d(likely, _WINDOW, 1)
    # Along the last axis the largest is found several times faster.
    answers = windows.permute(0, 2, 3, 1).contiguous().argmax(dim=3)
    right = (answers == asked[:, None, None]).sum(dim=0)
    best = int(right.argmax())
    cells = likely.shape[-1]
    # Always giving the most frequent class needs no place at all.
    guessed = float(torch.bincount(asked).max()) / len(asked)
    beyond = max(guessed, _beyond(right.float(), best, _ALL) / len(asked))
    window = PlaceFacts(right=int(right.flatten()[best]), tried=len(asked), box=_box(best, cells), beyond=beyond)
    if window.right < max(SHARE, beyond + LEAD) * window.tried:
        # It does not tell all classes; another one, or a mark, may tell one.
        window = _marked(ledger, _known(answers, asked, frequent, window))
    outer, inner = (
        int((likely[:, :, ring].sum(dim=2).argmax(dim=1) == asked).sum())
        for ring in (_ring(cells, 0), _ring(cells, _INSIDE))
    )
    border = PlaceFacts(right=outer, tried=len(asked), beyond=max(guessed, inner / len(asked)))
    return window, border, means


def _log_likelihoods(known: Tensor, classes: Tensor, asked: Tensor, count: int) -> Tensor:
    """Return how likely each cell is under each class, ``(N, K, h, w)``."""
    floor = 1e-3 * known.var(dim=0).mean().clamp(min=1e-12)
    found = []
    for number in range(count):
        mine = known[classes == number]
        mean, variance = mine.mean(dim=0), mine.var(dim=0, correction=0) + floor
        found.append((-(asked - mean).square() / (2 * variance) - variance.log() / 2).sum(dim=1))
    return torch.stack(found, dim=1)


def _ring(cells: int, depth: int) -> Tensor:
    ring = torch.zeros(cells, cells, dtype=torch.bool)
    ring[depth : cells - depth, depth : cells - depth] = True
    ring[depth + 1 : cells - depth - 1, depth + 1 : cells - depth - 1] = False
    return ring


def _beyond(scores: Tensor, best: int, most: float) -> float:
    """Return what so large a share of the windows stays below that do not touch the best one."""
    rows, columns = torch.meshgrid(*map(torch.arange, scores.shape), indexing="ij")
    row, column = divmod(best, scores.shape[1])
    far = ((rows - row).abs() > _NEAR) | ((columns - column).abs() > _NEAR)
    return float(scores[far].quantile(most))


def _box(window: int, cells: int) -> tuple[float, float, float, float]:
    row, column = divmod(window, cells - _WINDOW + 1)
    return column / cells, row / cells, (column + _WINDOW) / cells, (row + _WINDOW) / cells


def _known(answers: Tensor, asked: Tensor, frequent: list[int], window: PlaceFacts) -> PlaceFacts:
    """Return the window by which the rule knows one class best, compared with most others; else the one given.

    An object is known by many windows, a mark by those that it is in.
    """
    best, lead = window, LEAD
    for own, number in enumerate(frequent):
        called, true = answers == own, asked == own
        hits = (called & true[:, None, None]).sum(dim=0)
        scores = 2 * hits / (called.sum(dim=0) + true.sum()).clamp(min=1)
        at = int(scores.argmax())
        row, column = divmod(at, scores.shape[1])
        guessed = 2 * int(true.sum()) / (len(asked) + int(true.sum()))  # by calling all images so
        score, beyond = float(scores[row, column]), max(guessed, _beyond(scores, at, _ONE))
        if score >= _KNOWN and score - beyond > lead:
            lead = score - beyond
            best = replace(
                window,
                box=_box(at, scores.shape[1] + _WINDOW - 1),
                marked=(number,),
                marks=int(hits[row, column]),
                of_class=int(true.sum()),
                elsewhere=int(called[:, row, column].sum() - hits[row, column]),
                repeated=False,
                beyond=beyond,
            )
    return best


def _marked(ledger: Ledger, window: PlaceFacts) -> PlaceFacts:
    """Return the window with the mark that tells a class best; the mark's own place if there is one."""
    if not ledger.marks:
        return window
    marks = torch.cat(ledger.marks).cpu()
    labels, keys = (torch.cat(some).cpu()[: len(marks)] for some in (ledger.image_labels, ledger.keys))
    # Of images that are the same, the first counts.
    single = torch.from_numpy(np.sort(np.unique(keys.numpy(), return_index=True)[1]))
    marks, labels = marks[single], labels[single]
    rows, columns = marks.shape[1:]
    best = PlaceFacts()
    marks, labels = marks[labels >= 0].flatten(1), labels[labels >= 0]
    numbers, classes = torch.unique(labels, return_inverse=True)
    sizes = torch.bincount(classes)[:, None]
    for own, number in enumerate(numbers.tolist()):
        mine = marks[classes == own]
        if len(mine) < _LEAST:
            continue
        # Flat places are no marks: a number of its own for each image keeps them from being common.
        common = torch.where(mine == 0, -1 - torch.arange(len(mine))[:, None], mine).mode(dim=0).values
        # What hardly any image of the class has is no mark of it, and most places have nothing else.
        here = ((mine == common).sum(dim=0) >= _LEAST_MARKS).nonzero()[:, 0]
        if not len(here):
            continue
        have = torch.zeros(len(numbers), len(here), dtype=torch.long)
        have.index_add_(0, classes, (marks[:, here] == common[here]).long())
        # Other classes may have it too, in most of their images, if the rest has it not.
        carry = 2 * have >= sizes
        carry[own] = True
        carry &= (2 * carry.sum(dim=0) <= len(numbers)) | (torch.arange(len(numbers)) == own)[:, None]
        inside, elsewhere = (have * carry).sum(dim=0), (have * ~carry).sum(dim=0)
        worth = inside - 9 * elsewhere
        at = int(worth.argmax())
        if int(worth[at]) > max(0, best.marks - 9 * best.elsewhere):
            row, column = divmod(int(here[at]), columns)
            box = (column / (columns + 3), row / (rows + 3), (column + 4) / (columns + 3), (row + 4) / (rows + 3))
            best = replace(
                window,
                box=box,
                marked=(number, *(other for other in numbers[carry[:, at]].tolist() if other != number)),
                marks=int(inside[at]),
                of_class=int(sizes[carry[:, at]].sum()),
                elsewhere=int(elsewhere[at]),
                repeated=True,
            )
    return best if best.marks >= max(MARKS, OF_CLASS * best.of_class) else window
