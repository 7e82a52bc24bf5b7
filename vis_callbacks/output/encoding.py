"""Pictures as bytes: fast to make, and the same picture always gives the same bytes."""

import io
import zlib
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

Picture: TypeAlias = npt.NDArray[np.uint8]
"""RGB, ``(H, W, 3)``."""

SUFFIXES = PNG, JPEG = ".png", ".jpg"

_QUALITY = 90
_MAX_JPEG_EDGE = 65_500  # libjpeg refuses more


@dataclass(frozen=True)
class Encoded:
    """A picture and the content of its file.

    Attributes:
        picture: The pixels.
        data: The content.
        suffix: The file's ending, one of `SUFFIXES`.
    """

    picture: Picture
    data: bytes
    suffix: str


def encode(picture: Picture, *, exact: bool) -> Encoded:
    """Encode a picture.

    Args:
        picture: What to encode.
        exact: Keep every pixel, as PNG. Else JPEG of quality 90 with all colours: a tenth of the time, a fourth of the
            bytes, and no difference that one sees in photographs and heatmaps.

    Example:
        >>> encode(np.zeros((4, 6, 3), np.uint8), exact=True).suffix
        '.png'
    """
    data = io.BytesIO()
    if exact or max(picture.shape) > _MAX_JPEG_EDGE:
        # Enlarged pixels are mostly runs of zeros, once each is the difference to its neighbour.
        Image.fromarray(picture).save(data, "png", compress_level=1, compress_type=zlib.Z_RLE)
        return Encoded(picture, data.getvalue(), PNG)
    Image.fromarray(picture).save(data, "jpeg", quality=_QUALITY, subsampling=0)
    return Encoded(picture, data.getvalue(), JPEG)
