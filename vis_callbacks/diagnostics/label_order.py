"""In which order the classes of an epoch come."""

import torch
from torch import Tensor
from torch.nn import functional as F

from vis_callbacks.diagnostics.facts import OrderFacts

_APART = 16
"""Most batches between images that are compared: as many as loader workers take turns."""

_COLUMNS = 64


def order_facts(labels: Tensor, batch: int) -> OrderFacts | None:
    """Return in which order labels come.

    Args:
        labels: ``(N,)`` long, in the order of the epoch; negative ones are left out.
        batch: How many images a batch has.

    Example:
        >>> found = order_facts(torch.arange(4).repeat_interleave(25), batch=10)
        >>> found.runs, round(found.random_runs)
        (4, 75)
    """
    labels = labels[labels >= 0]
    if not len(labels):
        return None
    counts = labels.bincount()
    same = float((counts / len(labels)).square().sum())
    shares = _shares(labels, batch, len(counts))
    apart = range(1, min(_APART, len(shares) // 2) + 1)
    shared = [float((shares[:-one] * shares[one:]).sum(dim=1).mean()) for one in apart]
    return OrderFacts(
        images=len(labels),
        batches=-(-len(labels) // batch),
        present=int((counts > 0).sum()),
        runs=1 + int((labels[1:] != labels[:-1]).sum()),
        random_runs=1 + (len(labels) - 1) * (1 - same),
        share=max(shared, default=same),
        random_share=same,
    )


def arrivals(labels: Tensor, classes: int) -> Tensor:
    """Return the share of each class ``(classes, columns)`` in equal parts of an epoch, from its start to its end."""
    labels = labels[(labels >= 0) & (labels < classes)]
    part = max(1, -(-len(labels) // _COLUMNS))
    return _shares(labels, part, classes).T if len(labels) else torch.zeros(classes, 0)


def _shares(labels: Tensor, part: int, classes: int) -> Tensor:
    """Return the share of each class in each part ``(parts, classes)``."""
    parts = -(-len(labels) // part)
    places = torch.arange(len(labels)) // part * classes + labels
    counts = places.bincount(minlength=parts * classes).view(parts, classes).float()
    return F.normalize(counts, p=1, dim=1)
