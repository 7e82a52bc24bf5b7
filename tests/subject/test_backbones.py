"""Backbones as timm, torchvision, PEFT and TorchScript give them, with a head: right maps, or the right sentence."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import FeaturePyramidNetwork

from tests.helpers import tiny
from tests.subject.closed_form import correlation, resized, settled
from vis_callbacks import GradCAM, GuidedBackprop, Report, Saliency, VisualizationWarning
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.functional import grad_cam, gradient, guided_backprop
from vis_callbacks.model import default_layer

CLASSES = 5
SIDE = 224


class Headed(nn.Module):
    """A linear head on the mean of one of the maps that a backbone gives.

    Args:
        backbone: Gives a map, or a list, tuple or dict of maps.
        channels: Number of the channels of the map that is read.
        which: Its index or key; None: the backbone gives one map.
        channels_last: Whether maps are ``(N, h, w, C)``.
    """

    def __init__(self, backbone: nn.Module, channels: int, which: Any = None, channels_last: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(channels, CLASSES)
        self.which, self.channels_last = which, channels_last

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.map(images).mean(dim=(2, 3)))

    def map(self, images: Tensor) -> Tensor:
        """The map ``(N, C, h, w)`` that the head reads."""
        maps = self.backbone(images)
        if self.which is not None:
            maps = maps[self.which]
        return maps.permute(0, 3, 1, 2) if self.channels_last else maps


def _timm(name: str, which: int = -1, **options: Any) -> Headed:
    backbone = timm.create_model(name, features_only=True, **options)
    channels_last = getattr(backbone, "output_fmt", None) == "NHWC" or "swin" in name
    return Headed(backbone, backbone.feature_info.channels()[which], which, channels_last)


def _resnet() -> nn.Module:
    return torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], width_per_group=64)


class _WithPyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = IntermediateLayerGetter(_resnet(), {"layer2": "a", "layer3": "b", "layer4": "c"})
        self.pyramid = FeaturePyramidNetwork([128, 256, 512], 16)

    def forward(self, images: Tensor) -> Any:
        return self.pyramid(self.body(images))


# The map that is read is the last that the logits depend on, in each of them.
BACKBONES: dict[str, Callable[[], Headed]] = {
    "timm resnet": lambda: _timm("test_resnet"),
    "timm resnet, second last map": lambda: _timm("test_resnet", -2),
    "timm resnet, chosen maps": lambda: _timm("test_resnet", out_indices=(1, 3, 4)),
    "timm resnet, one map": lambda: _timm("test_resnet", 0, out_indices=(4,)),
    "timm efficientnet": lambda: _timm("test_efficientnet"),
    "timm convnext": lambda: _timm("test_convnext"),
    "timm vit": lambda: _timm("test_vit", img_size=SIDE),
    "timm mobilenetv3": lambda: _timm("mobilenetv3_small_050"),
    "timm swin": lambda: _timm(
        "swin_tiny_patch4_window7_224", embed_dim=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2)
    ),
    "torchvision extractor": lambda: Headed(create_feature_extractor(_resnet(), {"layer4": "out"}), 512, "out"),
    "torchvision extractor, several maps": lambda: Headed(
        create_feature_extractor(_resnet(), {"layer1": "a", "layer2": "b", "layer4": "c"}), 512, "c"
    ),
    "torchvision extractor, middle map": lambda: Headed(
        create_feature_extractor(_resnet(), {"layer1": "a", "layer2": "b", "layer4": "c"}), 128, "b"
    ),
    "torchvision getter": lambda: Headed(
        IntermediateLayerGetter(_resnet(), {"layer1": "a", "layer3": "b", "layer4": "c"}), 512, "c"
    ),
    "torchvision getter, first map": lambda: Headed(
        IntermediateLayerGetter(_resnet(), {"layer1": "a", "layer3": "b", "layer4": "c"}), 64, "a"
    ),
    "torchvision pyramid": lambda: Headed(_WithPyramid(), 16, "c"),
    "torchvision without its head": lambda: Headed(nn.Sequential(*list(_resnet().children())[:-2]), 512),
}
_SLOW = (
    "timm mobilenetv3",
    "timm resnet, chosen maps",
    "torchvision extractor",
    "torchvision extractor, middle map",
    "torchvision getter, first map",
    "torchvision pyramid",
    "torchvision without its head",
)


def _images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def _ready(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return settled(make(), _images(4))


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in _SLOW)) for name in BACKBONES])
def test_grad_cam_of_the_default_layer_is_the_closed_form(name: str) -> None:
    model, images = _ready(BACKBONES[name]), _images()
    assert isinstance(model, Headed)
    compared = 0
    for target in range(3):
        with torch.no_grad():
            expected = (model.map(images) * model.head.weight[target][:, None, None]).sum(dim=1, keepdim=True).relu()
        expected = resized(expected, images)
        compared += _compare(grad_cam(model, images, target), expected)
    assert compared >= 2


def _compare(found: Tensor, expected: Tensor, least: float = 0.99) -> int:
    """Return how many maps could be compared: a map that is zero all over has no correlation."""
    compared = 0
    for one, other in zip(found, expected, strict=True):
        if other.any():
            compared += 1
            assert correlation(one, other) >= least
        else:
            assert not one.any()
    return compared


# PEFT: with its initial weights it changes nothing that the model computes, so every map is that of the model.


def _peft(model: nn.Module, **options: Any) -> nn.Module:
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(r=2, **options)).eval()


def _vit(**options: Any) -> nn.Module:
    return timm.create_model("test_vit", img_size=SIDE, num_classes=CLASSES, **options)


@dataclass(frozen=True)
class Adapted:
    """A model and what of it PEFT adapts."""

    make: Callable[[], nn.Module]
    target_modules: Sequence[str]
    modules_to_save: Sequence[str] = ("head",)


ADAPTED = {
    "ViT, qkv": Adapted(_vit, ["qkv"]),
    "ViT, mean of the tokens, qkv": Adapted(lambda: _vit(global_pool="avg"), ["qkv"]),
    "ViT, qkv, proj and mlp": Adapted(lambda: _vit(global_pool="avg"), ["qkv", "proj", "fc1", "fc2"]),
    "ResNet, convolutions": Adapted(_resnet, ["conv1", "conv2"], ["fc"]),
    "ResNet, last layer's convolution": Adapted(_resnet, ["layer4.0.conv2"], ["fc"]),
}


@pytest.mark.parametrize("name", ADAPTED)
def test_an_adapted_model_has_the_layer_and_the_map_of_the_model(name: str) -> None:
    case = ADAPTED[name]
    model, images = _ready(case.make), _images()
    adapted = _peft(model, target_modules=list(case.target_modules), modules_to_save=list(case.modules_to_save))
    with torch.no_grad():
        assert torch.allclose(model(images), adapted(images), atol=1e-4)
    assert default_layer(adapted, images).endswith(default_layer(model, images))
    found, expected = (torch.cat([grad_cam(one, images, target) for target in range(3)]) for one in (adapted, model))
    assert _compare(found, expected) >= 2


# TorchScript and quantisation: layers inside cannot be looked at.


def _small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, CLASSES),
    ).eval()  # fmt: skip


def _scripted(model: nn.Module) -> Any:
    return torch.jit.script(model)


def _traced(model: nn.Module) -> Any:
    return torch.jit.trace(model, torch.randn(2, 3, 16, 16))


SCRIPTS = {"scripted": _scripted, "traced": _traced}
_JIT = pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
SMALL_IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))


@_JIT
@pytest.mark.parametrize("kind", SCRIPTS)
def test_the_gradient_of_a_scripted_model_is_that_of_the_model(kind: str) -> None:
    model = _small()
    found = gradient(SCRIPTS[kind](model), SMALL_IMAGES, 2)
    assert torch.allclose(found, gradient(model, SMALL_IMAGES, 2), atol=1e-6)


@_JIT
@pytest.mark.parametrize("kind", SCRIPTS)
@pytest.mark.parametrize("technique", [grad_cam, guided_backprop])
def test_a_scripted_model_is_right_or_one_sentence_says_why_not(kind: str, technique: Callable[..., Tensor]) -> None:
    model = _small()
    expected = technique(model, SMALL_IMAGES, 2)
    assert expected.any()
    said = ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = technique(SCRIPTS[kind](model), SMALL_IMAGES, 2)
        except ConfigurationError as error:
            said = str(error)
    said += "".join(str(one.message) for one in caught if issubclass(one.category, UserWarning))
    if said:
        assert len(said) < 300
        assert "script" in said.lower() or "trace" in said.lower()
    else:
        assert torch.allclose(found, expected, atol=1e-5)


def _quantised() -> nn.Module:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 8)
            self.head = nn.Linear(8, CLASSES)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.mix(self.embed(images).flatten(2).transpose(1, 2)).relu().mean(1))

    return torch.ao.quantization.quantize_dynamic(Tokens().eval(), {nn.Linear}, dtype=torch.qint8)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning:torch")
@pytest.mark.parametrize("technique", [grad_cam, gradient, guided_backprop])
def test_a_quantised_model_is_refused_in_one_sentence(technique: Callable[..., Tensor]) -> None:
    if not torch.backends.quantized.supported_engines or torch.backends.quantized.supported_engines == ["none"]:
        pytest.skip("this build of torch has no quantised kernels")
    with pytest.raises(ConfigurationError, match=r"quanti|gradient") as caught:
        technique(_quantised(), SMALL_IMAGES, 2)
    assert len(str(caught.value)) < 300


@_JIT
@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_training_of_a_scripted_child_says_it_before_it_starts_and_shows_no_zero_map(
    kind: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                          nn.Linear(8, len(tiny.CLASSES)))  # fmt: skip
    net = torch.jit.script(inner) if kind == "scripted" else torch.jit.trace(inner, torch.randn(2, 1, 8, 8))
    module = tiny.module(net=net)
    ours = [GradCAM(samples=2), GuidedBackprop(samples=2), Saliency(samples=2), Report()]
    trainer = tiny.trainer(tmp_path, ours, max_epochs=1)
    with pytest.warns(VisualizationWarning, match=r"(?i)script|trace") as caught:
        trainer.fit(module, tiny.loader(16), tiny.loader(8, seed=1))
    assert all(len(str(one.message)) < 300 for one in caught)
    made = {record["callback"] for record in tiny.records(tmp_path) if record["file"]}
    assert "Saliency" in made
    assert "GradCAM" not in made, "the layers of this network cannot be looked at"
