"""How images become pixels, by evidence: what is stated, known statistics, the values."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.transforms import v2

from tests.data.test_samples import Taker
from tests.helpers import tiny
from vis_callbacks import Normalization, Samples
from vis_callbacks.data.pixels import KNOWN, find_normalization

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
OURS = Normalization(MEAN, STD)
NORMALIZE = transforms.Normalize(MEAN, STD)


def photographs(*, channels: int = 3, bits: bool = False) -> Tensor:
    """Smooth images that fill [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(8, channels, 6, 6, generator=generator)
    large = nn.functional.interpolate(small, size=(32, 32), mode="bicubic").clamp(0, 1)
    large = (large - large.amin(dim=(0, 2, 3), keepdim=True)) / (
        large.amax((0, 2, 3), True) - large.amin((0, 2, 3), True)
    )
    return (large * 255).round() / 255 if bits else large


def shown(images: Tensor, *holders: Any, model: nn.Module | None = None, **options: Any) -> tuple[Tensor, str]:
    found, source = find_normalization(images, model or nn.Identity(), holders, **options)
    return found.to_pixels(images.float()), source


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected.float(), atol=1e-4, rtol=0)


class Holder:
    """Any object with attributes: a dataset, a data module, a transform."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


# Known statistics, by the values alone.


@pytest.mark.parametrize("bits", [False, True])
@pytest.mark.parametrize("name", KNOWN)
def test_known_statistics_are_told_by_the_values(name: str, bits: bool) -> None:
    gray = "MNIST" in name
    pixels = photographs(channels=1 if gray else 3, bits=bits)
    found, source = shown(KNOWN[name].to_model(pixels))
    close(found, pixels)
    assert source.startswith(name)


@pytest.mark.parametrize("name", KNOWN)
def test_gray_images_in_three_channels_stay_gray(name: str) -> None:
    pixels = photographs(channels=1).expand(-1, 3, -1, -1)
    found, _ = shown(KNOWN[name].to_model(pixels))
    assert float((found - found[:, :1]).abs().max()) < 1e-4
    close(found, pixels)


def test_gray_images_of_unknown_statistics_are_not_tinted() -> None:
    scans = photographs(channels=1).expand(-1, 3, -1, -1) * 3.3 - 1.5
    found, source = shown(scans)
    close(found, (scans + 1.5) / 3.3)
    assert "range" in source


# What is stated.


def preprocess(batch: Any) -> Any:
    return train_transform(batch["image"])


train_transform = transforms.Compose([NORMALIZE])


def _closure() -> Any:
    normalize = NORMALIZE
    return lambda batch: normalize(batch)


class Standardize:
    """Of albumentations and others: no torch, and a name of its own."""

    def __init__(self) -> None:
        self.mean, self.std, self.max_pixel_value = MEAN, STD, 255.0


def _kornia() -> Any:
    augmentation = pytest.importorskip("kornia.augmentation")
    return augmentation.AugmentationSequential(augmentation.Normalize(torch.tensor(MEAN), torch.tensor(STD)))


def _kornia_enhance() -> Any:
    return nn.Sequential(pytest.importorskip("kornia.enhance").Normalize(torch.tensor(MEAN), torch.tensor(STD)))


def _monai() -> Any:
    monai = pytest.importorskip("monai.transforms")
    return monai.Compose([monai.NormalizeIntensity(subtrahend=MEAN, divisor=STD, channel_wise=True)])


def _monai_dict() -> Any:
    monai = pytest.importorskip("monai.transforms")
    return monai.Compose([monai.NormalizeIntensityd("image", subtrahend=MEAN, divisor=STD, channel_wise=True)])


class InModule(nn.Module):
    """Normalises on the device, as `on_after_batch_transfer` does."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.on_device = tiny.Net(channels=3), nn.Sequential(v2.Normalize(MEAN, STD))


class WithBuffers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pixel_mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(STD).view(3, 1, 1))


HOLDERS: dict[str, Any] = {
    "torchvision v1": lambda: Holder(transform=transforms.Compose([transforms.ToTensor(), NORMALIZE])),
    "torchvision v2": lambda: Holder(train_transforms=v2.Compose([v2.ToImage(), v2.Normalize(MEAN, STD)])),
    "torchvision by a function": lambda: Holder(transform=transforms.Lambda(_closure())),
    "albumentations": lambda: Holder(transform=Holder(transforms=[Holder(p=0.5), Standardize()])),
    "kornia": lambda: Holder(augmentation=_kornia()),
    "kornia's function": lambda: Holder(augmentation=_kornia_enhance()),
    "MONAI": lambda: Holder(transform=_monai()),
    "MONAI on dicts": lambda: Holder(transform=_monai_dict()),
    "a dict of transforms": lambda: Holder(data_transforms={"train": NORMALIZE, "val": train_transform}),
    "a function of Hugging Face's with_transform": lambda: Holder(_format_kwargs={"transform": preprocess}),
    "a partial": lambda: Holder(transform=functools.partial(preprocess, None)),
    "a closure": lambda: Holder(collate_fn=_closure()),
    "mean and std": lambda: Holder(mean=MEAN, std=STD),
    "of NumPy and torch": lambda: Holder(pixel_mean=np.array(MEAN), pixel_std=torch.tensor(STD)),
    "an image processor": lambda: Holder(image_processor=Holder(image_mean=list(MEAN), image_std=list(STD))),
    "hparams": lambda: Holder(hparams={"norm_mean": list(MEAN), "norm_std": list(STD)}),
    "numbers up to 255": lambda: Holder(img_norm_cfg={"mean": [255 * m for m in MEAN], "std": [255 * s for s in STD]}),
    "a constant of the class": lambda: type("Module", (), {"MEAN": MEAN, "STD": STD})(),
    "a module on the device": InModule,
    "buffers": WithBuffers,
    "a wrapped dataset": lambda: Holder(dataset=Holder(datasets=[Holder(), Holder(transform=NORMALIZE)])),
}


@pytest.mark.parametrize("kind", HOLDERS)
def test_what_is_stated_is_found_and_named(kind: str) -> None:
    pixels = photographs()
    found, source = shown(OURS.to_model(pixels), Holder(transform=transforms.ToTensor()), HOLDERS[kind]())
    close(found, pixels)
    assert " of " in source
    assert len(source) < 80


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (photographs(), photographs()),
        (photographs() * 255, photographs()),
        ((photographs() - 0.5) / 0.5, photographs()),
        (KNOWN["ImageNet statistics"].to_model(photographs()), photographs()),
        ((photographs() * 255).byte(), (photographs() * 255).floor() / 255),
    ],
    ids=["pixels", "up to 255", "-1 to 1", "ImageNet", "8 bit"],
)
@pytest.mark.parametrize("holder", [Holder(transform=NORMALIZE), Holder(mean=[0.1307], std=[0.3081]), InModule()])
def test_what_the_values_contradict_is_not_used(holder: Any, images: Tensor, expected: Tensor) -> None:
    found, source = shown(images, holder)
    close(found, expected)
    assert " of " not in source


def test_noise_and_other_numbers_are_no_normalization() -> None:
    images = photographs() * 6 - 2
    augmentation = Holder(
        transform=[type("GaussianNoise", (), {"mean": 0.2, "std": 0.2})(), Holder(mean="m", std=None)]
    )
    assert "range" in shown(images, augmentation, Holder(mean=[0.0], std=[0.0]), Holder(mean=torch.rand(512)))[1]


# Values that no statistics explain.


def scan() -> Tensor:
    return photographs(channels=1) * 3000 - 1000


def test_one_outlier_never_makes_a_picture_black() -> None:
    images = scan()
    images[0, 0, 0, 0], images[3, 0, 5, 5] = 30_000, -20_000
    found, source = shown(images)
    inside = found[1:3]
    assert float(inside.min()) < 0.05
    assert float(inside.max()) > 0.95
    assert "without outliers" in source
    clean = shown(scan())[0]
    assert float((inside - clean[1:3]).abs().max()) < 0.05


@pytest.mark.parametrize("scale", [1.0, 255.0, 4000.0])
def test_a_spike_in_a_band_that_is_not_shown_changes_nothing(scale: float) -> None:
    bands = photographs(channels=7) * scale
    spiked = bands.clone()
    spiked[:, 5] *= 1e6
    close(shown(spiked)[0][:, :3], shown(bands)[0][:, :3])
    close(shown(spiked, bands=(2, 1, 0))[0][:, :3], shown(bands)[0][:, :3])
    assert float(shown(spiked, bands=(5, 5, 5))[0][:, 5].max()) <= 1 + 1e-4


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64, torch.float32, torch.float64, torch.bfloat16])
def test_many_bits_fill_the_range(dtype: torch.dtype) -> None:
    found, _ = shown((photographs(channels=1) * 30_000).to(dtype))
    assert float(found.min()) == pytest.approx(0, abs=0.01)
    assert float(found.max()) == pytest.approx(1, abs=0.01)


def test_8_bit_images_are_dark_if_they_are_dark() -> None:
    dark = (photographs() * 40).byte()
    close(shown(dark)[0], dark / 255)
    close(shown(dark.float())[0], dark / 255)
    assert torch.equal(shown(photographs() > 0.5)[0], (photographs() > 0.5).float())


@pytest.mark.parametrize("value", [-1200.0, 0.0, 0.3, 7.5, 1e6])
def test_a_constant_stays_finite(value: float) -> None:
    found, _ = shown(torch.full((2, 3, 4, 4), value))
    assert found.isfinite().all()
    assert 0 <= float(found.min()) <= float(found.max()) <= 1


def test_pixels_without_a_number_are_black_and_hide_nothing() -> None:
    images = scan()
    images[0, 0, :5] = float("nan")
    images[1, 0, 0, 0] = float("inf")
    found, _ = find_normalization(images, nn.Identity(), [])
    pixels = Samples(images, torch.zeros(8).long(), ("",) * 8, normalization=found).pixels
    assert float(pixels[0, 0, :5].max()) == 0
    assert float(pixels[1, 0, 0, 0]) == 1
    close(pixels[2:], shown(scan())[0][2:])
    assert find_normalization(torch.full((1, 3, 2, 2), float("nan")), nn.Identity(), [])[0] == Normalization()


# In a run.


class Photos(tiny.Shapes):
    def __init__(self, change: Any = None, channels: int = 3) -> None:
        super().__init__(16, seed=1, channels=channels)
        self.change = change

    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        return (self.change(image) if self.change else image), label


def looked_at(folder: Path, data: Any, **options: Any) -> Taker:
    taker = Taker(samples=4, **options)
    net = tiny.Net(channels=data[0][0].shape[0])
    loader = DataLoader(Subset(data, range(8)), batch_size=4)
    tiny.trainer(folder, [taker]).validate(tiny.module(net=net), loader, verbose=False)
    return taker


def test_samples_say_where_their_pixels_are_from(tmp_path: Path) -> None:
    assert looked_at(tmp_path / "a", Photos()).taken[0].pixel_source == "values in [0, 1]"
    given = looked_at(tmp_path / "b", Photos(), mean=0.5, std=0.5).taken[0]
    assert given.pixel_source == "given as mean= and std="
    data = Photos(NORMALIZE)
    data.transform = NORMALIZE
    assert looked_at(tmp_path / "c", data).taken[0].pixel_source == "Normalize of Photos"


def test_bands_that_are_asked_for_are_shown(tmp_path: Path) -> None:
    data = Photos(channels=7)
    first = looked_at(tmp_path / "a", data).taken[0]
    assert torch.equal(first.pixels, data.images[:4, :3])
    other = looked_at(tmp_path / "b", data, bands=[6, 0, 3]).taken[0]
    assert torch.equal(other.pixels, data.images[:4, [6, 0, 3]])
    one = looked_at(tmp_path / "c", data, bands=5).taken[0]
    assert torch.equal(one.pixels, data.images[:4, 5:6])


def test_bands_that_images_lack_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"bands=\(7, 1, 0\): the images have 7 channels, 0 to 6"):
        looked_at(tmp_path, Photos(channels=7), bands=(7, 1, 0), on_error="raise")


def test_image_files_are_normalised_as_batches_are(tmp_path: Path) -> None:
    # The data set normalises where nobody can look: only the values tell.
    imagenet = KNOWN["ImageNet statistics"]
    hidden = [(image, torch.tensor(0)) for image in imagenet.to_model(photographs())]
    Image.fromarray(np.full((32, 32, 3), (255, 0, 51), np.uint8)).save(tmp_path / "red.png")
    taker = Taker(samples=[tmp_path / "red.png"])
    net = tiny.Net(channels=3)
    tiny.trainer(tmp_path, [taker]).validate(tiny.module(net=net), DataLoader(hidden, batch_size=4), verbose=False)
    (samples,) = taker.taken
    expected = imagenet.to_model(torch.tensor([1.0, 0.0, 0.2]).view(1, 3, 1, 1))
    torch.testing.assert_close(samples.images, expected.expand(1, 3, 32, 32))
    assert samples.pixel_source.startswith("ImageNet statistics")
