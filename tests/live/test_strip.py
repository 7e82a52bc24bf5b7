from __future__ import annotations

import time
from pathlib import Path

import pytest
from PIL import Image

from tests.report.stores import photograph, record, small_run, squares
from vis_callbacks.live.strip import write_strip
from vis_callbacks.output.store import PictureStore


@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_a_moving_strip_has_a_frame_for_each_picture(tmp_path: Path, kind: str) -> None:
    small_run(tmp_path)
    path = write_strip(tmp_path, "Saliency/sample 1", tmp_path / f"strip.{kind}")
    with Image.open(path) as image:
        # In the second epoch it failed.
        assert getattr(image, "n_frames", 1) == 3
        assert image.height > 56


def test_a_still_strip_stands_side_by_side(tmp_path: Path) -> None:
    small_run(tmp_path)
    with Image.open(write_strip(tmp_path, "Saliency/sample 0", tmp_path / "strip.png")) as image:
        assert image.width > 4 * 200


def test_the_rows_of_a_technique_stand_beside_each_other(tmp_path: Path) -> None:
    small_run(tmp_path)
    with Image.open(write_strip(tmp_path, "Saliency/sample 0", tmp_path / "one.webp")) as one:
        width = one.width
    with Image.open(write_strip(tmp_path, "Saliency", tmp_path / "all.webp")) as all_rows:
        assert all_rows.width > 1.5 * width
        assert all_rows.n_frames >= 3  # type: ignore[attr-defined]
        size = all_rows.size
    with Image.open(write_strip(tmp_path, "Saliency", tmp_path / "all.png")) as still:
        # Frames as wide as these stand below each other.
        assert still.width == size[0]
        assert still.height > 3 * size[1]


def test_a_hundred_classes_stand_in_lines(tmp_path: Path) -> None:
    store = PictureStore(tmp_path)
    for number in range(25):
        store.add(record(f"ClassAppearance/{number}", 1, 10), squares(number))
    with Image.open(write_strip(tmp_path, "ClassAppearance", tmp_path / "all.png")) as image:
        # Ten across and three down.
        assert image.width / image.height == pytest.approx(
            squares(0).shape[1] * 10 / (squares(0).shape[0] * 3), rel=0.2
        )


def test_fifty_epochs_are_small_and_quick(tmp_path: Path) -> None:
    store = PictureStore(tmp_path)
    for epoch in range(51):
        store.add(record("ClassAppearance/7", epoch, epoch * 10), photograph(epoch, 224, 224), exact=False)
    start = time.process_time()
    path = write_strip(tmp_path, "ClassAppearance/7", tmp_path / "seven.webp")
    assert time.process_time() - start < 3  # alone it takes less than one
    assert path.stat().st_size < 2e6


@pytest.mark.parametrize(
    ("tag", "name", "said"),
    [
        ("Saliency/9", "a.webp", "no row 'Saliency/9'; nearest: Saliency, Saliency/sample 1"),
        ("Filters/conv1", "a.avi", "expected a file"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, tag: str, name: str, said: str) -> None:
    small_run(tmp_path)
    with pytest.raises(ValueError, match=said):
        write_strip(tmp_path, tag, tmp_path / name)
    assert not (tmp_path / name).exists()
