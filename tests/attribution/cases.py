"""All techniques in one table, and small networks of many kinds to try them on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers.techniques import attributions, few
from vis_callbacks import AttributionCallback
from vis_callbacks.attribution.attention_flow import AttentionFlowCallback
from vis_callbacks.attribution.cam import CamCallback


@dataclass(frozen=True)
class Technique:
    """A technique as its callback states it: function, sign and shape."""

    callback: type[AttributionCallback]

    @property
    def function(self) -> Callable[..., Tensor]:
        return self.callback.function

    @property
    def signed(self) -> bool:
        return self.callback.signed

    @property
    def one_channel(self) -> bool:
        return self.callback.one_channel

    @property
    def cam(self) -> bool:
        return issubclass(self.callback, CamCallback)

    @property
    def attends(self) -> bool:
        return issubclass(self.callback, AttentionFlowCallback)

    def net(self, channels: int = 3) -> nn.Sequential:
        """The small network, with attention where the technique needs some."""
        return small_net(channels, attention=self.attends)

    @property
    def chunked(self) -> bool:
        return "chunk_size" in inspect.signature(self.function).parameters

    def __call__(self, model: nn.Module, images: Tensor, targets: Any = None, **options: Any) -> Tensor:
        """Call the function with few steps or samples."""
        return self.function(model, images, targets, **{**few(self.function, 5), **options})

    def __repr__(self) -> str:
        return self.function.__name__


TECHNIQUES = tuple(map(Technique, attributions()))


class ReusedReLU(nn.Module):
    """Its rectifiers are modules; one is used three times."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(channels, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 3)])
        self.act: nn.Module = nn.ReLU()
        self.head = nn.Linear(8, 5)

    def rectified(self, x: Tensor) -> Tensor:
        return self.act(x)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for conv in self.convs:
            x = self.rectified(conv(x))
        return self.head(x.mean(dim=(2, 3)))


class FunctionalReLU(ReusedReLU):
    """The same network with a function, of which hooks on modules see nothing."""

    def __init__(self, function: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        del self.act
        self.function = function

    def rectified(self, x: Tensor) -> Tensor:
        return self.function(x)


class SelfAttention(nn.Module):
    """Adds to each place of a map what it sees at the others, twice."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, maps: Tensor) -> Tensor:
        tokens = maps.flatten(2).transpose(1, 2)
        for _ in range(2):
            query, key, value = (4 * self.qkv(self.norm(tokens))).chunk(3, dim=-1)
            tokens = tokens + F.scaled_dot_product_attention(query, key, value)
        return tokens.transpose(1, 2).view_as(maps)


def small_net(channels: int = 3, *, attention: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 12, 3, stride=2),
        nn.ReLU(inplace=True),
        SelfAttention(12) if attention else nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    )


def _vgg() -> nn.Module:
    layers = torchvision.models.vgg.make_layers([16, "M", 32, "M", 32, 32, "M"])
    head = [nn.Flatten(), nn.Linear(32 * 8 * 8, 64), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(64, 10)]
    return nn.Sequential(layers, *head)


def functional_densenet() -> torchvision.models.DenseNet:
    """Torchvision's last rectifier is a function, in place."""
    torch.manual_seed(0)
    return torchvision.models.DenseNet(8, (2, 2, 2), 16, num_classes=10)


def _densenet() -> nn.Module:
    model = functional_densenet()
    return nn.Sequential(model.features, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.classifier)


RELU_NETS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=10),
    "vgg": _vgg,
    "densenet": _densenet,
    "squeezenet": lambda: torchvision.models.squeezenet1_1(num_classes=10),
    "shufflenet": lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=10),
    "regnet": lambda: timm.create_model("regnetx_002", num_classes=10),
}
OTHER_NETS: dict[str, Callable[[], nn.Module]] = {
    "mobilenetv3": lambda: timm.create_model("mobilenetv3_small_050", num_classes=10),
    "efficientnet_lite0": lambda: timm.create_model("tf_efficientnet_lite0", num_classes=10),
    "convnext": lambda: timm.create_model("convnext_atto", num_classes=10, ls_init_value=1.0),
    "vit": lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, depth=3, num_classes=10),
    "swin": lambda: timm.create_model("swin_tiny_patch4_window7_224", img_size=64, depths=(1, 1, 1), num_classes=10),
}


@cache
def network(name: str) -> nn.Module:
    """A network with seeded random weights, in double precision and eval mode; 10 classes, images of 64 pixels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = {**RELU_NETS, **OTHER_NETS}[name]()
    return model.double().eval()


def random_images(count: int = 2, channels: int = 3, height: int = 64, width: int = 64) -> Tensor:
    return torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(3))


def same(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether two maps agree, up to a part of the largest value."""
    scale = expected.abs().max().clamp(min=1e-30)
    return found.shape == expected.shape and bool(((found - expected).abs() <= tolerance * scale).all())
