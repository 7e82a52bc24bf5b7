"""Bytes of pictures: PNG keeps every pixel, JPEG what one sees, and the same picture always gives the same bytes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from tests.report.stores import photograph, record, squares
from vis_callbacks.output.encoding import encode
from vis_callbacks.output.render import is_enlarged
from vis_callbacks.output.store import PictureStore
from vis_callbacks.panel import Panel, Tile


def decoded(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def cat() -> np.ndarray:
    return np.asarray(Image.fromarray(skimage.data.chelsea()).resize((224, 224), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (5, 2), (33, 70), (300, 401)])
@pytest.mark.parametrize("enlarged", [1, 4])
def test_png_keeps_every_pixel(shape: tuple[int, int], enlarged: int) -> None:
    small = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    picture = small.repeat(enlarged, axis=0).repeat(enlarged, axis=1)
    found = encode(picture, exact=True)
    assert found.suffix == ".png"
    assert np.array_equal(decoded(found.data), picture)
    assert encode(picture.copy(), exact=True).data == found.data


def test_enlarged_pixels_take_few_bytes_as_png() -> None:
    picture = squares(0, size=28, enlarged=8)
    assert len(encode(picture, exact=True).data) < picture.nbytes / 30


@pytest.mark.parametrize(
    ("picture", "mean", "most"),
    # Gray levels of 255. Noise that is independent in every pixel and colour is the hardest that there is.
    [(cat(), 2, 8), (photograph(0), 6, 24)],
    ids=["photograph", "noise"],
)
def test_jpeg_is_what_one_sees(picture: np.ndarray, mean: float, most: float) -> None:
    found = encode(picture, exact=False)
    assert found.suffix == ".jpg"
    difference = np.abs(decoded(found.data).astype(int) - picture)
    assert difference.mean() < mean
    assert np.quantile(difference, 0.99) < most
    assert len(found.data) < len(encode(picture, exact=True).data) / 2
    assert encode(picture.copy(), exact=False).data == found.data


def test_the_colour_of_a_single_pixel_is_kept_as_jpeg() -> None:
    # Evidence for and against alternates from pixel to pixel; chroma of half the size would make it one gray.
    picture = np.full((64, 64, 3), (176, 40, 60), np.uint8)
    picture[::2, ::2] = picture[1::2, 1::2] = (50, 80, 150)
    difference = np.abs(decoded(encode(picture, exact=False).data).astype(int) - picture)
    assert difference.mean() < 8


def test_what_is_too_high_for_jpeg_is_png() -> None:
    assert encode(np.zeros((65_501, 2, 3), np.uint8), exact=False).suffix == ".png"
    assert encode(np.zeros((65_500, 2, 3), np.uint8), exact=False).suffix == ".jpg"


PHOTO, DIGIT, MAP = torch.rand(3, 224, 224), torch.rand(1, 28, 28), torch.rand(1, 7, 7)


@pytest.mark.parametrize(
    ("tiles", "enlarged"),
    [
        ([Tile(PHOTO)], False),
        ([Tile(PHOTO), Tile(MAP, "heat", backdrop=PHOTO)], False),
        ([Tile(PHOTO), Tile(MAP, "heat")], False),
        ([Tile(DIGIT), Tile(DIGIT, "signed")], True),
        ([Tile(DIGIT), Tile(MAP, "heat", backdrop=DIGIT)], True),
        ([Tile(PHOTO), *[Tile(MAP, "response")] * 15], True),
        ([Tile(torch.rand(3, 96, 96))], False),
        ([Tile(torch.rand(3, 600, 20))], False),
    ],
)
def test_pixels_that_one_can_count_are_told_from_photographs(tiles: list[Tile], enlarged: bool) -> None:
    assert is_enlarged(Panel("p", tiles, columns=4)) is enlarged


def test_a_picture_made_again_in_another_format_takes_the_place_of_the_first(tmp_path: Path) -> None:
    # As a store of an earlier version has it, in which all were PNG.
    moment = record("Saliency/a", 1, 9)
    PictureStore(tmp_path).add(moment, photograph(0), exact=True)
    store = PictureStore(tmp_path)
    assert not store.holds(moment, photograph(0), exact=False)
    store.add(record("Saliency/a", 2, 19), photograph(1), exact=True)
    again = store.add(moment, photograph(0), exact=False)
    assert store.holds(moment, photograph(0), exact=False)
    assert not store.holds(moment, photograph(1), exact=False)
    names = sorted(path.name for path in store.directory.rglob("epoch*"))
    assert names == ["epoch0001-step00000009.jpg", "epoch0002-step00000019.png"]
    assert again.file in (store.directory / "panels.jsonl").read_text()
