"""Class activation maps of the right layer, tensor and place: the closed form of models that are simple at the end."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.feature_extraction import create_feature_extractor

from tests.attribution.cases import random_images, same
from tests.attribution.test_attribution_callbacks import event_for
from vis_callbacks import AblationCAM, EigenCAM, GradCAM, GuidedGradCAM, LayerCAM
from vis_callbacks.attribution.ablation_cam import ablation_cam
from vis_callbacks.attribution.cam import CamCallback
from vis_callbacks.attribution.eigen_cam import eigen_cam
from vis_callbacks.attribution.grad_cam import grad_cam
from vis_callbacks.attribution.layer_cam import layer_cam
from vis_callbacks.attribution.relu_rules import guided_backprop
from vis_callbacks.attribution.score_cam import score_cam
from vis_callbacks.inspection.activations import activations
from vis_callbacks.model.features import feature_info, find_layout, trace_layer_choices
from vis_callbacks.model.guard import undisturbed
from vis_callbacks.model.trace import trace


class Pair(NamedTuple):
    maps: Tensor
    pooled: Tensor


@dataclass(frozen=True)
class Output:
    maps: Tensor
    pooled: Tensor | None = None


Wrap = Callable[[Tensor, Tensor], Any]

CONTAINERS: dict[str, tuple[Wrap, Callable[[Any], Tensor], tuple[Any, ...]]] = {
    "tuple": (lambda deep, _: (deep, deep.mean(dim=(2, 3))), lambda output: output[0], (0,)),
    "pooled first": (lambda deep, _: (deep.mean(dim=(2, 3)), deep), lambda output: output[1], (1,)),
    "list with the map before": (lambda deep, shallow: [shallow, deep], lambda output: output[1], (1,)),
    "the map before, which is read": (lambda deep, shallow: [deep, shallow], lambda output: output[0], (0,)),
    "named tuple": (lambda deep, _: Pair(deep, deep.mean(dim=(2, 3))), lambda output: output.maps, (0,)),
    "dict": (lambda deep, shallow: {"aux": shallow, "out": deep}, lambda output: output["out"], ("out",)),
    "ordered dict": (lambda deep, shallow: OrderedDict({0: shallow, 1: deep}), lambda output: output[1], (1,)),
    "dataclass": (lambda deep, _: Output(deep, deep.mean(dim=(2, 3))), lambda output: output.maps, ("maps",)),
    "object": (lambda deep, shallow: SimpleNamespace(x=shallow, y=deep), lambda output: output.y, ("y",)),
    "nested": (lambda deep, shallow: ({"a": [shallow, deep]}, None), lambda output: output[0]["a"][1], (0, "a", 1)),
    "numbers beside": (lambda deep, _: (torch.tensor([7, 7]), deep), lambda output: output[1], (1,)),
}  # fmt: skip


class Backbone(nn.Module):
    """Nothing but its output has the deep map: inside there are functions."""

    def __init__(self, wrap: Wrap) -> None:
        super().__init__()
        self.weights = nn.ParameterList([torch.randn(6, 3, 3, 3), torch.randn(8, 6, 3, 3)])
        self.wrap = wrap

    def forward(self, images: Tensor) -> Any:
        shallow = F.conv2d(images, self.weights[0], padding=1).relu()
        return self.wrap(F.conv2d(shallow, self.weights[1], stride=2, padding=1).relu(), shallow)


class Headed(nn.Module):
    """A linear head on the mean of one of a backbone's maps."""

    def __init__(self, backbone: nn.Module, read: Callable[[Any], Tensor], width: int) -> None:
        super().__init__()
        self.backbone, self.read, self.head = backbone, read, nn.Linear(width, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.read(self.backbone(images)).mean(dim=(2, 3)))

    def closed_form(self, images: Tensor, target: int) -> Tensor:
        """The ReLU of the sum of weights times maps, on the image; Grad-CAM is the same, over the positions."""
        with torch.no_grad():
            maps = self.read(self.backbone(images))
        cam = torch.einsum("c,nchw->nhw", self.head.weight[target].detach(), maps).relu()[:, None]
        return F.interpolate(cam / maps[0, 0].numel(), images.shape[2:], mode="bilinear")


def correlation(one: Tensor, two: Tensor) -> float:
    return torch.corrcoef(torch.stack([one.flatten(), two.flatten()]))[0, 1].item()


class TestOutputsOfSeveralTensors:
    def made(self, container: str) -> tuple[Headed, Tensor]:
        torch.manual_seed(0)
        wrap, read, _ = CONTAINERS[container]
        return Headed(Backbone(wrap), read, 8).eval(), random_images(2, height=32, width=24)

    @pytest.mark.parametrize("container", CONTAINERS)
    def test_the_map_is_the_tensor_that_the_logits_depend_on(self, container: str) -> None:
        model, images = self.made(container)
        layout = find_layout(model, images)
        assert (layout.layer, layout.part) == ("backbone", CONTAINERS[container][2])
        assert same(grad_cam(model, images, 2), model.closed_form(images, 2))
        with torch.no_grad():
            maps = model.read(model.backbone(images))
        assert torch.equal(activations(model, images), maps)

    @pytest.mark.parametrize("container", CONTAINERS)
    def test_that_tensor_is_ablated_and_masks(self, container: str) -> None:
        model, images = self.made(container)
        single = Headed(Backbone(lambda deep, _: deep), lambda output: output, 8).eval()
        single.load_state_dict(model.state_dict())
        for function in (ablation_cam, score_cam, eigen_cam, layer_cam):
            expected = function(single, images, 2)
            assert expected.any()
            assert same(function(model, images, 2), expected)
        assert same(
            guided_backprop(model, images, layer="backbone", channel=3),
            guided_backprop(single, images, layer="backbone", channel=3),
        )

    @pytest.mark.parametrize("container", CONTAINERS)
    def test_the_first_pass_finds_the_same_as_later_ones(self, container: str) -> None:
        model, images = self.made(container)
        with undisturbed(model):
            first = trace_layer_choices(model, images, 2, activations=["backbone"], gradients=[None])
            layout = find_layout(model, images)
            later = trace(model, images, 2, gradients=[layout])
        assert torch.equal(first.gradients["backbone"], later.gradients["backbone"])
        assert torch.equal(first.activations["backbone"], later.activations["backbone"])

    def test_what_is_returned_beside_what_the_head_reads_is_no_default(self) -> None:
        """The head reads the pooled vector, so no change of the returned map changes the logits."""

        class Inner(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(3, 8, 3, padding=1)

            def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
                maps = self.conv(images)
                return maps, maps.mean(dim=(2, 3))

        class Outer(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner, self.head = Inner(), nn.Linear(8, 5)

            def forward(self, images: Tensor) -> Tensor:
                return self.head(self.inner(images)[1])

        model, images = Outer(), random_images(2, height=16, width=16)
        assert find_layout(model, images).layer == "inner.conv"
        assert not feature_info(model, images).layer("inner").reaches_logit
        assert ablation_cam(model, images, 2).any()

    def test_a_default_layer_that_returns_a_tuple_has_gradients_in_a_batch(self) -> None:
        model, images = self.made("tuple")
        panels = list(GradCAM().visualize(event_for(GradCAM(), model=model, images=images)))
        assert all(panel.all_tiles[1].values.any() for panel in panels)


def resnet(**options: Any) -> nn.Module:
    return timm.create_model("resnet18", num_classes=5, **options)


PYRAMIDS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Tensor], int, str]] = {
    "features_only": (lambda: resnet(features_only=True), lambda maps: maps[-1], 512, "backbone.layer4"),
    "the last but one": (lambda: resnet(features_only=True), lambda maps: maps[-2], 256, "backbone.layer3"),
    "two of them": (
        lambda: timm.create_model("test_convnext", features_only=True, out_indices=(1, 2)),
        lambda maps: maps[-1],
        48,
        "backbone.stages_2",
    ),
    "extractor": (
        lambda: create_feature_extractor(
            torchvision.models.resnet18(), {"layer2": "two", "layer4": "four", "layer3": "three"}
        ),
        lambda maps: maps["four"],
        512,
        "backbone",
    ),
    "getter": (
        lambda: IntermediateLayerGetter(torchvision.models.resnet18(), {"layer1": "0", "layer3": "1"}),
        lambda maps: maps["1"],
        256,
        "backbone.layer3",
    ),
    "feature pyramid, coarse": (
        lambda: BackboneWithFPN(torchvision.models.resnet18(), {"layer3": "0", "layer4": "1"}, [256, 512], 32),
        lambda maps: maps["1"],
        32,
        "backbone.fpn.layer_blocks.1",
    ),
    "feature pyramid, fine": (
        lambda: BackboneWithFPN(torchvision.models.resnet18(), {"layer3": "0", "layer4": "1"}, [256, 512], 32),
        lambda maps: maps["0"],
        32,
        "backbone.fpn.layer_blocks.0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("pyramid", PYRAMIDS)
def test_the_default_of_a_pyramid_is_the_last_map_that_the_logits_depend_on(pyramid: str) -> None:
    make, read, width, layer = PYRAMIDS[pyramid]
    torch.manual_seed(0)
    model, images = Headed(make(), read, width).eval(), random_images(2, height=224, width=224)
    assert find_layout(model, images).layer.startswith(layer)
    assert correlation(grad_cam(model, images, 2), model.closed_form(images, 2)) > 0.999


class LeNet(nn.Module):
    """Unit t of the last map sees the pixels 4t + 6 to 4t + 9 and no other, or what convolutions blur of them."""

    def __init__(self, *, blurred: bool = False) -> None:
        super().__init__()
        convolutions = nn.Conv2d(1, 1, 5, bias=False), nn.Conv2d(1, 1, 5, bias=False)
        for convolution in convolutions:
            nn.init.constant_(convolution.weight, 0.02 if blurred else 0)
            with torch.no_grad():
                convolution.weight[0, 0, 2, 2] = 1
        layers = [(one, nn.ReLU(), nn.MaxPool2d(2)) for one in convolutions]
        self.features = nn.Sequential(*(layer for group in layers for layer in group))
        self.head = nn.Linear(1, 2)
        nn.init.constant_(self.head.weight, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).mean(dim=(2, 3)))


def centroid(maps: Tensor) -> list[float]:
    down, across = maps[0, 0].sum(dim=1), maps[0, 0].sum(dim=0)
    return [float((side * torch.arange(len(side))).sum() / side.sum()) for side in (down, across)]


class TestPlaces:
    @pytest.mark.parametrize("row", range(4))
    @pytest.mark.parametrize("column", [0, 2, 3])
    @pytest.mark.parametrize("function", [grad_cam, layer_cam, ablation_cam])
    def test_a_square_is_shown_where_it_is(self, function: Callable[..., Tensor], row: int, column: int) -> None:
        images = torch.zeros(1, 1, 28, 28)
        top, left = 4 * row + 6, 4 * column + 6
        images[:, :, top : top + 4, left : left + 4] = 1
        found = function(LeNet(), images, 1, "features.5")
        assert centroid(found) == pytest.approx([top + 1.5, left + 1.5], abs=1e-3)
        assert found[0, 0, top + 1, left + 1] == found.max() > 0
        # The default has finer maps, of which the same holds.
        assert centroid(grad_cam(LeNet(), images, 1)) == pytest.approx([top + 1.5, left + 1.5], abs=1.5)

    def test_blurred_squares_anywhere_are_shown_near(self) -> None:
        for top in range(2, 20, 3):
            images = torch.zeros(1, 1, 28, 28)
            images[:, :, top : top + 6, top : top + 6] = 1
            best = grad_cam(LeNet(blurred=True), images, 1).flatten().argmax()
            assert abs(int(best) // 28 - (top + 2.5)) <= 4
            assert abs(int(best) % 28 - (top + 2.5)) <= 4

    def test_maps_of_padded_convolutions_spread_evenly(self) -> None:
        layout = find_layout(torchvision.models.resnet18(), random_images(height=224, width=224), "layer4")
        maps = torch.rand(2, 1, 7, 7)
        assert torch.equal(layout.on_image(maps, (224, 224)), F.interpolate(maps, (224, 224), mode="bilinear"))


def blocks() -> nn.Sequential:
    def block(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))

    return nn.Sequential(block(1, 4), block(4, 6), block(6, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


FINE: list[Any] = [
    # model, channels, size of images, default layer, size of its map
    pytest.param(blocks, 1, 28, "2.1", (7, 7), id="digits"),
    pytest.param(blocks, 1, 64, "2", (8, 8), id="larger images"),
    pytest.param(blocks, 1, 12, "1.1", (6, 6), id="tiny images"),
    pytest.param(lambda: torchvision.models.resnet18(num_classes=5), 3, 224, "layer4", (7, 7), id="usual"),
    pytest.param(lambda: torchvision.models.resnet18(num_classes=5), 3, 64, "layer2", (8, 8), id="resnet, small"),
    # Inside the block behind are maps of the same size, but the shortcut leads past them.
    pytest.param(lambda: torchvision.models.resnet50(num_classes=5), 3, 64, "layer2", (8, 8), id="bottlenecks, small"),
    # The only maps of 7x7 are those of edges.
    pytest.param(lambda: torchvision.models.resnet18(num_classes=5), 3, 32, "layer2", (4, 4), id="resnet, tiny"),
    pytest.param(lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=5), 3, 64,
                 "blocks.1.norm1", (4, 4), id="no larger map"),
    pytest.param(LeNet, 1, 28, "features.4", (8, 8), id="lenet"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "channels", "size", "layer", "map_size"), FINE)
def test_the_default_is_fine_enough_to_look_at(
    make: Callable[[], nn.Module], channels: int, size: int, layer: str, map_size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    model, images = make().eval(), random_images(2, channels, size, size)
    layout = find_layout(model, images)
    assert (layout.layer, layout.size) == (layer, map_size)
    with undisturbed(model):
        first = trace_layer_choices(make().eval(), images, gradients=[None])
    assert list(first.gradients) == [layer]


class Wrapped(nn.Module):
    """A linear layer with a product of smaller ones added, in one of many spellings."""

    def __init__(self, base: nn.Linear, kind: str) -> None:
        super().__init__()
        width, outputs, rank = base.in_features, base.out_features, 2
        self.kind = kind
        if kind == "PEFT's names":
            self.base_layer, self.extra = base, nn.LayerNorm(outputs)
        else:
            self.linear = base
        if kind == "modules":
            self.down, self.up, self.drop = nn.Linear(width, rank), nn.Linear(rank, outputs), nn.Dropout()
        elif kind == "parameters":
            self.down, self.up = (nn.Parameter(torch.randn(rank, size)) for size in (width, outputs))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "PEFT's names":
            return self.extra(self.base_layer(x))
        if self.kind == "modules":
            return self.linear(x) + self.up(self.down(self.drop(x)))
        return self.linear(x) + x @ self.down.T @ self.up


class TestWrappedLinearLayers:
    def made(self) -> tuple[nn.Module, Tensor]:
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=4, depth=2, num_classes=5)
        return model.eval(), random_images(2, height=32, width=32)

    @pytest.mark.parametrize("kind", ["modules", "parameters", "PEFT's names"])
    def test_the_default_stays(self, kind: str) -> None:
        model, images = self.made()
        before = find_layout(model, images).layer
        assert before == "blocks.1.norm1"
        for block in model.blocks:
            block.attn.qkv = Wrapped(block.attn.qkv, kind)
        assert find_layout(model, images).layer == before

    @pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"use_rslora": True}], ids=str)
    def test_the_default_stays_with_peft(self, options: dict[str, Any]) -> None:
        peft = pytest.importorskip("peft")
        model, images = self.made()
        before = find_layout(model, images).layer
        wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=["qkv", "proj"], r=4, **options))
        assert find_layout(wrapped, images).layer == f"base_model.model.{before}"


class TestCaptions:
    def caption(self, callback: CamCallback, model: nn.Module, images: Tensor) -> str:
        with undisturbed(model):
            panels = list(callback.visualize(event_for(callback, model=model, images=images)))
        return panels[0].caption

    @pytest.mark.parametrize("kind", [GradCAM, LayerCAM, EigenCAM, AblationCAM, GuidedGradCAM])
    def test_they_tell_the_layer_and_the_size_of_its_map(self, kind: type[CamCallback]) -> None:
        model, images = blocks().eval(), random_images(2, 1, 28, 28)
        assert self.caption(kind(), model, images).startswith("2.1, 7×7")
        assert self.caption(kind(layer="0"), model, images).startswith("0, 14×14")

    def test_joined_layers_and_other_targets_are_all_told(self) -> None:
        model, images = blocks().eval(), random_images(2, 1, 28, 28)
        predicted = int(model(images).argmax(dim=1)[0])
        other = (predicted + 1) % 5
        caption = self.caption(LayerCAM(layers=["0", "1"], targets=other), model, images)
        assert caption.startswith(f"for {other}; 0, 14×14, 1, 7×7")

    @pytest.mark.parametrize("kind", [GradCAM, LayerCAM, AblationCAM])
    def test_they_say_why_there_is_nothing(self, kind: type[CamCallback]) -> None:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.beside, self.conv, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 4, 3), nn.Linear(4, 2)
                nn.init.constant_(self.head.weight, -1)

            def forward(self, images: Tensor) -> Tensor:
                self.beside(images)
                return self.head(self.conv(images).square().mean(dim=(2, 3)))

        class Negative(Net):
            def forward(self, images: Tensor) -> Tensor:
                return self.head(self.conv(images).relu().mean(dim=(2, 3)))

        images = random_images(1, 1, 16, 16)
        with torch.no_grad():
            negative = Negative()
            negative.conv.weight.abs_()
            negative.conv.bias.fill_(9)
        # All values are positive and all weights negative.
        assert (
            self.caption(kind(layer="conv"), negative, images) == "conv, 14×14; no evidence for this class is positive"
        )
        nothing = "beside, 16×16; the logits do not depend on this layer"
        assert self.caption(kind(layer="beside"), Net(), images) == nothing

    def test_a_layer_that_is_the_same_everywhere_has_no_pattern(self) -> None:
        model = blocks().eval()
        nn.init.zeros_(model[2][0].weight)
        assert (
            self.caption(EigenCAM(), model, random_images(1, 1, 28, 28)) == "2.1, 7×7; the layer is the same everywhere"
        )
