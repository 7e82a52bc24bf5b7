"""Between pixels and what a model eats."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.utils.data import ConcatDataset, Subset
from torchvision import transforms
from torchvision.transforms import v2

from vis_callbacks.data.normalization import Normalization, normalization_of
from vis_callbacks.data.pixels import find_normalization, stated_by
from vis_callbacks.errors import ConfigurationError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


@pytest.mark.parametrize(
    "given", [(0.5, 0.2), ([0.5], [0.2]), (list(MEAN), STD), (torch.tensor(MEAN), torch.tensor(STD))]
)
def test_back_and_forth(given: Any) -> None:
    pixels = torch.rand(2, 3, 4, 4)
    normalization = Normalization.of(*given)
    torch.testing.assert_close(normalization.to_pixels(normalization.to_model(pixels)), pixels)


def test_it_is_that_of_torchvision() -> None:
    pixels = torch.rand(2, 3, 4, 4)
    expected = transforms.Normalize(MEAN, STD)(pixels)
    torch.testing.assert_close(Normalization(MEAN, STD).to_model(pixels), expected)
    assert Normalization(MEAN, STD).to_model(pixels.bfloat16()).dtype == torch.bfloat16


def test_wrong_numbers_are_told() -> None:
    with pytest.raises(ConfigurationError, match="above 0"):
        Normalization((0.0,), (0.0,))
    with pytest.raises(ConfigurationError, match=r"3 channels .*\(2, 1, 4, 4\).*1 or 1 numbers|3 channels"):
        Normalization(MEAN, STD).to_model(torch.rand(2, 1, 4, 4))
    assert not Normalization(MEAN, STD).suits(1)
    assert Normalization((0.5,), STD).suits(3)


def test_it_is_found_in_a_timm_model_or_a_part_of_it() -> None:
    model = timm.create_model("test_resnet")
    expected = Normalization.of(model.pretrained_cfg["mean"], model.pretrained_cfg["std"])
    assert normalization_of(model) == expected
    assert normalization_of(nn.Sequential(nn.Sequential(model))) == expected
    assert normalization_of(nn.Linear(1, 1)) is None


class Photos:
    def __init__(self, transform: Any = None, transforms: Any = None) -> None:
        self.transform, self.transforms = transform, transforms

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> None:
        return None


def normalization_in(dataset: Any) -> Normalization | None:
    return next((found for found, _ in stated_by(dataset)), None)


def normalization_from(images: torch.Tensor) -> Normalization:
    return find_normalization(images, nn.Identity(), [])[0]


WANTED = transforms.Normalize(MEAN, STD)


@pytest.mark.parametrize(
    "dataset",
    [
        Photos(WANTED),
        Photos(transforms.Compose([transforms.ToTensor(), WANTED])),
        Photos(v2.Compose([v2.ToImage(), v2.Compose([v2.Normalize(MEAN, STD)])])),
        Photos(nn.Sequential(v2.CenterCrop(3), v2.Normalize(MEAN, STD))),
        Photos(transforms.RandomApply([WANTED])),
        Photos(transforms=transforms.Compose([WANTED])),
        Subset(Photos(WANTED), [0]),  # type: ignore[arg-type]
        ConcatDataset([Photos(WANTED), Photos()]),  # type: ignore[list-item]
        Subset(ConcatDataset([Subset(Photos(WANTED), [0, 1])]), [0]),  # type: ignore[arg-type]
    ],
)
def test_it_is_found_in_a_datasets_transforms(dataset: Any) -> None:
    assert normalization_in(dataset) == Normalization.of(MEAN, STD)


def test_the_last_of_several_counts_and_none_is_none() -> None:
    twice = transforms.Compose([transforms.Normalize(0.1, 0.1), WANTED])
    assert normalization_in(Photos(twice)) == Normalization.of(MEAN, STD)
    assert normalization_in(Photos(transforms.ToTensor())) is None
    assert normalization_in(object()) is None


def test_a_dataset_that_holds_itself_ends() -> None:
    dataset = Photos()
    dataset.transform = dataset
    assert normalization_in(dataset) is None


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 255.0), (-2.1, 2.6), (3.0, 9.0)])
def test_a_guess_brings_the_range_to_0_and_1(low: float, high: float) -> None:
    pixels = normalization_from(torch.linspace(low, high, 48).view(1, 3, 4, 4)).to_pixels(
        torch.linspace(low, high, 48).view(1, 3, 4, 4)
    )
    torch.testing.assert_close(pixels, torch.linspace(0, 1, 48).view(1, 3, 4, 4))


def test_images_between_0_and_1_are_pixels_and_odd_ones_do_no_harm() -> None:
    assert normalization_from(torch.rand(1, 1, 4, 4) * 0.3) == Normalization()
    assert normalization_from(torch.full((1, 1, 2, 2), float("nan"))) == Normalization()
    assert normalization_from(torch.full((1, 1, 2, 2), 7.0)).to_pixels(torch.full((1, 1, 2, 2), 7.0)).isfinite().all()
