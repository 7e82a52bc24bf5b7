"""Show maps that one has: beside their images, over them, in a grid."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from vis_callbacks import checks
from vis_callbacks.attribution.callback import SMOOTH, Display, display_tile
from vis_callbacks.data.pixels import find_normalization
from vis_callbacks.data.samples import displayable
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.notebook.figure import PictureFigure
from vis_callbacks.output.render import render
from vis_callbacks.panel import Panel, Tile

_MOST_COLUMNS = 6


def show(
    maps: Tensor | Sequence[Tensor],
    images: Tensor | None = None,
    *,
    save_path: str | Path | None = None,
    display: Display | None = None,
    captions: Sequence[str] = (),
    alpha: float = 0.5,
    smooth: float = SMOOTH,
) -> PictureFigure:
    """Show maps, or pictures, in one figure: each beside its image and over it, those of both signs around zero.

    Args:
        maps: ``(N, C, H, W)``, ``(N, H, W)``, ``(C, H, W)`` or ``(H, W)``, or several such, which stand side by side.
            Three channels that lie in [0, 1] are pictures, such as those of `class_appearance`.
        images: What they belong to, ``(N, C, H, W)`` or ``(C, H, W)``, in the model's input space or in [0, 1].
        save_path: A file to write the figure to; missing folders are created.
        display: How maps are shown, see `Display`. None: over the image if it is given, else alone.
        captions: One under each of several maps.
        alpha: Opacity of a map over its image, in [0, 1].
        smooth: How far maps are blurred where they are drawn, as a share of their longer side; 0 draws each pixel.

    Returns:
        A figure of matplotlib.

    Raises:
        ConfigurationError: If the shapes do not fit.

    Example:
        >>> figure = show(torch.rand(2, 1, 8, 8), torch.rand(2, 3, 16, 16))
        >>> len(figure.axes)
        2
    """
    several = [_batched(maps)] if isinstance(maps, Tensor) else [_batched(one) for one in maps]
    counts = {len(one) for one in several} | ({len(_batched(images))} if images is not None else set())
    if len(counts) != 1:
        shapes = ", ".join(str(tuple(one.shape)) for one in [*several, *([] if images is None else [images])])
        raise ConfigurationError(f"maps and images of {shapes}: expected the same number of each, at least one")
    pixels = None if images is None else _pixels(_batched(images))
    checks.number("alpha", alpha, 0, 1)
    checks.number("smooth", smooth, 0, 1)
    rows = [
        [
            *([] if pixels is None else [Tile(pixels[row])]),
            *(
                _tile(one[row], None if pixels is None else pixels[row], display, alpha, smooth, caption)
                for one, caption in zip(several, [*captions, *[""] * len(several)], strict=False)
            ),
        ]
        for row in range(counts.pop())
    ]
    if len(rows[0]) == 1:
        # Without anything beside them, several share a row.
        flat = [tile for row in rows for tile in row]
        rows = [flat[start : start + _MOST_COLUMNS] for start in range(0, len(flat), _MOST_COLUMNS)]
    figure = PictureFigure([render(Panel("map", row)) for row in rows], [""] * len(rows))
    if save_path is not None:
        figure.save(save_path)
    return figure


def _tile(
    values: Tensor, pixels: Tensor | None, display: Display | None, alpha: float, smooth: float, caption: str
) -> Tile:
    values = values.detach().float().cpu()
    if display is None and len(values) == 3 and float(values.min()) >= 0 and float(values.max()) <= 1:
        return Tile(values, caption=caption)
    mode: Display = display or ("heatmap" if pixels is None else "overlay")
    image = torch.zeros(1, 1, 1) if pixels is None else pixels
    tile = display_tile(values, image, mode, alpha, signed=bool((values < 0).any()), smooth=smooth)
    return Tile(tile.values, tile.kind, caption or tile.caption, tile.limit, tile.backdrop, tile.alpha)


def _batched(tensor: Tensor) -> Tensor:
    """Return maps as ``(N, C, H, W)``."""
    if tensor.ndim == 2:
        return tensor[None, None]
    if tensor.ndim == 3:
        return tensor[None] if len(tensor) in (1, 3) else tensor[:, None]
    if tensor.ndim != 4:
        raise ConfigurationError(f"maps of shape {tuple(tensor.shape)}: expected (N, C, H, W) or (H, W)")
    return tensor


def _pixels(images: Tensor) -> Tensor:
    images = images.detach().float().cpu()
    normalization, _ = find_normalization(images, nn.Identity(), [])
    return displayable(normalization.to_pixels(images)).clamp(0, 1)
