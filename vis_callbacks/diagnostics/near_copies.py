"""Images that are all but the same: saved again, brighter, or resized in another way."""

import torch
from torch import Tensor

_RATIO = 0.25
_FEWEST = 32  # images, so that the second nearest says how far apart different images are
_FLAT = 0.02  # of the usual contrast


def near_copies(known: Tensor, asked: Tensor) -> tuple[int, int]:
    """Count the images that are far nearer to one of the known ones, or to its mirror image, than to any other.

    Brightness and contrast do not count. This is the ratio test of Lowe, "Distinctive Image Features from
    Scale-Invariant Keypoints", 2004.

    Args:
        known: Small copies ``(N, C, h, w)``.
        asked: Small copies ``(M, C, h, w)``.

    Returns:
        How many of those asked about are near copies, and how many were compared.

    Example:
        >>> known = torch.rand(40, 1, 14, 14)
        >>> near_copies(known, torch.cat([0.8 * known[:3] + 0.1, torch.rand(5, 1, 14, 14)]))
        (3, 8)
    """
    known, asked = _normed(known), _normed(asked)
    if len(known) < _FEWEST or known.shape[1:] != asked.shape[1:]:
        return 0, 0
    plain, mirrored = (torch.cdist(asked.flatten(1), one.flatten(1)) for one in (known, known.flip(3)))
    nearest = torch.minimum(plain, mirrored).topk(2, largest=False).values
    return int((nearest[:, 0] < _RATIO * nearest[:, 1]).sum()), len(asked)


def _normed(images: Tensor) -> Tensor:
    """Return images without their brightness and contrast; those of a single colour are left out."""
    apart = images - images.mean(dim=(2, 3), keepdim=True)
    sizes = torch.linalg.vector_norm(apart, dim=(1, 2, 3))
    chosen = sizes > _FLAT * sizes.median() if len(sizes) else sizes > 0
    normed: Tensor = apart[chosen] / sizes[chosen, None, None, None]
    return normed
