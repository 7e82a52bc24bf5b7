"""Draw a panel as a picture: the one place where numbers become colours.

Safe in a background thread: no figure, no global state, no random number.
"""

import math
from bisect import bisect_right
from functools import cache, lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vis_callbacks.output.encoding import Picture
from vis_callbacks.panel import Kind, Panel, Tile

_ROW_WIDTH = 672  # pixels that a row of small tiles is enlarged to; 672 = 2⁵·3·7 suits 3x3, 7x7, 8x8 and 28x28
_CROWDED_WIDTH = 448  # the same for a panel of many tiles: every epoch draws and writes dozens of these
_MANY_TILES = 12
_SMALL_EDGE = 224  # a small tile is enlarged to about this
_LARGE_EDGE = 512  # a larger tile is reduced to this
_MAX_WIDTH = 1600  # pixels of a row of tiles
_MAX_CROWDED_WIDTH = 1120  # the same for a panel of many tiles
_MAX_GAP = 10
_COUNTABLE = 3  # pixels of an edge from which on a square is seen as one
_MAX_COLUMNS = 64  # with more, a tile would have less than 15 pixels
_MIN_TEXT_WIDTH = 224  # a narrower picture gets white margins, so that its text is readable

_ROBUST = 0.995  # quantile at which a tile's own colour scale ends: one outlier must not darken the rest
_NOT_FINITE = (255, 0, 255)  # magenta is on none of the colour scales
_MARKS = {"✓": "#1a7f37", "✗": "#c62828"}  # readable without the colours too
_COLD = ((0, 0, 4), (14, 40, 92), (22, 98, 170), (70, 170, 222), (205, 242, 255))  # from 0 to -limit
_INK, _CAPTION_INK = "#1a1a1a", "#5f5f5f"


def render(panel: Panel, *, text: bool = True) -> Picture:
    """Draw a panel.

    The colours of each `Tile.kind`:

    * ``image``: [0, 1] is black to white, or RGB; values outside are clipped.
    * ``heat``: black (0 and below) through purple and orange to pale yellow (`Tile.limit` and above).
    * ``gray``: black (0 and below) to white (`Tile.limit` and above).
    * ``signed``: one channel is blue (-limit) through light gray (exactly 0) to red (+limit); three channels are
      ``0.5 + v / (2 limit)`` as RGB, so that 0 is mid-gray.
    * ``response``: black (exactly 0) through purple and orange to pale yellow (+limit), and through blue to pale cyan
      (-limit).
    * A value that is not finite is magenta.

    Without a limit a tile's colour scale ends at the 99.5th percentile of its absolute values. A backdrop shows through
    with weight ``1 - alpha``. Small tiles are enlarged by a whole factor, so that pixels stay sharp; a tile of more
    than 512 pixels, or a row of more than 1600, or of 1120 with more than twelve tiles, is reduced.

    Args:
        panel: What to draw.
        text: Add the sample line above, captions under the tiles and the panel's caption below. The tiles have the
            same pixels with and without text. Captions inside the picture are always there.

    Returns:
        A uint8 RGB picture ``(H, W, 3)``, at most about 1600 pixels wide. The same panel always gives the same picture.

    Example:
        >>> import torch
        >>> digit = Tile(torch.rand(1, 28, 28), caption="input")
        >>> evidence = Tile(torch.randn(1, 28, 28), kind="signed", limit=3.0)
        >>> render(Panel("digit", [digit, evidence], label="7", predicted="9"), text=False).shape
        (224, 458, 3)
    """
    return assemble(panel, draw_tiles(panel), text=text)


def draw_tiles(panel: Panel) -> list[Picture]:
    """Draw the tiles of a panel, all with the same size."""
    pictures = [_drawn(tile) for tile in panel.all_tiles]
    height, width = _cell_size([_size(tile) for tile in panel.all_tiles], _columns(panel))
    return [_centred(_resized(picture, height, width), height, width) for picture in pictures]


def is_enlarged(panel: Panel) -> bool:
    """Whether most tiles show their pixels as squares that one can count: digits, kernels, small maps and images."""
    sizes = [_size(tile) for tile in panel.all_tiles]
    scales = [_scale(size, _cell_size(sizes, _columns(panel))) for size in sizes]
    return sum(scale >= _COUNTABLE and _is_sharp(scale) for scale in scales) > len(sizes) / 2


def assemble(panel: Panel, cells: list[Picture], *, text: bool = True) -> Picture:
    """Arrange the tiles from `draw_tiles` as `render` does; a second text needs no second drawing."""
    tiles, columns = panel.all_tiles, _columns(panel)
    height, width, _ = cells[0].shape
    gap = min(max(2, max(height, width) // 14), _MAX_GAP)
    total = max(columns * (width + gap) - gap, _MIN_TEXT_WIDTH)
    # TensorBoard shows every picture about 350 pixels wide, so the text size is a share of the width.
    size = max(14, total // 25)
    if (text or panel.captions_inside) and any(tile.caption for tile in tiles):
        captions = _captions([tile.caption for tile in tiles], width, round(0.9 * size))
        cells = [np.vstack((cell, caption)) for cell, caption in zip(cells, captions, strict=True)]
    grid = _grid(cells, columns, gap)
    if not text:
        return grid
    parts = [
        _text(describe(panel), total, size, lines=4, bold=True),
        _centred(grid, grid.shape[0], total),
        _text(panel.caption, total, max(12, round(0.8 * size)), lines=4, ink=_CAPTION_INK),
    ]
    picture = np.vstack([_centred(part, part.shape[0] + gap, total) for part in parts if part.size])
    return _centred(picture, picture.shape[0] + gap, total + 2 * max(gap, size // 3))


def describe(panel: Panel) -> str:
    """Describe in one line the true class of the sample and the prediction.

    Args:
        panel: The panel; names longer than 32 characters are shortened.

    Returns:
        The line; empty if the panel has neither a label nor a prediction.

    Example:
        >>> import torch
        >>> picture = torch.zeros(3, 8, 8)
        >>> describe(Panel("digit", Tile(picture), label="7", predicted="9", probability=0.83))
        '✗ 7 → predicted 9 (83 %)'
        >>> describe(Panel("digit", Tile(picture), label="7", predicted="7", probability=0.83))
        '✓ 7 (83 %)'
    """
    label, predicted = _short(panel.label), _short(panel.predicted)
    probability = "" if panel.probability is None else f" ({100 * panel.probability:.0f} %)"
    if panel.predicted is None:
        return label
    if panel.label is None:
        return f"predicted {predicted}{probability}"
    if panel.label == panel.predicted or panel.right:
        return f"✓ {label}{probability}"
    return f"✗ {label} → predicted {predicted}{probability}"


def _columns(panel: Panel) -> int:
    tiles = len(panel.all_tiles)
    return min(panel.columns or tiles, tiles, _MAX_COLUMNS)


def _drawn(tile: Tile) -> Picture:
    values = tile.values.numpy()
    if tile.backdrop is None:
        return _coloured(values, tile.kind, tile.limit)
    backdrop = _coloured(tile.backdrop.numpy(), "image")
    height, width, _ = backdrop.shape
    if values.shape[1:] != (height, width):
        # Interpolate the numbers, not their colours: a mix of two colours may not be on the scale.
        planes = [Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR) for plane in values]
        values = np.stack([np.asarray(plane) for plane in planes])
    alpha = np.float32(min(max(tile.alpha, 0.0), 1.0))
    blend = np.multiply(_coloured(values, tile.kind, tile.limit), alpha, dtype=np.float32)
    blend += np.multiply(backdrop, 1 - alpha, dtype=np.float32)
    blend += np.float32(0.5)
    return blend.astype(np.uint8)


def _coloured(values: NDArray[np.float32], kind: Kind, limit: float | None = None) -> Picture:
    """Map numbers ``(1 or 3, H, W)`` to colours ``(H, W, 3)``."""
    finite = np.isfinite(values)
    whole = bool(finite.all())
    share = values if whole else np.where(finite, values, np.float32(0))
    if kind != "image":
        end = _limit(share if whole else values[finite], limit)
        share = np.clip(share, -end, end)
        share /= end
    if kind in ("signed", "response"):
        share /= 2
        share += np.float32(0.5)
    if len(share) == 3:
        picture = np.empty((*share.shape[1:], 3), np.uint8)
        for channel, plane in enumerate(_as_bytes(share, 255)):
            picture[..., channel] = plane  # a fourth of the time of a transposed copy
    else:
        colours = _colours(kind)
        picture = np.take(colours, _as_bytes(share[0], len(colours) - 1), axis=0)
    if not whole:
        picture[~finite.all(axis=0)] = _NOT_FINITE
    return picture


def _limit(values: NDArray[np.float32], limit: float | None) -> np.float32:
    """Return the end of the colour scale: `limit` if it is a positive number, else a quantile of the finite values."""
    floats = np.finfo(np.float32)
    if limit is not None and float(floats.tiny) <= limit <= float(floats.max):
        return np.float32(limit)
    magnitudes = np.abs(values.ravel())
    if not magnitudes.any():
        return np.float32(1)
    rank = math.ceil(_ROBUST * (magnitudes.size - 1))
    end = np.partition(magnitudes, rank)[rank] or magnitudes.max()
    return np.float32(max(end, floats.tiny))


@cache
def _colours(kind: Kind) -> NDArray[np.uint8]:
    """Return the colour table for one channel, ``(255 or 256, 3)``."""
    # 255 colours have a middle one: zero is exactly neutral, and v and -v are equally far from it.
    if kind == "response":
        warm = _colours("heat")[np.linspace(0, 255, 128).round().astype(int)]
        cold = [np.interp(np.linspace(4, 0, 128)[:-1], range(5), channel) for channel in zip(*_COLD, strict=True)]
        return np.concatenate([np.round(np.stack(cold, axis=1)), warm]).astype(np.uint8)
    name, count = {"heat": ("inferno", 256), "signed": ("RdBu_r", 255)}.get(kind, ("gray", 256))
    colours = matplotlib.colormaps[name].resampled(count)(np.arange(count))[:, :3]
    if kind == "signed":
        colours *= 0.92  # else zero is almost white, and a tile has no visible edge on a white page
    return np.round(255 * colours).astype(np.uint8)


def _as_bytes(share: NDArray[np.float32], top: int) -> NDArray[np.uint8]:
    inside = np.clip(share, 0, 1)
    inside *= np.float32(top)
    inside += np.float32(0.5)
    return inside.astype(np.uint8)


def _size(tile: Tile) -> tuple[int, int]:
    height, width = (tile.values if tile.backdrop is None else tile.backdrop).shape[1:]
    return height, width


def _cell_size(sizes: list[tuple[int, int]], columns: int) -> tuple[int, int]:
    """Return the height and width of each tile's cell: those of the largest tile, enlarged or reduced."""
    height, width = max(sizes, key=max)
    edge = max(height, width)
    row, most = (_CROWDED_WIDTH, _MAX_CROWDED_WIDTH) if len(sizes) > _MANY_TILES else (_ROW_WIDTH, _MAX_WIDTH)
    largest = min(_LARGE_EDGE, most // columns - _MAX_GAP)
    if edge > largest:
        return max(1, round(height * largest / edge)), max(1, round(width * largest / edge))
    factor = max(1, round(min(_SMALL_EDGE, row / columns) / edge))
    return height * factor, width * factor


def _scale(size: tuple[int, int], cell: tuple[int, int]) -> float:
    """Return the scale at which a tile fits its cell."""
    return min(cell[0] / size[0], cell[1] / size[1])


def _is_sharp(scale: float) -> bool:
    # From a factor of eight on, blocks of unequal size look equal, and sharp pixels show what was measured.
    return scale >= 8 or scale == round(scale)


def _resized(picture: Picture, height: int, width: int) -> Picture:
    """Resize a picture to fit a cell, with its aspect ratio kept."""
    own_height, own_width, _ = picture.shape
    scale = _scale((own_height, own_width), (height, width))
    new_height, new_width = max(1, round(own_height * scale)), max(1, round(own_width * scale))
    whole = round(scale)
    if (new_height, new_width) == (own_height * whole, own_width * whole):
        return picture.repeat(whole, axis=0).repeat(whole, axis=1)
    how = Image.Resampling.NEAREST if _is_sharp(scale) else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(picture).resize((new_width, new_height), how), dtype=np.uint8)


def _white(height: int, width: int) -> Picture:
    return np.full((height, width, 3), 255, dtype=np.uint8)


def _centred(picture: Picture, height: int, width: int) -> Picture:
    if picture.shape[:2] == (height, width):
        return picture
    canvas = _white(height, width)
    top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
    canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return canvas


def _grid(cells: list[Picture], columns: int, gap: int) -> Picture:
    height, width = max(cell.shape[0] for cell in cells), cells[0].shape[1]
    rows = math.ceil(len(cells) / columns)
    canvas = _white(rows * (height + gap) - gap, columns * (width + gap) - gap)
    for index, cell in enumerate(cells):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        canvas[top : top + cell.shape[0], left : left + width] = cell
    return canvas


def _captions(captions: list[str], width: int, size: int) -> list[Picture]:
    """Draw all captions in one size: the largest, within bounds, at which the longest fits on one line."""
    largest = min(size, max(9, width // 5))
    smallest = min(largest, max(9, width // 9))
    longest = max((_printable(caption) for caption in captions), key=_font(largest).getlength)
    sizes = range(largest, smallest, -1)
    size = next((size for size in sizes if _font(size).getlength(longest) <= width), smallest)
    return [_text(caption, width, size, lines=2, centred=True) for caption in captions]


@lru_cache(maxsize=512)  # every event names the same channels and layers
def _text(
    text: str, width: int, size: int, *, lines: int, bold: bool = False, centred: bool = False, ink: str = _INK
) -> Picture:
    """Draw a strip of text of this width, as high as needed; an empty text gives height 0."""
    font = _font(size, bold)
    wrapped = _wrapped(_printable(text), font, width, lines)
    if not wrapped:
        return _white(0, width)
    pitch = sum(font.getmetrics())
    image = Image.new("RGB", (width, pitch * len(wrapped)), "white")
    draw = ImageDraw.Draw(image)
    for row, line in enumerate(wrapped):
        x = (width - font.getlength(line)) / 2 if centred else 0.0
        if line[0] in _MARKS:
            draw.text((x, row * pitch), line[0], fill=_MARKS[line[0]], font=font)
            x += font.getlength(line[0])
            line = line[1:]
        draw.text((x, row * pitch), line, fill=ink, font=font)
    strip = np.array(image)
    strip.flags.writeable = False
    return strip


@lru_cache(maxsize=32)
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    # matplotlib ships this font, and the basic layout needs no library: the same picture on every machine.
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int, lines: int) -> list[str]:
    """Break a text between words, or inside a word longer than a line; an ellipsis ends a text that does not fit."""
    wrapped: list[str] = []
    while text and len(wrapped) < lines:
        if font.getlength(text) <= width:
            return [*wrapped, text]
        last = len(wrapped) == lines - 1
        fits = bisect_right(range(1, len(text)), width, key=lambda n: math.ceil(font.getlength(text[:n] + "…" * last)))
        line = text[: max(1, fits)]
        if not last and " " in text[1 : fits + 1]:
            line = text[: text.rindex(" ", 1, fits + 1)]
        wrapped.append(line.rstrip() + "…" * last)
        text = text[len(line) :].lstrip()
    return wrapped


def _short(name: str | None) -> str:
    return _printable(name or "", 32)


def _printable(text: str, length: int = 400) -> str:
    """Return one line of at most `length` characters, without control and direction marks."""
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text[: 4 * length]).split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
