"""Attention is softmax(q k^T), wherever it is computed: against models that return it, or compute it step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import timm
import torch
import torchvision
from timm.layers import set_fused_attn
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers.zoo import build, smallest
from vis_callbacks import ConfigurationError, LayerError
from vis_callbacks.functional import attention
from vis_callbacks.model.attention import AttentionReads, AttentionWatch
from vis_callbacks.model.attention_code import may_attend
from vis_callbacks.model.trace import trace

QUICK = ("vision_transformer", "xcit", "levit", "pit", "mobilevit", "vision_transformer_relpos")
FAMILIES = (
    *(*QUICK, "beit", "cait", "convit", "crossvit", "deit", "efficientvit_msra", "eva", "gcvit", "hiera", "maxxvit"),
    *("mvitv2", "nest", "pvt_v2", "swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr", "tiny_vit"),
    *("twins", "visformer", "vitamin", "volo"),
)
REORDERED = ("tiny_vit", "mobilevit")
"""Those whose last attention is not in the order of the image: by windows, or with padding."""


@contextmanager
def softmaxes() -> Iterator[list[Tensor]]:
    """The results of every softmax of the last axis, as the models' own code asks for it."""
    found: list[Tensor] = []
    inside: list[object] = []
    originals = {(owner, "softmax"): owner.softmax for owner in (Tensor, torch, F)}

    def recorded(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def softmax(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            inside.append(None)
            result = original(tensor, *args, **kwargs)
            inside.pop()
            # One spelling may call another.
            if (
                not inside
                and result.ndim > 2
                and (kwargs.get("dim", args[0] if args else None)) in (-1, result.ndim - 1)
            ):
                found.append(result.detach())
            return result

        return softmax

    for (owner, name), original in originals.items():
        setattr(owner, name, recorded(original))
    try:
        yield found
    finally:
        for (owner, name), original in originals.items():
            setattr(owner, name, original)


def expect_equal(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) < 1e-5
    assert torch.allclose(found.sum(dim=-1), torch.ones(()), atol=1e-5)


@pytest.mark.parametrize(
    "family", [pytest.param(one, marks=[pytest.mark.slow] * (one not in QUICK)) for one in FAMILIES]
)
def test_a_family_of_timm(family: str) -> None:
    model, images = build(smallest(family))
    images = torch.cat([images, images.flip(3)])
    found = attention(model, images)
    set_fused_attn(False)
    try:
        explicit, _ = build(smallest(family))
    finally:
        set_fused_attn(True)
    explicit.load_state_dict(model.state_dict())
    with softmaxes() as expected, torch.no_grad():
        explicit.eval()(images)
    last = expected[-1]
    last = last.reshape(2, -1, *last.shape[-2:])
    if family in REORDERED:
        # In the order of the image, and several windows together: the same numbers.
        assert torch.allclose(found.sum(dim=-1), torch.ones(()), atol=1e-5)
        last, found = last.flatten().sort().values, found[found > 0].sort().values
        assert found.shape == last.shape
        assert torch.allclose(found, last, atol=1e-5)
    else:
        expect_equal(found, last)


def hugging_face(kind: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
    small |= {"image_size": 32, "patch_size": 8, "num_labels": 5}
    if kind == "Swin":
        small = {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 3], "window_size": 4}
        small |= {"image_size": 32, "patch_size": 4, "num_labels": 5}
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**small)
    return getattr(transformers, f"{kind}ForImageClassification")(config).eval()  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["ViT", "DeiT", "Beit", "Swin", "Dinov2", "Dinov2WithRegisters"])
def test_a_model_of_hugging_face(kind: str) -> None:
    model, images = hugging_face(kind), torch.randn(2, 3, 32, 32)
    found = attention(model, images)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = model(images, output_attentions=True).attentions
    if expected[-1] is None:
        pytest.skip(f"{kind} of this version does not return its attention")
    expect_equal(found, expected[-1])
    expect_equal(attention(model, images), expected[-1])


def test_every_layer_of_a_model_by_name() -> None:
    model, images = hugging_face("ViT"), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        seen = trace(model, images, attention=AttentionReads(everywhere=True)).attention
    model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = model(images, output_attentions=True).attentions
    assert len(seen) == len(expected) == 2
    for call, weights in zip(seen, expected, strict=True):
        expect_equal(attention(model, images, call.layer), weights)
        assert torch.allclose(call.mean_weights(), weights.mean(dim=1), atol=1e-6)
        assert torch.allclose(call.mean_weights(slice(3, 5)), weights.mean(dim=1)[:, 3:5], atol=1e-6)


def torch_attention(model: nn.Module, images: Tensor) -> list[Tensor]:
    """The weights of each nn.MultiheadAttention, from a call of its own with what the model gives it."""
    found: list[Tensor] = []

    def look(module: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not kwargs.pop("ours", False):
            kwargs |= {"need_weights": True, "average_attn_weights": False}
            found.append(nn.MultiheadAttention.forward(module, *args, **kwargs)[1])

    handles = [
        one.register_forward_pre_hook(look, with_kwargs=True)
        for one in model.modules()
        if isinstance(one, nn.MultiheadAttention)
    ]
    # Its parameters ask for gradients, so that no fast path passes the hooks by.
    model(images.requires_grad_())
    for handle in handles:
        handle.remove()
    return [weights.detach() for weights in found]


class Encoder(nn.Module):
    def __init__(self, *, batch_first: bool = True, mask: Tensor | None = None) -> None:
        super().__init__()
        self.patches, self.head, self.first, self.mask = nn.Conv2d(3, 12, 8, 8), nn.Linear(12, 5), batch_first, mask
        layer = nn.TransformerEncoderLayer(12, 3, 24, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).permute((0, 2, 1) if self.first else (2, 0, 1))
        return self.head(self.encoder(tokens, mask=self.mask).mean(dim=1 if self.first else 0))


TORCH: dict[str, Callable[[], nn.Module]] = {
    "torchvision ViT": lambda: torchvision.models.VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=5),
    "torch's encoder": Encoder,
    "torch's encoder, tokens first": lambda: Encoder(batch_first=False),
    "torch's encoder with a mask": lambda: Encoder(mask=torch.ones(16, 16).triu(1).bool()),
}


@pytest.mark.parametrize("kind", TORCH)
def test_attention_of_torch_itself(kind: str) -> None:
    torch.manual_seed(0)
    model, images = TORCH[kind]().eval(), torch.randn(2, 3, 32, 32)
    expected = torch_attention(model, images)
    expect_equal(attention(model, images), expected[-1])
    # Frozen and without gradients torch takes a fast path, which no function is seen of.
    with torch.no_grad():
        expect_equal(attention(model.requires_grad_(False), images), expected[-1])


def test_windows_of_torchvisions_swin_are_put_together() -> None:
    torch.manual_seed(0)
    model = torchvision.models.SwinTransformer([4, 4], 24, [1, 1], [2, 2], [4, 4], num_classes=5).eval()
    images = torch.randn(2, 3, 32, 32)
    with softmaxes() as seen, torch.no_grad():
        model(images)
    for layer, side, windows in zip(("features.1", "features.3"), (8, 4), seen, strict=True):
        cut = torch.arange(side * side).view(side // 4, 4, side // 4, 4).transpose(1, 2).reshape(-1, 16)
        expected = torch.zeros(2, 2, side * side, side * side)
        for image in range(2):
            for number, inside in enumerate(cut):
                expected[image][:, inside[:, None], inside] = windows.view(2, len(cut), 2, 16, 16)[image, number]
        expect_equal(attention(model, images, layer), expected)


def test_shifted_windows_of_timms_swin_are_put_together() -> None:
    torch.manual_seed(0)
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=64, window_size=4, depths=(2,), embed_dim=24, num_heads=(2,)
    ).eval()
    images = torch.randn(2, 3, 64, 64)
    with softmaxes() as seen, torch.no_grad():
        model(images)
    places = torch.arange(256).view(16, 16).roll((-2, -2), (0, 1))
    cut = places.view(4, 4, 4, 4).transpose(1, 2).reshape(-1, 16)
    expected = torch.zeros(2, 2, 256, 256)
    for image in range(2):
        for number, inside in enumerate(cut):
            expected[image][:, inside[:, None], inside] = seen[-1].view(2, 16, 2, 16, 16)[image, number]
    expect_equal(attention(model, images, "layers.0.blocks.1"), expected)


CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scaled": {"scale": 0.3},
    "masked": {"attn_mask": torch.rand(2, 4, 6, 5, generator=torch.Generator().manual_seed(0)) > 0.4},
    "biased": {"attn_mask": torch.randn(1, 4, 6, 5, generator=torch.Generator().manual_seed(0))},
    "one mask for all": {"attn_mask": torch.ones(6, 5).tril().bool()},
    "causal": {"is_causal": True},
    "shared keys": {"enable_gqa": True},
}


@pytest.mark.parametrize("name", CALLS)
def test_the_options_of_the_fused_function(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    options = CALLS[name]
    heads = 2 if name == "shared keys" else 4
    query = torch.randn(2, 4, 6, 8, generator=generator)
    key, value = (torch.randn(2, heads, 5, 8, generator=generator) for _ in range(2))

    class Net(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(query + 0 * images.sum(), key, value, **options)

    # The identity as values gives the weights themselves.
    expected = F.scaled_dot_product_attention(query, key, torch.eye(5).expand(2, heads, 5, 5), **options)
    model = Net()
    with AttentionWatch(model, AttentionReads((None,))) as watch:
        model(torch.zeros(2, 3, 4, 4))
    (call,) = watch.calls()
    assert torch.allclose(call.weights(), expected, atol=1e-6)
    assert torch.allclose(call.weights(slice(2, 4)), expected[:, :, 2:4], atol=1e-6)


class Explicit(nn.Module):
    """A head on the mean of attended patches; attention spelled in one of many ways."""

    def __init__(self, spelling: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.patches, self.qkv, self.head = nn.Conv2d(3, 12, 8, 8), nn.Linear(12, 36), nn.Linear(12, 5)
        self.spelling = spelling

    def qkv_of(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        return self.qkv(tokens).unflatten(-1, (3, 2, 6)).permute(2, 0, 3, 1, 4)

    def forward(self, images: Tensor) -> Tensor:
        query, key, value = self.qkv_of(images)
        attended = self.spelling(query, key, value)
        return self.head(attended.transpose(1, 2).flatten(2).mean(dim=1))


def _folded(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    weights = torch.bmm(query.flatten(0, 1), key.flatten(0, 1).mT).softmax(-1)
    return torch.bmm(weights, value.flatten(0, 1)).view_as(value)


def _in_place(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = torch.matmul(query, key.transpose(-2, -1))
    scores += 0
    weights = nn.Softmax(dim=-1)(scores.masked_fill_(scores.isnan(), 0.0))
    return torch.matmul(F.dropout(weights, 0.5, training=False), value)


SPELLINGS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "operator": lambda q, k, v: (q @ k.transpose(-2, -1)).softmax(dim=-1) @ v,
    "einsum": lambda q, k, v: torch.einsum("bhts,bhsd->bhtd", torch.einsum("bhtd,bhsd->bhts", q, k).softmax(-1), v),
    "heads in the batch": _folded,
    "in place": _in_place,
    "float32 inside": lambda q, k, v: F.softmax(q @ k.mT, dim=-1, dtype=torch.float32).to(q.dtype) @ v,
    "keys first": lambda q, k, v: (k @ q.mT).softmax(dim=-2).mT @ v,
    "fused": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=1.0),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_and_their_gradients(spelling: str) -> None:
    torch.manual_seed(0)
    model, images = Explicit(SPELLINGS[spelling]).eval(), torch.randn(2, 3, 32, 32)
    query, key, value = model.qkv_of(images)
    weights = (query @ key.transpose(-2, -1)).softmax(dim=-1).detach().requires_grad_()
    expect_equal(attention(model, images), weights.detach())
    logits = model.head((weights @ value).transpose(1, 2).flatten(2).mean(dim=1))
    (gradient,) = torch.autograd.grad(logits[:, 3].sum(), weights)
    seen = trace(model, images, 3, input_gradient=True, attention=AttentionReads(gradients=True))
    (call,) = seen.attention
    split = call if spelling != "heads in the batch" else None
    expected = (gradient * weights).relu().detach()
    if split is None:
        expected = expected.flatten(0, 1)
        assert torch.allclose(call.relevance(), expected, atol=1e-7)
    else:
        assert torch.allclose(call.relevance(), expected.mean(dim=1), atol=1e-7)
    # What the pass gives is what it gives without anyone watching.
    assert torch.allclose(seen.logits, model(images), atol=1e-6)


NOT_ATTENTION: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: timm.create_model("test_resnet", num_classes=5),
    "split attention": lambda: timm.create_model("resnest14d", num_classes=5),
    "global context": lambda: timm.create_model("gcresnet33ts", num_classes=5),
    "softmax at the end": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 5), nn.Softmax(dim=1)),
}


@pytest.mark.parametrize("kind", NOT_ATTENTION)
def test_a_model_without_attention_says_so(kind: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(ConfigurationError, match="has no attention") as raised:
        attention(NOT_ATTENTION[kind](), torch.randn(1, 3, 64, 64))
    assert len(str(raised.value)) < 300


def test_a_layer_without_attention_says_which_have_some() -> None:
    with pytest.raises(LayerError, match=r"computes no attention; .*blocks\.\d\.attn"):
        attention(timm.create_model("test_vit", img_size=32, num_classes=5), torch.randn(1, 3, 32, 32), "patch_embed")


def _attend(query: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, query, query)


class Hidden(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return _attend(images)


class Around(Hidden):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(2 * images)


def test_what_the_code_alone_tells() -> None:
    assert may_attend(Around())
    assert not may_attend(torchvision.models.resnet18(num_classes=5))
    assert not may_attend(timm.create_model("test_resnet", num_classes=5))
    assert not may_attend(NOT_ATTENTION["softmax at the end"]())
    assert may_attend(timm.create_model("test_vit", num_classes=5))
    assert may_attend(hugging_face("ViT"))
    assert may_attend(Hidden())
    for make in TORCH.values():
        assert may_attend(make())
