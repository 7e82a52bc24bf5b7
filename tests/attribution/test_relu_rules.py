from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.attribution.cases import FunctionalReLU, ReusedReLU, random_images, same, small_net
from vis_callbacks import ConfigurationError, LayerError
from vis_callbacks.attribution.gradient import gradient
from vis_callbacks.attribution.relu_rules import ReluRule, deconvnet, guided_backprop

rules = pytest.mark.parametrize("rule", [guided_backprop, deconvnet])


def with_function(function: Callable[[Tensor], Tensor]) -> FunctionalReLU:
    torch.manual_seed(0)
    model = FunctionalReLU()
    model.function = function
    return model


def statement(x: Tensor) -> Tensor:
    torch.relu_(x)
    return x


def scripted(function: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(function)


def zeroed(x: Tensor) -> Tensor:
    x[x < 0] = 0
    return x


def clamped(x: Tensor) -> Tensor:
    return x.clamp(min=0)


@rules
@pytest.mark.parametrize(
    "function",
    [
        nn.ReLU(inplace=True),
        F.relu,
        lambda x: F.relu(x, inplace=True),
        lambda x: F.relu(input=x),
        torch.relu,
        torch.relu_,
        torch.Tensor.relu,
        torch.Tensor.relu_,
        statement,
        lambda x: F.hardtanh(x, 0.0, 1e9),
        lambda x: F.relu(x[:, :, ::1]),
        lambda x: x.clamp(min=0),
        lambda x: x.clamp(0),
        lambda x: torch.clamp(input=x, min=0),
        lambda x: torch.clamp_(x, min=0.0),
        lambda x: x.clamp_min(0),
        lambda x: x.clamp_min_(0),
        lambda x: torch.clip(x, min=0),
        lambda x: x.clamp(min=torch.zeros(())),
        lambda x: torch.where(x > 0, x, 0),
        lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
        lambda x: torch.where(x <= 0, 0.0, x),
        lambda x: torch.where(torch.zeros(()) < x, x, 0),
        lambda x: x.where(x >= 0, torch.tensor(0.0)),
        lambda x: torch.maximum(x, torch.tensor(0.0)),
        lambda x: torch.max(x, torch.zeros_like(x)),
        lambda x: torch.fmax(torch.zeros(1), x),
        lambda x: x * (x > 0),
        lambda x: (x > 0) * x,
        lambda x: x * (x.detach() > 0).to(x.dtype),
        lambda x: x * torch.gt(x, 0).float(),
        lambda x: x.mul_(x > 0),
        lambda x: F.threshold(x, 0, 0),
        nn.Threshold(0, 0),
        nn.Threshold(0, 0, inplace=True),
        lambda x: x.masked_fill(x < 0, 0),
        lambda x: x.masked_fill_(x < 0, 0),
        zeroed,
        nn.LeakyReLU(0.0),
        lambda x: torch.ops.aten.relu(x),
        scripted(nn.ReLU()),
        scripted(clamped),
    ],
)
def test_every_spelling_of_relu_gives_the_same_map(
    rule: Callable[..., Tensor], function: Callable[[Tensor], Tensor]
) -> None:
    torch.manual_seed(0)
    expected = rule(ReusedReLU(), random_images(height=16, width=16), 1)
    assert same(rule(with_function(function), random_images(height=16, width=16), 1), expected)


@pytest.mark.parametrize(
    ("rule", "expected"), [("guided", [0.0, 0.0, 5.0, 0.0]), ("deconv", [3.0, 0.0, 5.0, 0.0])], ids=["guided", "deconv"]
)
def test_what_passes(rule: str, expected: list[float]) -> None:
    x = torch.tensor([-1.0, -2.0, 3.0, 4.0], requires_grad=True)
    with ReluRule(rule):
        y = F.relu(x)
    (gradient,) = torch.autograd.grad(y, x, torch.tensor([3.0, -4.0, 5.0, -6.0]))
    assert gradient.tolist() == expected
    assert y.tolist() == [0.0, 0.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("act", "name"),
    [(nn.ReLU6(), set()), (nn.Hardtanh(-6, 6), {"hardtanh"}), (lambda x: F.hardtanh(x, max_val=6.0), {"hardtanh"})],
)
def test_a_clipped_activation_passes_from_zero_to_its_bound(act: Callable[[Tensor], Tensor], name: set[str]) -> None:
    x = torch.tensor([-0.5, 3.0, 7.0], requires_grad=True)
    with ReluRule("guided") as mode:
        y = act(x)
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [0.0, 1.0, 0.0]
    assert mode.others == name


@rules
@pytest.mark.parametrize(
    "function",
    [lambda x: x.clamp(0, 6), lambda x: torch.clamp(x, min=0, max=6.0), nn.ReLU6(inplace=True), scripted(nn.ReLU6())],
)
def test_every_spelling_of_relu6_gives_the_same_map(
    rule: Callable[..., Tensor], function: Callable[[Tensor], Tensor]
) -> None:
    expected = rule(with_function(F.relu6), random_images(height=16, width=16), 1)
    assert same(rule(with_function(function), random_images(height=16, width=16), 1), expected)


@rules
@pytest.mark.parametrize(
    "function",
    [
        # Masks of something else, and bounds other than zero.
        lambda x: x * (x > 0.5),
        lambda x: x * (x < 0),
        lambda x: torch.where(x > 0, 2 * x, 0),
        lambda x: torch.where(x > 0, x, x - 1),
        lambda x: x.clamp(min=-1),
        lambda x: torch.maximum(x, x.flip(0)),
        lambda x: x.masked_fill(x < 0, -1),
        torch.sin,
        lambda x: x,
    ],
)
def test_where_no_rectifier_is_met_there_is_one_warning(
    rule: Callable[..., Tensor], function: Callable[[Tensor], Tensor]
) -> None:
    model, images = with_function(function), random_images(height=16, width=16)
    with pytest.warns(match="no ReLU was met in FunctionalReLU") as caught:
        found = rule(model, images, 1)
    assert len(caught) == 1
    assert len(str(caught[0].message)) < 300
    assert same(found, gradient(model, images, 1))


@rules
@pytest.mark.parametrize(
    "act",
    [nn.GELU(), nn.SiLU(), nn.SiLU(inplace=True), nn.Hardswish(), nn.LeakyReLU(), nn.ELU(inplace=True), nn.PReLU()],
)
def test_other_activations_are_treated_alike_and_said_once(rule: Callable[..., Tensor], act: nn.Module) -> None:
    model = with_function(act)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        maps = rule(model, random_images(height=16, width=16), 1)
    assert len(caught) == 1
    assert "rule was not made" in str(caught[0].message)
    assert maps.isfinite().all()
    assert maps.std() > 0


def test_guided_gelu_keeps_its_slope_where_input_and_gradient_are_positive() -> None:
    x = torch.tensor([-0.5, 0.5, 1.5], requires_grad=True)
    (slope,) = torch.autograd.grad(F.gelu(x).sum(), x)
    with ReluRule("guided"):
        y = F.gelu(x)
    (gradient,) = torch.autograd.grad(y, x, torch.tensor([1.0, 2.0, -1.0]))
    assert torch.allclose(gradient, slope * torch.tensor([0.0, 2.0, 0.0]))


@rules
def test_relus_are_themselves_again_afterwards(rule: Callable[..., Tensor]) -> None:
    model, images = small_net().eval(), random_images(height=16, width=16).requires_grad_()
    before = torch.autograd.grad(model(images).sum(), images)[0]
    rule(model, images, 1)
    with pytest.raises(RuntimeError, match="broken"):
        rule(nn.Sequential(model, Broken()), images, 1)
    assert torch.equal(torch.autograd.grad(model(images).sum(), images)[0], before)


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("broken")


@rules
def test_one_channel_of_one_layer(rule: Callable[..., Tensor]) -> None:
    model, images = small_net().eval(), random_images(height=16, width=16)
    up_to_channel = nn.Sequential(*model[:5], Channel(7))
    expected = rule(up_to_channel, images, 0)
    assert same(rule(model, images, layer="4", channel=7), expected)
    assert not same(rule(model, images, layer="4"), expected)


class Channel(nn.Module):
    """The sum of one channel as the first of two logits."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        self.channel = channel

    def forward(self, maps: Tensor) -> Tensor:
        total = maps[:, self.channel].sum(dim=(1, 2))
        return torch.stack([total, torch.zeros_like(total)], dim=1)


def test_the_channel_of_tokens_is_that_of_their_map() -> None:
    encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(2), Transposed(), encoder, Mean(), nn.Linear(8, 5)).eval()
    images = random_images(height=16, width=16)
    assert guided_backprop(model, images, layer="3", channel=7).std() > 0
    with pytest.raises(ConfigurationError, match="channel 8 of layer '3': expected one from 0 to 7"):
        guided_backprop(model, images, layer="3", channel=8)


class Transposed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1)


def test_errors() -> None:
    with pytest.raises(LayerError, match="no layer 'conv9'"):
        guided_backprop(small_net(), random_images(height=16, width=16), layer="conv9")
