"""What flows through attention is the product of matrices that the papers write down."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from tests.attribution.cases import random_images, same
from tests.attribution.test_attribution_callbacks import attributed
from tests.helpers import tiny
from vis_callbacks import Attention, AttentionRelevance, AttentionRollout, ConfigurationError
from vis_callbacks.attribution.attention_relevance import attention_relevance
from vis_callbacks.attribution.attention_rollout import attention_rollout
from vis_callbacks.attribution.grad_cam import grad_cam
from vis_callbacks.errors import CutError
from vis_callbacks.inspection.attention import attention

LAYERS = 3


def vit(**options: Any) -> timm.models.VisionTransformer:
    torch.manual_seed(0)
    model = timm.models.VisionTransformer(
        img_size=32, patch_size=8, num_classes=5, embed_dim=24, depth=LAYERS, num_heads=3, **options
    )
    for block in model.blocks:
        # Attention of its own for each token, as after training.
        nn.init.normal_(block.attn.qkv.weight, std=0.5)
    return model.eval()


def explicit(model: nn.Module, images: Tensor) -> tuple[list[Tensor], Tensor]:
    """The weights of each block, in the graph of the logits: a forward of a ViT, written down."""
    x = model._pos_embed(model.patch_embed(images))
    weights = []
    for block in model.blocks:
        attn = block.attn
        query, key, value = (
            attn.qkv(block.norm1(x)).unflatten(-1, (3, attn.num_heads, attn.head_dim)).permute(2, 0, 3, 1, 4)
        )
        weights.append((query * attn.scale @ key.transpose(-2, -1)).softmax(dim=-1))
        x = x + attn.proj((weights[-1] @ value).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    return weights, model.forward_head(model.norm(x))


def on_pixels(row: Tensor) -> Tensor:
    return F.interpolate(row.reshape(-1, 1, 4, 4), size=(32, 32), mode="bilinear")


@pytest.mark.parametrize("prefix", [1, 5])
def test_rollout_is_the_product_of_all_layers(prefix: int) -> None:
    model, images = vit(reg_tokens=prefix - 1), random_images(2, height=32, width=32)
    with torch.no_grad():
        weights, _ = explicit(model, images)
    flow = torch.eye(16 + prefix)
    for one in weights:
        flow = (one.mean(dim=1) + torch.eye(16 + prefix)) / 2 @ flow
    assert same(attention_rollout(model, images), on_pixels(flow[:, 0, prefix:]), 1e-5)
    assert same(attention(model, images), weights[-1], 1e-5)


class Rolled(nn.Module):
    """Puts some of the first tokens behind the others, or back."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.roll(-self.count, dims=1)


@pytest.mark.parametrize("others", [1, 5])
def test_class_and_register_tokens_behind_the_patches_change_no_map(others: int) -> None:
    before, images = vit(reg_tokens=others - 1), random_images(2, height=32, width=32)
    behind = copy.deepcopy(before)
    behind.pos_drop, behind.norm = Rolled(others), nn.Sequential(behind.norm, Rolled(-others))
    assert same(behind(images), before(images), 1e-5)
    for function in (attention_rollout, attention_relevance, grad_cam):
        assert same(function(behind, images), function(before, images), 1e-4)


def test_relevance_is_the_papers() -> None:
    model, images = vit(), random_images(2, height=32, width=32)
    weights, logits = explicit(model, images.requires_grad_())
    gradients = torch.autograd.grad(logits[:, 3].sum(), weights)
    relevance = torch.eye(17).expand(2, -1, -1)
    for one, gradient in zip(weights, gradients, strict=True):
        relevance = relevance + (one * gradient).relu().mean(dim=1).detach() @ relevance
    found = attention_relevance(model, images.detach(), 3)
    assert same(found, on_pixels(relevance[:, 0, 1:]), 1e-4)
    assert not same(attention_relevance(model, images.detach(), 2), found, 1e-2)


def test_without_a_class_token_all_places_ask_alike() -> None:
    model, images = vit(class_token=False, global_pool="avg"), random_images(2, height=32, width=32)
    weights, logits = explicit(model, images.requires_grad_())
    gradients = torch.autograd.grad(logits[:, 1].sum(), weights)
    flow = relevance = torch.eye(16).expand(2, -1, -1)
    for one, gradient in zip(weights, gradients, strict=True):
        flow = (one.mean(dim=1).detach() + torch.eye(16)) / 2 @ flow
        relevance = relevance + (one * gradient).relu().mean(dim=1).detach() @ relevance
    assert same(attention_rollout(model, images.detach()), on_pixels(flow.mean(dim=1)), 1e-5)
    expected = on_pixels((relevance - torch.eye(16)).mean(dim=1))
    assert same(attention_relevance(model, images.detach(), 1), expected, 1e-3)


def test_small_relevance_is_not_rounded_away() -> None:
    # Without a class token all places start with a sixteenth, beside which this is less than a float can tell.
    model, images = vit(class_token=False, global_pool="avg"), random_images(2, height=32, width=32)
    with torch.no_grad():
        model.head.weight *= 1e-4
        larger = attention_relevance(model, images, 1)
        model.head.weight *= 1e-6
        smaller = attention_relevance(model, images, 1)
    assert float(smaller.max()) > 0
    assert same(smaller * 1e6, larger, 1e-3)


def test_windows_pass_on_what_is_theirs_and_stages_spread_it() -> None:
    torch.manual_seed(0)
    model = torchvision.models.SwinTransformer([4, 4], 24, [1, 1], [2, 2], [4, 4], num_classes=5).eval()
    images = random_images(2, height=32, width=32)
    first, last = (attention(model, images, f"features.{block}").mean(dim=1) for block in (1, 3))
    after = torch.full((2, 1, 16), 1 / 16) @ ((last + torch.eye(16)) / 2)
    spread = (after.view(2, 4, 4) / 4).repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1)
    before = (spread[:, None] @ ((first + torch.eye(64)) / 2)).view(2, 1, 8, 8)
    assert same(attention_rollout(model, images), F.interpolate(before, size=(32, 32), mode="bilinear"), 1e-5)
    assert torch.allclose(before.sum(dim=(1, 2, 3)), torch.ones(2))


def test_the_relevant_place_is_found() -> None:
    class Seeker(nn.Module):
        """A class token looks at what is bright, and the class is what it finds there."""

        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(1, 2, 8, 8, bias=False)
            nn.init.constant_(self.patches.weight, 1 / 64)

        def forward(self, images: Tensor) -> Tensor:
            tokens = self.patches(images).flatten(2).transpose(1, 2)
            query = torch.full((len(images), 1, 2), 8.0)
            return F.scaled_dot_product_attention(query, tokens, tokens)[:, 0]

    images = torch.zeros(4, 1, 32, 32)
    corners = [(0, 0), (8, 24), (16, 8), (24, 24)]
    for image, (top, left) in zip(images, corners, strict=True):
        image[:, top : top + 8, left : left + 8] = 1.0
    for function in (attention_rollout, attention_relevance):
        maps = function(Seeker(), images, 1)
        for values, (top, left) in zip(maps, corners, strict=True):
            places = F.avg_pool2d(values, 8)[0]
            assert int(places.argmax()) == top // 8 * 4 + left // 8
            assert float(places.max()) > 3 * float(places.median())


@pytest.mark.parametrize("kind", [Attention, AttentionRollout, AttentionRelevance])
def test_a_model_without_attention_says_so_at_setup(kind: Any, tmp_path: Path) -> None:
    trainer = tiny.trainer(tmp_path, [kind()])
    with pytest.raises(ConfigurationError, match="has no attention") as raised:
        trainer.fit(tiny.module(net=torchvision.models.resnet18(num_classes=4)), tiny.loader(), tiny.loader(8))
    assert len(str(raised.value)) < 300


def test_channels_that_look_at_each_other_have_no_map() -> None:
    model = timm.create_model("edgenext_xx_small", num_classes=5)
    for function in (attention_rollout, attention_relevance):
        with pytest.raises(ConfigurationError, match="between channels"):
            function(model, random_images(1))


def test_a_cut_gradient_is_named() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = vit()

        def forward(self, images: Tensor) -> Tensor:
            return self.model.forward_head(self.model.forward_features(images).detach())

    with pytest.raises(CutError, match=r"detach\(\)"):
        attention_relevance(Cut(), random_images(1, height=32, width=32))
    assert attention_rollout(Cut(), random_images(1, height=32, width=32)).any()


def test_a_callback_shows_what_its_function_returns_on_a_transformer() -> None:
    model, images = vit(), random_images(2, height=32, width=32)
    assert same(attributed(AttentionRollout(), model, images), attention_rollout(model, images))
    assert same(attributed(AttentionRelevance(targets=2), model, images), attention_relevance(model, images, 2))
