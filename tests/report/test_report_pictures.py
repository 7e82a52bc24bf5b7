import base64
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.report.stores import photograph, squares
from vis_callbacks.report.pictures import Packed, pack

PLENTY = 10**9


def saved(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def pixels_of(picture: Packed) -> np.ndarray:
    data = base64.b64decode(picture.source.partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_a_small_png_stays_as_it_is(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.png", squares(0, size=4, enlarged=4))
    (picture,) = pack([file], PLENTY).pictures
    assert picture.source == "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
    assert (picture.width, picture.height, picture.crisp) == (16, 16, True)


def test_equal_pictures_are_embedded_once(tmp_path: Path) -> None:
    files = [saved(tmp_path / f"{number}.png", squares(number % 2)) for number in range(6)]
    album = pack([*files, *files], PLENTY)
    assert len(album.pictures) == 2
    assert [album.index[file] for file in files] == [0, 1, 0, 1, 0, 1]


def test_pixel_art_keeps_every_pixel_and_is_shown_crisp(tmp_path: Path) -> None:
    pixels = squares(3, size=60, enlarged=8)
    (picture,) = pack([saved(tmp_path / "a.png", pixels)], PLENTY).pictures
    assert picture.source.startswith("data:image/webp")
    assert picture.crisp
    assert np.array_equal(pixels_of(picture), pixels)


def test_photographs_become_much_smaller_and_look_the_same(tmp_path: Path) -> None:
    pixels = photograph(0)
    file = saved(tmp_path / "a.png", pixels)
    (picture,) = pack([file], PLENTY).pictures
    assert not picture.crisp
    assert len(picture.source) < file.stat().st_size / 3
    smooth = slice(0, 224)
    assert np.abs(pixels_of(picture)[:, smooth].astype(float) - pixels[:, smooth]).mean() < 6


@pytest.mark.parametrize("allowed", [900_000, 300_000, 120_000])
def test_quality_gives_way_until_all_fit(tmp_path: Path, allowed: int) -> None:
    files = [saved(tmp_path / f"{number}.png", photograph(number)) for number in range(20)]
    album = pack(files, allowed)
    assert album.fits
    assert allowed * 0.3 < sum(len(picture.source) for picture in album.pictures) <= allowed
    assert {(picture.width, picture.height) for picture in album.pictures} == {(448, 224)}


def test_a_sample_that_misleads_is_put_right(tmp_path: Path) -> None:
    files = []
    for number in range(64):
        hard = number % 2 == 1 and number < 63  # every other one, so that a sample spread evenly sees none
        pixels = photograph(number) if hard else photograph(number, 16, 32)
        files.append(saved(tmp_path / f"{number}.png", pixels))
    album = pack(files, 500_000)
    assert album.fits
    assert sum(len(picture.source) for picture in album.pictures) <= 500_000


def test_what_cannot_fit_is_said(tmp_path: Path) -> None:
    files = [saved(tmp_path / f"{number}.png", photograph(number)) for number in range(4)]
    assert not pack(files, 5000).fits


def test_huge_pictures_are_made_smaller(tmp_path: Path) -> None:
    (picture,) = pack([saved(tmp_path / "a.png", photograph(0, 100, 4000))], PLENTY).pictures
    assert (picture.width, picture.height) == (4000, 100)
    assert pixels_of(picture).shape == (40, 1600, 3)


def test_gray_palette_and_transparent_pictures_are_shown(tmp_path: Path) -> None:
    image = Image.fromarray(photograph(0))
    files = []
    for number, mode in enumerate(("L", "P", "RGBA", "1", "I;16")):
        files.append(tmp_path / f"{number}.png")
        image.convert("L").convert(mode).save(files[-1])
    assert sorted(pack(files, PLENTY).index) == sorted(files)


def damaged(path: Path) -> list[Path]:
    whole = io.BytesIO()
    Image.fromarray(photograph(0)).save(whole, "PNG")
    data = whole.getvalue()
    bomb = bytearray(data)
    bomb[16:24] = struct.pack(">II", 60_000, 60_000)
    contents = {
        "empty": b"",
        "text": b"<script>alert(1)</script>",
        "cut": data[: len(data) // 2],
        "head": data[:30],
        "noise": np.random.default_rng(0).bytes(5000),
        "spoilt": data[:2000] + b"\0" * 3000 + data[5000:],
        "bomb": bytes(bomb),
    }
    for name, content in contents.items():
        (path / name).write_bytes(content)
    return [path / name for name in contents]


def test_damaged_files_are_told_apart_and_harm_nothing(tmp_path: Path) -> None:
    good = saved(tmp_path / "good.png", squares(0))
    bad = [*damaged(tmp_path), tmp_path / "missing.png", tmp_path]
    album = pack([good, *bad], PLENTY)
    assert list(album.index) == [good]
    assert sorted(album.damaged) == sorted(bad)
    assert all(album.damaged.values())


def test_no_pictures_are_no_problem() -> None:
    album = pack([], 0)
    assert (album.pictures, album.fits) == ((), True)
