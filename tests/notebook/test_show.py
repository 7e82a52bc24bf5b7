"""Maps that one has become a figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from vis_callbacks import ConfigurationError, show


def drawn(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes]


def test_each_map_stands_beside_its_image_and_over_it() -> None:
    images = torch.zeros(2, 3, 64, 64)
    images[0, 0] = 1.0
    maps = torch.zeros(2, 1, 64, 64)
    maps[:, :, :32] = 1.0
    figure = show(maps, images)
    assert isinstance(figure, Figure)
    first, second = drawn(figure)
    middle = first.shape[0] // 2, first.shape[1] // 4
    assert first[middle].tolist() == [255, 0, 0]
    assert second[middle].tolist() == [0, 0, 0]
    # The red image shines through, brighter where the map is.
    top, bottom = first[20, -20], first[-20, -20]
    assert top.sum() > bottom.sum()
    assert bottom[0] > 50


def test_maps_of_both_signs_diverge_around_zero() -> None:
    maps = torch.cat([torch.full((1, 32, 64), 2.0), torch.full((1, 32, 64), -2.0)], dim=1)
    (picture,) = drawn(show(maps))
    middle = picture.shape[1] // 2
    above, below = (picture[int(picture.shape[0] * share), middle].astype(int) for share in (0.3, 0.7))
    assert above[0] > above[2]
    assert below[2] > below[0]


def test_shapes() -> None:
    for shape in [(8, 8), (1, 8, 8), (5, 8, 8), (5, 1, 8, 8)]:
        figure = show(torch.rand(shape))
        assert len(figure.axes) == 1
    assert len(show(torch.rand(14, 1, 8, 8)).axes) == 3
    with pytest.raises(ConfigurationError, match="same number"):
        show(torch.rand(2, 1, 8, 8), torch.rand(3, 3, 8, 8))
    with pytest.raises(ConfigurationError, match=r"expected \(N, C, H, W\)"):
        show(torch.rand(2, 1, 8, 8, 8))


def test_several_maps_stand_side_by_side_and_pictures_are_pictures() -> None:
    images = torch.rand(2, 3, 32, 32)
    one, two = torch.rand(2, 1, 32, 32), torch.rand(2, 3, 32, 32)
    wide = drawn(show([one, two], images, captions=["map", "picture"]))[0]
    narrow = drawn(show(one, images))[0]
    assert wide.shape[1] > 1.3 * narrow.shape[1]
    (picture,) = drawn(show(torch.full((1, 3, 64, 64), 0.5)))
    assert np.abs(picture[100, 100].astype(int) - 128).max() <= 1


def test_normalised_images_are_shown_as_pixels() -> None:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    pixels[..., :32] = 0.5
    images = (pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    (picture,) = drawn(show(torch.rand(1, 1, 64, 64), images))
    assert np.abs(picture[40, 20].astype(int) - 128).max() <= 3


def test_it_is_saved_and_leaves_pyplot_alone(tmp_path: Path) -> None:
    before = plt.get_fignums()
    show(torch.rand(1, 1, 8, 8), save_path=tmp_path / "new" / "map.png")
    with Image.open(tmp_path / "new" / "map.png") as picture:
        assert picture.size[0] > 100
    assert plt.get_fignums() == before
