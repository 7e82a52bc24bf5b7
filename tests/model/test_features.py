"""Maps of any layer: found without configuration, the right way round, and the layers that are chosen."""

from __future__ import annotations

import copy
import gc
import warnings
import weakref
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from vis_callbacks.errors import ConfigurationError, LayerError
from vis_callbacks.model.features import (
    default_layer,
    feature_info,
    find_layout,
    layers_across_depth,
    middle_layer,
    output_layout,
    trace_layer_choices,
)
from vis_callbacks.model.guard import undisturbed
from vis_callbacks.model.layout import Layout
from vis_callbacks.model.receptive_field import receptive_field
from vis_callbacks.model.trace import trace


def plain(channels: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 8, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d((3, 3)),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(72, 5),
    )


def transformer(**options: Any) -> nn.Module:
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3, "num_classes": 5}
    return timm.create_model("vit_tiny_patch16_224", **(settings | options))


class SequenceFirst(nn.Module):
    """Tokens as (L, N, C), as in torch's own transformer layers."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        self.block = nn.TransformerEncoderLayer(12, 2, 24, norm_first=True)
        self.head = nn.Linear(12, 5)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).permute(2, 0, 1)
        tokens = self.block(torch.cat([self.token.expand(-1, tokens.shape[1], -1), tokens]))
        return self.head(tokens[1:].mean(dim=0))


class Surrounded(nn.Module):
    """A transformer with class or register tokens before and behind the patches, as (N, L, C) or (L, N, C)."""

    def __init__(self, before: int, behind: int, *, batch_first: bool = True) -> None:
        super().__init__()
        self.before, self.batch_first = before, batch_first
        self.patches = nn.Conv2d(3, 12, 4, 4)
        self.tokens = nn.Parameter(torch.randn(1, before + behind, 12))
        self.block = nn.TransformerEncoderLayer(12, 2, 24, batch_first=batch_first, norm_first=True)
        self.head = nn.Linear(12, 5)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        others = self.tokens.expand(len(images), -1, -1)
        tokens = torch.cat([others[:, : self.before], tokens, others[:, self.before :]], dim=1)
        tokens = self.block(tokens if self.batch_first else tokens.transpose(0, 1))
        return self.head(tokens.mean(dim=1 if self.batch_first else 0))


class Unfolded(nn.Module):
    """Patches cut without a convolution, as (N, C, L)."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv1d(3 * 64, 12, 1)
        self.head = nn.Linear(12, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.mix(F.unfold(images, 8, stride=8)).mean(dim=2))


def lit_quadrant(model: nn.Module, layer: str, height: int, width: int) -> list[int]:
    """Which quarter of the layer's map changes most when each quarter of the image is lit, in turn."""
    images = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    layout = find_layout(model, images, layer)
    found = []
    with undisturbed(model):
        dark = layout.to_map(trace(model, images, activations=[layer]).activations[layer])
        for row in (0, 1):
            for column in (0, 1):
                lit = images.clone()
                rows = slice(row * height // 2 + height // 8, row * height // 2 + 3 * height // 8)
                columns = slice(column * width // 2 + width // 8, column * width // 2 + 3 * width // 8)
                lit[:, :, rows, columns] += 2
                change = layout.to_map(trace(model, lit, activations=[layer]).activations[layer]) - dark
                quarters = F.adaptive_avg_pool2d(change.abs().mean(dim=1, keepdim=True), 2)
                found.append(int(quarters.argmax()))
    return found


@pytest.mark.parametrize("seen", ["by one image", "in the samples' pass", "in the pass of digits"])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(("before", "behind"), [(1, 0), (0, 1), (0, 4), (1, 3), (5, 0)])
def test_class_and_register_tokens_may_be_before_and_behind_the_patches(
    before: int, behind: int, batch_first: bool, seen: str
) -> None:
    torch.manual_seed(0)
    model, images = Surrounded(before, behind, batch_first=batch_first), torch.rand(3, 3, 32, 32)
    if seen == "in the pass of digits":
        # Patches of a black border are the same in all images, as class tokens are.
        images = F.pad(images[:, :, 8:-8, 8:-8], [8] * 4)
    if seen != "by one image":
        with undisturbed(model):
            trace_layer_choices(model, images, activations=["block"])
    layout = find_layout(model, images, "block")
    assert (layout.size, layout.prefix, layout.suffix) == ((8, 8), before, behind)
    assert lit_quadrant(model, "block", 32, 32) == [0, 1, 2, 3]
    assert str(receptive_field(model, images, "block.norm1")) == "4, stride 4"


@pytest.mark.parametrize(
    ("make", "layer", "axes", "size"),
    [
        (plain, "2", "NCHW", (16, 32)),
        (lambda: transformer(img_size=(32, 64)), "blocks.1", "NLC", (4, 8)),
        (lambda: transformer(img_size=(32, 64), reg_tokens=4), "blocks.1", "NLC", (4, 8)),
        (lambda: transformer(img_size=(32, 64), class_token=False, global_pool="avg"), "blocks.1.norm1", "NLC", (4, 8)),
        (
            lambda: torchvision.models.SwinTransformer([2, 2], 24, [2, 2], [2, 2], [4, 4], num_classes=5),
            "features.1",
            "NHWC",
            (16, 32),
        ),
        (lambda: timm.create_model("test_convnext", num_classes=5), "stages.0.blocks.0.norm", "NHWC", (8, 16)),
        (lambda: timm.create_model("test_mambaout", num_classes=5), "stages.0", "NHWC", (8, 16)),
        (SequenceFirst, "block", "LNC", (4, 8)),
        (Unfolded, "mix", "NCL", (4, 8)),
    ],
    ids=["conv", "tokens", "registers", "no prefix", "swin", "convnext norm", "mambaout", "sequence first", "unfolded"],
)
def test_maps_are_the_right_way_round(make: Any, layer: str, axes: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = make()
    height, width = (32, 64)
    layout = find_layout(model, torch.rand(1, 3, height, width), layer)
    assert (layout.axes, layout.size) == (axes, size)
    assert lit_quadrant(model, layer, height, width) == [0, 1, 2, 3]


def test_hieras_windowed_tokens_are_put_in_order() -> None:
    torch.manual_seed(0)
    model = timm.create_model("hiera_tiny_224", img_size=128, num_classes=5, embed_dim=24, num_heads=1)
    for layer in ("blocks.0", "blocks.1.norm1", "blocks.3"):
        assert lit_quadrant(model, layer, 128, 128) == [0, 1, 2, 3]
    layout = find_layout(model, torch.rand(1, 3, 128, 128), "blocks.0")
    assert layout.order is not None
    assert sorted(layout.order) == list(range(32 * 32))


def test_tokens_put_into_another_order_by_a_function_and_pooled_are_put_in_order() -> None:
    class Windowed(nn.Module):
        """Keeps the tokens of squares together, as Hiera does, and takes the largest of each."""

        def __init__(self, *, together: bool) -> None:
            super().__init__()
            self.patches, self.mix = nn.Conv2d(3, 12, 4, 4), nn.Linear(12, 12)
            self.norm, self.last, self.head = nn.LayerNorm(12), nn.LayerNorm(12), nn.Linear(12, 5)
            self.together = together

        def forward(self, images: Tensor) -> Tensor:
            maps = self.patches(images)
            squares = maps.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 2, 4, 3, 5, 1)
            if self.together:
                tokens = self.mix(self.norm(squares.flatten(1, 4))).unflatten(1, (-1, 4)).amax(dim=2)
            else:
                tokens = squares.permute(0, 3, 4, 1, 2, 5).flatten(1, 4)
                tokens = self.mix(self.norm(tokens)).unflatten(1, (4, -1)).amax(dim=1)
            return self.head(self.last(tokens).mean(dim=1))

    for together in (True, False):
        torch.manual_seed(0)
        for layer in ("norm", "mix", "last"):
            assert lit_quadrant(Windowed(together=together), layer, 32, 32) == [0, 1, 2, 3]


def test_hieras_of_transformers_are_put_in_order() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.HieraConfig(image_size=[128, 128], embed_dim=16, depths=[1, 1, 2, 1], num_labels=5)
    model = transformers.HieraForImageClassification(config).eval()
    for layer in ("hiera.embeddings", "hiera.encoder.stages.0", "hiera.encoder.stages.1", "hiera.encoder.stages.3"):
        assert lit_quadrant(model, layer, 128, 128) == [0, 1, 2, 3]


def test_outputs_and_gradients_become_maps_by_the_same_linear_step() -> None:
    layout = Layout("tokens", "NLC", (2, 3), channels=4, prefix=1)
    first, second = torch.rand(2, 5, 7, 4)
    torch.testing.assert_close(layout.to_map(first + 2 * second), layout.to_map(first) + 2 * layout.to_map(second))
    assert layout.to_map(first)[1, 2, 1, 0] == first[1, 1 + 3, 2]
    assert layout.shape(5) == (5, 7, 4)
    assert first.shape[layout.channel_axis] == 4


def test_a_layout_refuses_another_image_size() -> None:
    layout = find_layout(plain(), torch.rand(1, 3, 32, 32), "3")
    with pytest.raises(LayerError, match=r"'3' gave \(1, 8, 4, 4\), expected NCHW of map size \(8, 8\)"):
        layout.to_map(torch.rand(1, 8, 4, 4))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (plain, "4"),
        (lambda: nn.ModuleDict({"net": plain()})["net"], "4"),
        (torchvision.models.resnet18, "layer4"),
        (transformer, "blocks.3.norm1"),
        (lambda: transformer(class_token=False, global_pool="avg", fc_norm=False), "norm"),
        (lambda: torchvision.models.VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=5), "encoder_layer_1.ln_1"),
        (lambda: timm.create_model("test_efficientnet"), "bn2"),
        (lambda: timm.create_model("test_convnext"), "stages.3"),
        (SequenceFirst, "block"),
        (lambda: torchvision.models.vgg11(num_classes=5, init_weights=False), "features"),
    ],
)
def test_the_default_is_the_last_map_that_the_logits_depend_on(make: Any, expected: str) -> None:
    torch.manual_seed(0)
    model = make()
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter)
    size = 32 if hasattr(model, "patch_size") or hasattr(model, "patch_embed") else 256
    images = torch.rand(1, 3, size, size)
    layer = default_layer(model, images)
    assert layer.endswith(expected)
    with undisturbed(model):
        assert trace(model, images, gradients=[layer]).gradients[layer].any()


def test_patch_tokens_behind_the_last_attention_have_no_influence_on_a_class_token() -> None:
    found = {layer.name: layer.reaches_logit for layer in feature_info(transformer(), torch.rand(1, 3, 32, 32)).layers}
    assert not found["blocks.3"]
    assert not found["norm"]
    assert found["blocks.3.norm1"]
    assert found["blocks.2"]


def test_a_map_of_which_one_place_alone_is_read_is_not_chosen() -> None:
    class Brightest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.classes = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 5, 3, padding=1)

        def forward(self, images: Tensor) -> Tensor:
            return self.classes(self.features(images)).amax(dim=(2, 3))

    assert default_layer(Brightest(), torch.rand(1, 3, 16, 16)) == "features"


def test_an_auxiliary_head_in_train_mode_is_never_chosen() -> None:
    model = torchvision.models.googlenet(weights=None, init_weights=False, num_classes=5).train()
    assert default_layer(model, torch.rand(1, 3, 224, 224)) == "inception5b"
    assert model.aux1.training


def test_one_relu_for_all_places_is_no_place() -> None:
    class Reused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2, self.relu = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.ReLU()
            self.head = nn.Linear(6, 5)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.relu(self.conv2(self.relu(self.conv1(images)))).mean(dim=(2, 3)))

    images = torch.rand(1, 3, 16, 16)
    assert default_layer(Reused(), images) == "conv2"
    # Named, it is what it gave last.
    assert find_layout(Reused(), images, "relu").channels == 6


def test_a_backbone_without_gradients_still_has_a_default() -> None:
    class Probe(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = plain()[:5], nn.Linear(8, 5)

        def forward(self, images: Tensor) -> Tensor:
            with torch.no_grad():
                features = self.backbone(images)
            return self.head(features.mean(dim=(2, 3)))

    assert default_layer(Probe(), torch.rand(1, 3, 32, 32)) == "backbone"


@pytest.mark.parametrize("count", [4, 17])
def test_as_many_tokens_as_images_are_told_apart(count: int) -> None:
    torch.manual_seed(0)
    model, images = SequenceFirst().eval(), torch.rand(count, 3, 32, 32)
    with undisturbed(model):
        seen = trace_layer_choices(model, images, gradients=[None], activations=["block.norm1"])
    assert find_layout(model, images, "block.norm1").axes == find_layout(copy.deepcopy(model), images, "block").axes
    with undisturbed(model):
        wanted = trace(model, images, gradients=["block"])
    torch.testing.assert_close(seen.gradients["block"], wanted.gradients["block"])


def test_a_head_that_begins_at_zero_hides_the_layer_only_as_long() -> None:
    torch.manual_seed(0)
    model, images = transformer(), torch.rand(2, 3, 32, 32)
    nn.init.zeros_(model.head.weight)
    with undisturbed(model):
        trace_layer_choices(model, images, gradients=[None])
    before = default_layer(model, images)
    nn.init.normal_(model.head.weight)
    with undisturbed(model):
        seen = trace_layer_choices(model, images, gradients=[None])
    (layer,) = seen.gradients
    assert layer == default_layer(model, images) == default_layer(copy.deepcopy(model), images) != before
    assert seen.gradients[layer].any()


def test_a_model_that_squeezes_batches_of_one_is_seen() -> None:
    class Squeezing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 5)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.conv(images).amax(dim=(2, 3)).squeeze())

    assert default_layer(Squeezing(), torch.rand(1, 1, 8, 8)) == "conv"


def test_layers_across_depth_are_ends_of_stages() -> None:
    images = torch.rand(1, 3, 64, 64)
    expected = ["layer1", "layer2", "layer3", "layer4"]
    assert layers_across_depth(torchvision.models.resnet18(), images) == expected
    assert layers_across_depth(timm.create_model("resnet18"), images, 4) == expected
    assert layers_across_depth(torchvision.models.resnet18(), images, 1) == ["layer4"]
    blocks = layers_across_depth(transformer(), torch.rand(1, 3, 32, 32), 2)
    assert blocks == ["blocks.1", "blocks.3"]
    many = layers_across_depth(plain(), torch.rand(1, 3, 32, 32), 100)
    assert many == ["0", "1", "2", "3", "4"]


def test_layers_across_depth_of_a_wrapped_model_keep_their_full_names() -> None:
    wrapper = nn.Sequential(timm.create_model("resnet18", num_classes=5))
    assert layers_across_depth(wrapper, torch.rand(1, 3, 64, 64), 2) == ["0.layer2", "0.layer4"]


def test_a_layer_that_is_no_name_is_told_its_name() -> None:
    model = plain()
    with pytest.raises(LayerError, match=r"layer=Conv2d.*: expected the name of a layer; give its name, '3'"):
        find_layout(model, torch.rand(1, 3, 32, 32), model[3])
    with pytest.raises(LayerError, match=r"layer=int 3: expected the name of a layer; such as '8'"):
        find_layout(model, torch.rand(1, 3, 32, 32), 3)


def test_errors_name_the_layer_its_shape_and_neighbours() -> None:
    images = torch.rand(1, 3, 32, 32)
    with pytest.raises(LayerError, match=r"'8' \(Linear\) of Sequential gives \(1, 5\).*32x32.*nearest.*: 6, 5, 4"):
        find_layout(plain(), images, "8")
    with pytest.raises(
        LayerError, match="no layer with a spatial map for images of 4x4: this model has no convolution"
    ):
        default_layer(nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), torch.rand(1, 3, 4, 4))
    one_position = nn.Sequential(nn.Conv2d(3, 8, 4), nn.Flatten(), nn.Linear(8, 5))
    with pytest.raises(LayerError, match="no layer with a spatial map for images of 4x4: give larger images"):
        default_layer(one_position, torch.rand(1, 3, 4, 4))
    with pytest.raises(LayerError, match="no layer 'nowhere'"):
        find_layout(plain(), images, "nowhere")
    with pytest.raises(ConfigurationError, match=r"expected \(N, C, H, W\)"):
        default_layer(plain(), torch.rand(3, 32, 32))

    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.spare = plain(), nn.Conv2d(3, 3, 1)

        def forward(self, images: Tensor) -> Tensor:
            return self.body(images)

    with pytest.raises(LayerError, match="'spare' of Unused did not run"):
        find_layout(Unused(), images, "spare")


@pytest.mark.parametrize(
    ("name", "options", "layer", "before"),
    [
        ("swin_tiny_patch4_window7_224", {"window_size": 4}, "layers.0.blocks.0.attn.qkv", "norm1"),
        ("swin_tiny_patch4_window7_224", {"window_size": 3}, "layers.0.blocks.1.attn.qkv", "norm1"),
        ("davit_tiny", {}, "stages.0.blocks.0.0.attn.qkv", "norm1"),
        ("samvit_base_patch16", {"depth": 3, "embed_dim": 96}, "blocks.0.attn.qkv", "norm1"),
        ("nest_tiny", {}, "levels.1.transformer_encoder.0.attn.qkv", "norm1"),
        ("maxvit_rmlp_pico_rw_256", {}, "stages.0.blocks.0.attn_block.attn.qkv", "norm1"),
        ("maxvit_rmlp_pico_rw_256", {}, "stages.0.blocks.0.attn_grid.attn.qkv", "norm1"),
    ],
    ids=["swin", "swin shifted and padded", "davit padded", "sam padded", "nest", "maxvit block", "maxvit grid"],
)
def test_maps_cut_into_windows_are_put_together(name: str, options: dict[str, Any], layer: str, before: str) -> None:
    """A linear layer on the tokens of windows gives what it gives on the tokens of the map that was cut."""
    takes_size = {} if name == "davit_tiny" else {"img_size": 64}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = timm.create_model(name, num_classes=5, **takes_size, **options).eval()
    linear = model.get_submodule(layer)
    norm = f"{layer.removesuffix('.attn.qkv')}.{before}"
    images = torch.rand(3, 3, 64, 64)
    layouts = {name: find_layout(model, images, name) for name in (layer, norm)}
    seen = trace(model, images, activations=[layer, norm])
    whole = layouts[norm].to_map(seen.activations[norm])
    expected = linear(whole.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    found = layouts[layer].to_map(seen.activations[layer])
    assert layouts[layer].window is not None
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, expected.roll(1, dims=-1), atol=1e-4)


def test_heads_are_no_windows() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(4), nn.Linear(8, 5)

        def forward(self, images: Tensor) -> Tensor:
            tokens = self.conv(images).flatten(2).mT
            heads = tokens.unflatten(2, (2, 4)).transpose(1, 2).flatten(0, 1)
            return self.head(self.norm(heads).unflatten(0, (-1, 2)).mean(dim=2).flatten(1))

    with pytest.raises(LayerError, match=r"norm.*no spatial map"):
        find_layout(Heads(), torch.rand(2, 3, 16, 16), "norm")


def test_feature_info_leaves_no_trace_and_frees_its_memory() -> None:
    model = plain().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept: list[weakref.ref[Tensor]] = []
    handle = model[3].register_forward_hook(lambda _, __, output: kept.append(weakref.ref(output)))
    random = torch.get_rng_state()
    with torch.inference_mode():
        feature_info(model, torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    handle.remove()
    gc.collect()
    assert kept
    assert all(reference() is None for reference in kept)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert all(module.training and not module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("make", "layer", "axes"),
    [(plain, "2", "NCHW"), (plain, "8", "NC"), (plain, "5", "NCHW"), (SequenceFirst, "block", "LNC")],
)
def test_batch_and_channels_come_first_whether_or_not_there_is_a_map(make: Any, layer: str, axes: str) -> None:
    torch.manual_seed(0)
    model = make().eval()
    layout = output_layout(model, torch.rand(1, 3, 32, 32), layer)
    assert layout.axes == axes
    images = torch.rand(2, 3, 32, 32)
    output = trace(model, images, activations=[layer]).activations[layer]
    first = layout.channels_first(output)
    assert first.shape[:2] == (2, layout.channels)
    assert torch.equal(layout.from_channels_first(first), output)
    # The batch axis is that along which an image alone has its output.
    alone = layout.channels_first(trace(model, images[1:], activations=[layer]).activations[layer])
    torch.testing.assert_close(first[1:], alone)


def test_layers_without_an_order_of_axes_are_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        swin = timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, img_size=64, window_size=4).eval()
    with pytest.raises(LayerError, match="gives 16 windows of each image: name one around the windows"):
        output_layout(swin, torch.rand(1, 3, 64, 64), "layers.0.blocks.0.attn.qkv")
    with pytest.raises(LayerError, match="no layer 'nowhere'"):
        output_layout(plain(), torch.rand(1, 3, 32, 32), "nowhere")


def test_the_middle_layer_is_at_two_thirds_or_any_before_the_logits() -> None:
    assert middle_layer(torchvision.models.resnet18(), torch.rand(1, 3, 64, 64)) == "layer3"
    flat = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Linear(8, 5))
    assert middle_layer(flat, torch.rand(1, 3, 4, 4)) == "1"
