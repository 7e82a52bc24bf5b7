"""What takes passes: a fault is tried on all images, anything else on a few."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vis_callbacks.diagnostics.passes import layer_facts
from vis_callbacks.diagnostics.repairs import Comparison


class Upside(nn.Module):
    """Tells in which quarter of an image that stands on its head the bright spot is, and counts images."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return self.scale * F.adaptive_avg_pool2d(images.flip(2), 2).flatten(1)


def bright_quarters() -> tuple[Tensor, Tensor]:
    """Return images of which the label is the bright quarter, sorted by class, as images from folders are."""
    labels = torch.arange(160) // 40
    images = F.interpolate(F.one_hot(labels, 4).float().view(160, 1, 2, 2), scale_factor=8.0)
    return images, labels


def test_ways_are_tried_on_as_many_images_as_it_takes() -> None:
    images, labels = bright_quarters()
    model = Upside()
    ways, fresh = Comparison(model, images, labels).facts(gap=0.9)
    found = {one.name: one for one in ways}
    upside = found["turned upside down"]
    assert (upside.better, upside.worse, upside.tried) == (24, 0, 24)
    assert found["mirrored left to right"].tried == 0, "it mends none of those that are wrong"
    assert fresh is None, "there is no BatchNorm"
    promising = sum(one.tried > 0 for one in ways)
    some = (model.seen - 32 - 4 * len(ways) - (24 - 8) * promising) / (8 - 4)
    assert some in range(promising, 6), "what mends one of four is tried on eight; no image is asked about twice"


def test_answers_that_are_known_are_not_asked_for() -> None:
    images, labels = bright_quarters()
    model = Upside()
    with torch.no_grad():
        told = model(images).argmax(dim=1)
    found, seen = [], []
    for one in (None, told):
        model.seen = 0
        found.append(Comparison(model, images, labels, one).facts(gap=0.9))
        seen.append(model.seen)
    assert found[0] == found[1]
    assert seen[0] - seen[1] == 32


def test_nothing_is_tried_where_too_few_images_are_wrong() -> None:
    labels = torch.zeros(160, dtype=torch.long)
    images = torch.zeros(160, 1, 16, 16)
    images[:, :, 8:, :8] = 1
    model = Upside()
    assert Comparison(model, images, labels).facts(gap=0.9) == ([], None)
    assert model.seen == 32


def test_a_way_that_is_certain_is_tried_on_all_images_where_it_is_compared() -> None:
    labels = torch.zeros(160, dtype=torch.long)
    images = torch.zeros(160, 1, 16, 16)
    images[:, :, :8, :8] = 1
    comparison = Comparison(Upside(), images, labels)
    upside = {one.name: one for one in comparison._repairs(0.9, until_certain=False)}
    assert (upside["turned upside down"].better, upside["turned upside down"].tried) == (160, 160)


def test_a_way_that_mends_a_few_is_tried_on_more() -> None:
    # Three images in four are right both ways; the bright spot of the others is where the network looks for it when
    # the image is turned.
    labels = torch.zeros(160, dtype=torch.long)
    images = torch.zeros(160, 1, 16, 16)
    images[:, :, :, :8] = 1
    images[::4, :, 8:] = 0
    comparison = Comparison(Upside(), images, labels)
    found = {one.name: one for one in comparison.facts(gap=0.25)[0]}
    upside = found["turned upside down"]
    assert (upside.worse, upside.tried) == (0, 96)
    assert 0.15 < upside.gain < 0.35


def test_a_way_that_mends_some_and_spoils_others_is_that_of_a_part_of_the_images() -> None:
    images, labels = bright_quarters()
    images[::2] = images[::2].flip(2)
    found = {one.name: one for one in Comparison(Upside(), images, labels).facts(gap=0.4)[0]}
    upside = found["turned upside down"]
    assert upside.better == upside.wrong >= 10
    assert upside.worse == upside.tried - upside.wrong
    assert upside.classes == 4


@pytest.mark.parametrize("moved", [(3, 0), (0, -3), (3, 3)])
def test_rare_ways_are_tried_where_validation_is_far_worse(moved: tuple[int, int]) -> None:
    labels = torch.arange(160) // 40
    images = torch.zeros(160, 1, 16, 16)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 12 - 8 * (label // 2), 4 + 8 * (label % 2)] = 1
    images = images.roll(moved, dims=(2, 3))

    class Corners(Upside):
        """Looks at one place in each quarter, and at what is round it."""

        def forward(self, images: Tensor) -> Tensor:
            self.seen += len(images)
            flipped = F.pad(images.flip(2), (1, 1, 1, 1))
            round_it = [flipped[:, 0, y : y + 3, x : x + 3].sum(dim=(1, 2)) for y in (3, 11) for x in (4, 12)]
            return self.scale * torch.stack(round_it, dim=1)

    few = {one.name for one in Comparison(Corners(), images, labels).facts(gap=0.1)[0]}
    assert not any(name.startswith("shifted") for name in few)
    found = max(Comparison(Corners(), images, labels).facts(gap=0.9)[0], key=lambda one: one.gain)
    assert found.name.startswith("shifted by a fifth")
    assert found.gain > 0.45


class Detailed(nn.Module):
    """Knows which quarter of the rows is bright, of images that have as much fine detail as it was trained with."""

    def __init__(self, least: float, most: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.least, self.most = least, most

    def forward(self, images: Tensor) -> Tensor:
        detail = images.diff(dim=3).abs().mean(dim=(1, 2, 3))
        bright: Tensor = F.adaptive_avg_pool2d(images, (4, 1)).flatten(1)
        return self.scale * bright * ((detail >= self.least) & (detail <= self.most))[:, None]


@pytest.mark.parametrize(
    ("detail", "trained_with", "way"),
    [(0.4, (1.0, 9.0), "sharpened against blur"), (40.0, (0.0, 3.0), "smoothed against noise")],
)
def test_blurred_and_noisy_images_are_known_by_what_mends_them(
    detail: float, trained_with: tuple[float, float], way: str
) -> None:
    labels = torch.arange(160) % 4
    images = detail * (torch.arange(16) % 2).repeat(160, 1, 16, 1)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 4 * label : 4 * label + 4] += 1
    model = Detailed(*trained_with)
    assert max(one.gain for one in Comparison(model, images, labels).facts(gap=0.1)[0]) < 0.1
    found = max(Comparison(model, images, labels).facts(gap=0.75)[0], key=lambda one: one.gain)
    assert (found.name, found.worse) == (way, 0)
    assert found.gain > 0.7


def test_statistics_of_the_batch_are_tried_on_as_many_images_as_it_takes() -> None:
    labels = torch.arange(160) % 2
    images = torch.where(labels[:, None, None, None] == 1, 9.0, 11.0) + torch.rand(160, 1, 4, 4)
    model = nn.Sequential(nn.BatchNorm2d(1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)).eval()
    with torch.no_grad():
        model[3].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        model[3].bias.zero_()
    ways, fresh = Comparison(model, images, labels).facts(gap=0.5)
    assert fresh is not None
    assert (fresh.better, fresh.worse, fresh.tried) == (80, 0, 160)
    assert ways == [], "statistics explain all of it"
    ways, _ = Comparison(model, images, labels).facts(gap=0.9)
    assert len(ways) == 11, "something is left to explain"
    ways, _ = Comparison(model, images, labels).facts(gap=0.5, settled=True)
    assert len(ways) == 11, "they must fit, and do not"
    model[0].running_mean.fill_(10.5)
    _, fitting = Comparison(model, images, labels).facts(gap=0.5)
    assert fitting is not None
    assert (fitting.better, fitting.worse, fitting.tried) == (0, 0, 32)
    assert (model[0].running_mean.item(), model[0].num_batches_tracked.item(), model[0].training) == (10.5, 0, False)


class Counting(nn.Sequential):
    """Counts the images that it sees."""

    seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return super().forward(images)


def test_layers_are_looked_at_with_few_images_where_few_channels_are_dead() -> None:
    conv = nn.Conv2d(1, 8, 3)
    model = Counting(conv, nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)).eval()
    images = torch.rand(160, 1, 6, 6)
    with torch.no_grad():
        conv.weight.fill_(1.0)
        conv.bias.zero_()
        conv.bias[0] = -100.0
    model(images[:1])
    model.seen = 0
    (layer,) = layer_facts(model, images)
    assert (layer.channels, layer.dead, model.seen) == (8, 1, 32)
    # The second gives something for the last image alone.
    images[-1] = 50.0
    with torch.no_grad():
        conv.bias[:2] = -100.0
    model.seen = 0
    (layer,) = layer_facts(model, images)
    assert (layer.dead, model.seen) == (0, 32 + 160)
