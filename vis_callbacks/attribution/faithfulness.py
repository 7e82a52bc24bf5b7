"""How far a map can be trusted: deletion, insertion, and likeness to another map."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur


def deletion_and_insertion(
    score: Callable[[Tensor], Tensor], images: Tensor, maps: Tensor, steps: int = 5
) -> tuple[Tensor, Tensor]:
    """Return the mean score of each image while its pixels are blurred, and while they come back, in a map's order.

    Low and high are good: what the map puts first is then what the score hangs on. For a map that says nothing the two
    are equal.

    Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models", 2018, arXiv:1806.07421.

    Args:
        score: From images ``(N, C, H, W)`` to a score of each ``(N,)``, such as the probability of a class.
        images: ``(N, C, H, W)``.
        maps: ``(N, C, H, W)``; what is largest, summed over the channels, comes first.
        steps: Parts in which all pixels are taken away.

    Returns:
        Deletion ``(N,)`` and insertion ``(N,)``.

    Example:
        >>> images = torch.zeros(1, 1, 8, 8)
        >>> images[..., :2] = 1.0
        >>> deletion, insertion = deletion_and_insertion(lambda x: x[..., :2].mean((1, 2, 3)), images, images)
        >>> bool(deletion < insertion)
        True
    """
    kernel = images.shape[-1] // 4 * 2 + 1
    blurred = gaussian_blur(images, [kernel, kernel], [kernel / 6, kernel / 6])
    order = maps.sum(dim=1).flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places).view(len(images), 1, *images.shape[2:])
    ends = score(images), score(blurred)

    def area(start: Tensor, end: Tensor) -> Tensor:
        within = [score(torch.where(rank * steps < step * order.shape[1], end, start)) for step in range(1, steps)]
        return (sum(within, torch.zeros_like(ends[0])) + (ends[0] + ends[1]) / 2) / steps

    return area(images, blurred), area(blurred, images)


def rank_correlation(one: Tensor, other: Tensor) -> Tensor:
    """Return Spearman's rank correlation of two maps ``(N, C, H, W)`` of each image, summed over the channels ``(N,)``.

    Equal values share their mean rank: places where both maps are zero make them no more alike. A map that is the same
    everywhere correlates with none.

    Example:
        >>> maps = torch.rand(2, 1, 4, 4)
        >>> rank_correlation(maps, 3 * maps).allclose(torch.ones(2))
        True
    """
    ranks = []
    for maps in (one, other):
        flat = maps.sum(dim=1).flatten(1)
        order = flat.sort(dim=1).values
        below, upto = (torch.searchsorted(order, flat, right=right) for right in (False, True))
        rank = (below + upto).double()
        ranks.append(nn.functional.normalize(rank - rank.mean(dim=1, keepdim=True), dim=1))
    return (ranks[0] * ranks[1]).sum(dim=1).float()


@contextmanager
def shuffled_output_layer(model: nn.Module, classes: int, seed: int) -> Iterator[str]:
    """Shuffle the weights of the last layer with this many outputs, and put them back afterwards.

    What is left of a map then does not come from what was learned of the classes.

    Adebayo et al., "Sanity Checks for Saliency Maps", 2018, arXiv:1810.03292.

    Args:
        model: From images to logits.
        classes: How many logits there are.
        seed: Which order the weights get.

    Yields:
        The name of the layer; "" if there is none.
    """
    weights = {
        name: one.weight
        for name, one in model.named_modules()
        if isinstance(getattr(one, "weight", None), Tensor) and one.weight.ndim > 1 and len(one.weight) == classes
    }
    name, weight = weights.popitem() if weights else ("", None)
    if not isinstance(weight, nn.Parameter):  # one that is computed anew in each pass
        yield ""
        return
    kept = weight.detach().clone()
    order = torch.randperm(weight.numel(), generator=torch.Generator().manual_seed(seed)).to(weight.device)
    with torch.no_grad():
        weight.copy_(kept.flatten()[order].view_as(kept))
    try:
        yield name
    finally:
        with torch.no_grad():
            weight.copy_(kept)
