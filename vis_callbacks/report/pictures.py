"""Compress the pictures of a run, so that they fit into one file."""

import base64
import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

_KEPT_BYTES = 6 * 1024  # a PNG this small is embedded as it is
_LONGEST_SIDE = 1600
SMALL_SIDE = 96  # a picture this small is enlarged on screen, with visible pixels
_ENTRY_BYTES = 80  # bytes that the page adds to each address
_SAMPLED = 32
_MARGIN = 1.08  # allowed error of a size estimated from a sample

# WebP quality and scale, best first. Below quality 50 fewer pixels look better than coarser ones.
_LEVELS = ((81, 1.0), (72, 1.0), (60, 1.0), (50, 1.0), (45, 0.8), (45, 0.66), (42, 0.58), (40, 0.5), (35, 0.4))


@dataclass(frozen=True)
class Packed:
    """A picture as it is embedded.

    Attributes:
        source: A ``data:`` address.
        width: Width in the store; the embedded picture may be smaller.
        height: Height in the store.
        crisp: Whether pixels are shown as sharp squares: for pixel art and very small pictures.
    """

    source: str
    width: int
    height: int
    crisp: bool


@dataclass(frozen=True)
class Album:
    """The pictures of a report, without duplicates.

    Attributes:
        pictures: The distinct pictures.
        index: Index of each file's picture.
        damaged: Why a file could not be read, by file.
        fits: Whether the pictures fit into the allowed bytes.
    """

    pictures: tuple[Packed, ...]
    index: dict[Path, int]
    damaged: dict[Path, str]
    fits: bool


def pack(files: Iterable[Path], max_bytes: int) -> Album:
    """Pack pictures with the best quality at which all of them fit.

    Small PNG files stay as they are. All others become WebP of one common quality, so that a picture does not seem to
    change over time because of its compression.

    Args:
        files: The image files. Damaged ones are left out, see `Album.damaged`.
        max_bytes: Upper limit for all ``data:`` addresses together.
    """
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        groups: dict[bytes | str, list[Path]] = {}
        unique_files = list(dict.fromkeys(files))
        for path, key in zip(unique_files, pool.map(_digest, unique_files), strict=True):
            groups.setdefault(key, []).append(path)
        unreadable = {key: paths for key, paths in groups.items() if isinstance(key, str)}
        distinct = [paths for key, paths in groups.items() if not isinstance(key, str)]
        packed, fits = _pack_distinct([paths[0] for paths in distinct], max_bytes, pool)

    damaged = {path: reason for reason, paths in unreadable.items() for path in paths}
    pictures: list[Packed] = []
    index: dict[Path, int] = {}
    for paths, result in zip(distinct, packed, strict=True):
        if isinstance(result, Packed):
            index.update(dict.fromkeys(paths, len(pictures)))
            pictures.append(result)
        else:
            damaged.update(dict.fromkeys(paths, result))
    return Album(tuple(pictures), index, damaged, fits)


def _digest(path: Path) -> bytes | str:
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
    except OSError as error:
        return f"the picture could not be read: {error.strerror or error}"


def _pack_distinct(files: Sequence[Path], max_bytes: int, pool: ThreadPoolExecutor) -> tuple[list[Packed | str], bool]:
    level = _level_that_fits(files, max_bytes, pool)
    while True:
        packed = _pack_at(level, files, pool)
        fits = _bytes(packed) <= max_bytes
        if fits or level + 1 == len(_LEVELS):
            return packed, fits
        level += 1


def _level_that_fits(files: Sequence[Path], max_bytes: int, pool: ThreadPoolExecutor) -> int:
    """Estimate the best level from a sample of the whole run: early pictures are simpler than later ones."""
    spread = np.linspace(0, len(files) - 1, num=min(_SAMPLED, len(files)))
    sample = [files[int(place)] for place in spread]
    share = len(sample) / max(1, len(files))
    for level in range(len(_LEVELS)):
        if _bytes(_pack_at(level, sample, pool)) * _MARGIN <= max_bytes * share:
            return level
    return len(_LEVELS) - 1


def _pack_at(level: int, files: Sequence[Path], pool: ThreadPoolExecutor) -> list[Packed | str]:
    return list(pool.map(lambda path: _pack_file(path, level), files))


def _pack_file(path: Path, level: int) -> Packed | str:
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as opened:
            kept = opened.format == "PNG" and len(data) <= _KEPT_BYTES
            image = opened.convert("RGB")
    except Exception as error:  # decoders raise many types on damaged data
        return f"the picture file is damaged: {error}"
    crisp = max(image.size) <= SMALL_SIDE or _is_pixel_art(image)
    if kept:
        lossless = _encoded(image, lossless=True, quality=20, method=1)
        source = min(_data_address("png", data), _data_address("webp", lossless), key=len)
    else:
        source = _data_address("webp", _webp(image, *_LEVELS[level], crisp=crisp))
    return Packed(source, image.width, image.height, crisp)


def _is_pixel_art(image: Image.Image) -> bool:
    """Whether most pixels of some rows equal their right neighbour: enlarged digits, kernels, diagrams."""
    pixels = np.asarray(image)[:: max(1, image.height // 32)]
    return bool(np.all(pixels[:, 1:] == pixels[:, :-1], axis=-1).mean() > 0.6)


def _webp(image: Image.Image, quality: int, scale: float, *, crisp: bool) -> bytes:
    scale = min(scale, _LONGEST_SIDE / max(image.size))
    smaller = image
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        smaller = image.resize(size, Image.Resampling.HAMMING)
    lossy = _encoded(smaller, quality=quality, method=2)
    if not crisp:
        return lossy
    lossless = _encoded(image, lossless=True, quality=20, method=1)
    return min(lossless, lossy, key=len)


def _encoded(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", **options)
    return buffer.getvalue()


def _data_address(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _bytes(packed: Iterable[Packed | str]) -> int:
    return sum(len(item.source) + _ENTRY_BYTES for item in packed if isinstance(item, Packed))
