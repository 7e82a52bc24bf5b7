"""Where positions of maps are in the image: as the measured receptive fields say."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from vis_callbacks.model.features import find_layout
from vis_callbacks.model.geometry import GeometryWatch
from vis_callbacks.model.guard import undisturbed
from vis_callbacks.model.receptive_field import receptive_fields


class Functions(nn.Module):
    """Everything as a function, with words and odd numbers for padding."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([torch.randn(4, 3, 5, 3), torch.randn(4, 4, 3, 3), torch.randn(4, 4, 2, 2)])
        self.head = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        first, second, third = self.weights
        x = F.relu(F.conv2d(images, first, stride=[2, 2], padding="valid"))
        x = F.max_pool2d(F.pad(x, (1, 0, 2, 1)), kernel_size=3, stride=2)
        x = F.conv2d(x, second, dilation=2, padding="same") + x
        x = F.avg_pool2d(torch.cat([x, -x], dim=1)[:, :4], 2, stride=1, padding=1)
        return self.head(F.conv2d(x, third, padding=(1, 0)))


def lenet() -> nn.Module:
    features = [nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 5), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*features, nn.Flatten(), nn.LazyLinear(5))


def strided() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 8, 4), nn.ReLU(), nn.Conv2d(8, 8, 4, 2), nn.ReLU(), nn.Conv2d(8, 8, 3))


@pytest.mark.parametrize(
    ("make", "layers"),
    [
        (lenet, ["0", "1", "2", "3", "5"]),
        (strided, ["0", "2", "4"]),
        (lambda: torchvision.models.alexnet(num_classes=5), ["features.0", "features.2", "features.5", "features.12"]),
        (lambda: torchvision.models.squeezenet1_1(num_classes=5), ["features.2", "features.4", "features.7"]),
        (lambda: torchvision.models.resnet18(num_classes=5), ["maxpool", "layer1", "layer2"]),
    ],
    ids=["lenet", "strided", "alexnet", "squeezenet", "resnet"],
)
def test_centres_are_those_of_the_measured_receptive_fields(make: Callable[[], nn.Module], layers: list[str]) -> None:
    torch.manual_seed(0)
    model, images = make(), torch.rand(1, 3, 96, 80)
    if any(isinstance(part, nn.LazyLinear) for part in model.modules()):
        model(images)
    fields = receptive_fields(model, images, layers)
    outputs: dict[str, Tensor] = {}
    for name in layers:
        model.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: outputs.update({name: output}))
    with undisturbed(model), GeometryWatch(images) as watch:
        model(images)
        for name in layers:
            field = fields[name]
            assert field is not None
            measured = tuple((side.offset + (side.size - 1) / 2, side.stride) for side in (field.down, field.across))
            assert watch.centres(outputs[name]) == measured, name


def test_functions_are_followed_as_modules_are() -> None:
    torch.manual_seed(0)
    model, images = Functions(), torch.rand(1, 3, 64, 64)
    with GeometryWatch(images) as watch:
        output = model(images)
        found = watch.centres(output)
    assert found is not None
    unit = 8
    for side, (first, step) in zip((2, 3), found, strict=True):
        # Which lines of the image does a unit in the middle see? One that is not a number makes it none.
        lines = images.repeat(64, 1, 1, 1)
        lines.movedim(side, 1)[torch.arange(64), torch.arange(64)] = torch.nan
        seen = model(lines)[:, 0, unit, unit].isnan().nonzero()[:, 0]
        assert first + unit * step == (seen.min() + seen.max()) / 2


def test_resizing_inside_the_model_is_followed() -> None:
    images = torch.rand(1, 1, 14, 14)
    with GeometryWatch(images) as watch:
        output = F.conv2d(F.interpolate(images, (28, 28)), torch.ones(1, 1, 5, 5))
        assert watch.centres(output) == ((0.75, 0.5), (0.75, 0.5))
        assert watch.centres(F.adaptive_avg_pool2d(output, 7)) is None


@pytest.mark.parametrize(
    ("make", "layer", "size", "expected"),
    [
        (lenet, "5", 28, (7.5, 4)),
        (strided, "4", 84, (17.5, 8)),
        # Those of padded convolutions are less than half a position off, as those of others that lose little.
        (lambda: torchvision.models.resnet18(num_classes=5), "layer4", 224, None),
        (lambda: torchvision.models.vgg11(num_classes=5, init_weights=False), "features", 64, None),
        (lambda: torchvision.models.squeezenet1_1(num_classes=5), "features", 224, None),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 16, 16), nn.ReLU()), "1", 64, None),
    ],
)
def test_only_maps_that_do_not_spread_evenly_have_centres(
    make: Callable[[], nn.Module], layer: str, size: int, expected: tuple[float, float] | None
) -> None:
    model, images = make(), torch.rand(1, 3, size, size)
    head = nn.Sequential(model, nn.Flatten())
    head(images)
    assert find_layout(head, images, f"0.{layer}").centres == (expected and (expected, expected))
