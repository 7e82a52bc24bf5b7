from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from tests.attribution.cases import random_images, same, small_net
from vis_callbacks import ConfigurationError
from vis_callbacks.attribution.occlusion import occlusion


class OnePixel(nn.Module):
    """Its first logit is the value of one pixel."""

    def __init__(self, row: int, column: int) -> None:
        super().__init__()
        self.row, self.column = row, column

    def forward(self, images: Tensor) -> Tensor:
        value = images[:, :, self.row, self.column].sum(dim=1)
        return torch.stack([value, torch.zeros_like(value)], dim=1)


@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize("shade", [0.0, 1e-4])
def test_what_rounding_changes_is_no_evidence(score: Literal["logit", "probability"], shade: float) -> None:
    class Rounding(OnePixel):
        """Kernels for batches of other sizes round otherwise."""

        def forward(self, images: Tensor) -> Tensor:
            return (super().forward(shade * images) + 5) * (1 + torch.finfo().eps * (len(images) % 3))

    found = occlusion(Rounding(0, 0), torch.ones(2, 1, 4, 4), 0, window=1, stride=1, score=score, chunk_size=7)
    # What the image changes is told, however little it is.
    assert (found[:, 0, 0, 0] > 0).all() == (shade > 0)
    assert not found.flatten(1)[:, 1:].any()


@pytest.mark.parametrize(("row", "column"), [(0, 0), (4, 7), (9, 13), (9, 0)])
def test_finds_the_one_pixel_that_counts_also_on_the_border(row: int, column: int) -> None:
    found = occlusion(OnePixel(row, column), torch.ones(1, 3, 10, 14), 0, window=1, stride=1)
    expected = torch.zeros(1, 1, 10, 14)
    expected[0, 0, row, column] = 3
    assert torch.equal(found, expected)


def test_overlaps_are_averaged() -> None:
    found = occlusion(OnePixel(1, 1), torch.ones(1, 1, 3, 3), 0, window=2, stride=1)[0, 0]
    assert torch.allclose(found, torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]))
    found = occlusion(OnePixel(0, 0), torch.ones(1, 1, 3, 3), 0, window=2, stride=1)[0, 0]
    assert torch.allclose(found, torch.tensor([[1.0, 0.5, 0.0], [0.5, 0.25, 0.0], [0.0, 0.0, 0.0]]))


def test_is_the_loop_with_cut_windows() -> None:
    model, images = small_net().eval(), random_images(1, height=11, width=14)
    total, count = torch.zeros(11, 14), torch.zeros(11, 14)
    with torch.no_grad():
        whole = model(images)[0, 2]
        for top in (0, 3, 6, 9):
            for left in (0, 4, 8, 12):
                covered = images.clone()
                covered[:, :, top : top + 4, left : left + 5] = 0.7
                total[top : top + 4, left : left + 5] += whole - model(covered)[0, 2]
                count[top : top + 4, left : left + 5] += 1
    # The window at 9 is cut; there would be none where the one before had reached the border.
    found = occlusion(model, images, 2, window=(4, 5), stride=(3, 4), baseline=0.7)
    assert same(found[0, 0], total / count, 1e-3)


def test_a_transposed_image_gives_the_transposed_map() -> None:
    model, images = small_net().eval(), random_images(1, height=12, width=18)
    turned = small_net().eval()
    with torch.no_grad():
        for one, other in zip(model.parameters(), turned.parameters(), strict=True):
            other.copy_(one.mT if one.ndim == 4 else one)
    found = occlusion(turned, images.mT, 1, window=(5, 4), stride=(2, 3))
    assert same(found, occlusion(model, images, 1, window=(4, 5), stride=(3, 2)).mT, 1e-3)


def test_drops_of_the_probability() -> None:
    model, images = small_net().eval(), random_images(1, height=8, width=8)
    found = occlusion(model, images, 1, window=8, score="probability")
    with torch.no_grad():
        drop = model(images).softmax(dim=1)[0, 1] - model(torch.zeros_like(images)).softmax(dim=1)[0, 1]
    assert same(found, drop.expand(1, 1, 8, 8), 1e-3)


def test_the_target_is_that_of_the_whole_image() -> None:
    model = OnePixel(0, 0)
    # Covered by -1 the model predicts the other class; the drop is still that of the first logit.
    assert occlusion(model, torch.ones(1, 1, 2, 2), window=1, stride=1, baseline=-1.0)[0, 0, 0, 0] == 2


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (224, 16)])
def test_the_default_windows_fit_any_image(size: tuple[int, int]) -> None:
    assert occlusion(OnePixel(0, 0), torch.rand(1, 3, *size)).shape == (1, 1, *size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 9}, "window of 9 pixels: expected 1 to 8, the image's height"),
        ({"window": 0}, "window=0: expected a whole number from 1"),
        ({"window": 3, "stride": 4}, "stride of 4 pixels: expected 1 to 3"),
        ({"window": 3, "stride": 0}, "stride=0: expected a whole number from 1"),
        ({"baseline": torch.zeros(5)}, "baseline of shape"),
        ({"score": "loss"}, "score='loss': expected one of 'logit', 'probability'"),
        ({"chunk_size": 0}, "chunk_size 0: expected at least 1"),
    ],
)
def test_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        occlusion(small_net(), random_images(1, height=8, width=8), 1, **options)
