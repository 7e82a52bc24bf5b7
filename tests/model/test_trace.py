"""One forward and one backward, and all that is read from them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import tiny
from vis_callbacks.errors import ConfigurationError, LayerError
from vis_callbacks.model.guard import undisturbed
from vis_callbacks.model.trace import Trace, trace


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return tiny.Net().train()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def traced(model: nn.Module, images: Tensor, targets: Any = None, **options: Any) -> Trace:
    with undisturbed(model):
        return trace(model, images, targets, **options)


def by_hand(model: nn.Module, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
    model.eval()
    inputs = images.clone().requires_grad_()
    first = model.bn1(model.conv1(inputs))
    first.retain_grad()
    x = torch.relu(first)
    second = model.conv2(x)
    second.retain_grad()
    maps = torch.relu(model.bn2(second))
    tokens = maps.flatten(2).transpose(1, 2)
    attended = (tokens @ tokens.transpose(1, 2) / 2).softmax(dim=-1) @ tokens
    logits = model.head((x + maps + attended.transpose(1, 2).view_as(maps)).amax(dim=(2, 3)))
    logits.gather(1, targets[:, None]).sum().backward()
    return {
        "logits": logits,
        "images": inputs.grad,
        "bn1": first,
        "bn1 gradient": first.grad,
        "conv2": second,
        "conv2 gradient": second.grad,
    }


def test_everything_equals_what_is_done_by_hand(model: nn.Module, images: Tensor) -> None:
    targets = torch.tensor([2, 0, 3])
    found = traced(model, images, targets, input_gradient=True, activations=["bn1"], gradients=["conv2", "bn1"])
    expected = by_hand(model, images, targets)
    for value, name in [
        (found.logits, "logits"),
        (found.input_gradient, "images"),
        (found.activations["bn1"], "bn1"),
        (found.activations["conv2"], "conv2"),
        (found.gradients["conv2"], "conv2 gradient"),
        (found.gradients["bn1"], "bn1 gradient"),
    ]:
        torch.testing.assert_close(value, expected[name], msg=name)
        assert not value.requires_grad
        assert value.dtype == torch.float32
    assert torch.equal(found.images, images)
    assert torch.equal(found.targets, targets)


def test_one_forward_and_one_backward_or_none(model: nn.Module, images: Tensor) -> None:
    passes: list[str] = []
    model.conv1.register_forward_hook(lambda *_: passes.append("forward"))

    def count_backward(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda _: passes.append("backward"))

    model.head.register_forward_hook(count_backward)
    traced(model, images)
    assert passes == ["forward"]
    passes.clear()
    traced(model, images, input_gradient=True, gradients=["conv1", "conv2", "bn2"])
    assert passes == ["forward", "backward"]


def test_without_the_input_gradient_backward_ends_at_the_first_layer_asked_for(
    model: nn.Module, images: Tensor
) -> None:
    graphs: list[bool] = []
    model.conv1.register_forward_hook(lambda module, inputs, output: graphs.append(output.requires_grad))
    traced(model, images, gradients=["conv2"])
    assert graphs == [False]


def test_no_hook_stays(model: nn.Module, images: Tensor) -> None:
    for options in ({"gradients": ["conv2"]}, {"activations": ["nowhere"]}):
        with suppress(LayerError):
            trace(model, images, **options)
        assert not any(module._forward_hooks for module in model.modules())


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.relu(self.conv(images)).mean(dim=(2, 3)))


def test_an_in_place_activation_does_not_change_what_was_seen(images: Tensor) -> None:
    model = InPlace()
    found = traced(model, images, gradients=["conv"])
    torch.testing.assert_close(found.activations["conv"], model.conv(images))
    assert (found.activations["conv"] < 0).any()
    assert (found.gradients["conv"][found.activations["conv"] < 0] == 0).all()


class Odd(nn.Module):
    """Layers with outputs of all kinds, one that runs twice, one beside the path, one that never runs."""

    class Many(nn.Module):
        def __init__(self, kind: Any) -> None:
            super().__init__()
            self.kind = kind

        def forward(self, images: Tensor) -> Any:
            return self.kind(images)

    def __init__(self) -> None:
        super().__init__()
        self.pair = Odd.Many(lambda images: (images * 2, "text"))
        self.mapping = Odd.Many(lambda images: {"features": images * 3, "other": None})
        self.nothing = Odd.Many(lambda images: None)
        self.twice = Odd.Many(lambda images: images + 1)
        self.beside, self.never = nn.Linear(64, 2), nn.Linear(2, 2)
        self.head = nn.Linear(64, 3)

    def forward(self, images: Tensor) -> Tensor:
        images = self.mapping(self.pair(images)[0])["features"]
        self.nothing(images)
        images = self.twice(self.twice(images))
        self.beside(images.flatten(1))
        return self.head(images.flatten(1))


def test_layers_with_outputs_of_all_kinds(images: Tensor) -> None:
    found = traced(Odd(), images, gradients=["pair", "mapping", "twice", "beside"])
    torch.testing.assert_close(found.activations["pair"], images * 2)
    torch.testing.assert_close(found.activations["mapping"], images * 6)
    torch.testing.assert_close(found.activations["twice"], images * 6 + 2)
    torch.testing.assert_close(found.gradients["pair"], found.gradients["mapping"] * 3)
    assert (found.gradients["beside"] == 0).all()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("never", "did not run in the forward pass"),
        ("nothing", "gives NoneType, expected a tensor: choose another"),
        ("hed", "no layer 'hed' in Odd; nearest: head"),
    ],
)
def test_a_layer_that_cannot_be_used_is_told(layer: str, message: str, images: Tensor) -> None:
    with pytest.raises(LayerError, match=message):
        traced(Odd(), images, activations=[layer])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.rand(1, 8, 8), r"\(1, 8, 8\): expected \(N, C, H, W\)"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), "uint8: expected floating point"),
    ],
)
def test_wrong_images_are_told(wrong: Tensor, message: str, model: nn.Module) -> None:
    with pytest.raises(ConfigurationError, match=message):
        traced(model, wrong)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_models_of_any_precision_give_float32(dtype: torch.dtype, images: Tensor) -> None:
    model = tiny.Net().to(dtype)
    found = traced(model, images, input_gradient=True, gradients=["conv2"])
    for value in (found.logits, found.input_gradient, found.activations["conv2"], found.gradients["conv2"]):
        assert value is not None
        assert value.dtype == torch.float32
        assert value.isfinite().all()


def test_images_made_in_inference_mode(model: nn.Module) -> None:
    with torch.inference_mode():
        images = torch.rand(2, 1, 8, 8)
        found = traced(model, images, input_gradient=True)
    assert found.input_gradient is not None
    assert found.input_gradient.abs().sum() > 0
    assert images.is_inference()


def test_a_contrast_is_the_difference_of_two_gradients(model: nn.Module, images: Tensor) -> None:
    def gradient(targets: Any) -> Tensor:
        found = traced(model, images, targets, input_gradient=True).input_gradient
        assert found is not None
        return found

    pair = torch.tensor([[0, 1]] * 3)
    torch.testing.assert_close(gradient(pair), gradient(0) - gradient(1), rtol=1e-4, atol=1e-6)


def test_targets_may_be_a_rule_of_the_logits(model: nn.Module, images: Tensor) -> None:
    found = traced(model, images, lambda logits: logits.argmin(dim=1))
    assert torch.equal(found.targets, found.logits.argmin(dim=1))
    assert torch.equal(traced(model, images).targets, found.logits.argmax(dim=1))


def test_layers_of_a_compiled_model_are_seen(images: Tensor) -> None:
    model = tiny.Net().eval()
    compiled = torch.compile(model, backend="eager")
    found = traced(compiled, images, gradients=["conv2"])
    torch.testing.assert_close(found.gradients["conv2"], traced(model, images, gradients=["conv2"]).gradients["conv2"])
    torch._dynamo.reset()
