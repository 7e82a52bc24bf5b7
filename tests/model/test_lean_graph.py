"""Leaner graphs: the same values and gradients, from hardly more than weights and signs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vis_callbacks.model.lean_graph import LeanGraph

Layer = Callable[[], nn.Module]

LAYERS: list[tuple[Layer, tuple[int, ...]]] = [
    (lambda: nn.BatchNorm1d(4), (3, 4)),
    (lambda: nn.BatchNorm1d(4), (3, 4, 5)),
    (lambda: nn.BatchNorm2d(4), (3, 4, 5, 6)),
    (lambda: nn.BatchNorm2d(4, affine=False), (3, 4, 5, 6)),
    (lambda: nn.BatchNorm2d(4, eps=0.1), (1, 4, 5, 6)),
    (lambda: nn.BatchNorm3d(4), (2, 4, 3, 2, 2)),
    (lambda: nn.SyncBatchNorm(4), (3, 4, 5, 6)),
    (lambda: nn.Conv1d(4, 6, 3), (3, 4, 9)),
    (lambda: nn.Conv2d(4, 6, 3), (3, 4, 9, 8)),
    (lambda: nn.Conv2d(4, 6, 1, bias=False), (1, 4, 9, 8)),
    (lambda: nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2)), (2, 4, 19, 18)),
    (lambda: nn.Conv2d(4, 8, 3, stride=3, groups=4), (2, 4, 20, 20)),
    (lambda: nn.Conv3d(4, 6, 3), (2, 4, 5, 6, 7)),
]


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        # Not the images themselves, which nobody may change in place.
        return self.function(inputs + 0)


RELUS: dict[str, Layer] = {
    "module": nn.ReLU,
    "module in place": lambda: nn.Sequential(nn.Identity(), Function(torch.clone), nn.ReLU(inplace=True)),
    "F.relu": lambda: Function(F.relu),
    "F.relu in place": lambda: Function(partial(F.relu, inplace=True)),
    "F.relu_": lambda: Function(F.relu_),
    "torch.relu": lambda: Function(torch.relu),
    "Tensor.relu": lambda: Function(Tensor.relu),
    "Tensor.relu_": lambda: Function(Tensor.relu_),
}


def settled(model: nn.Module) -> nn.Module:
    """Return a model with weights and statistics that matter, frozen."""
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
    return model.eval().requires_grad_(False)


def pass_of(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return the output, the gradient of its squares, and how many bytes of the graph are no weights."""
    inputs = images.clone().requires_grad_()
    output = model(inputs)
    weights = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    kept = {tensor.untyped_storage().data_ptr(): tensor.nbytes for tensor in kept_by(output.grad_fn)}
    gradient = torch.autograd.grad(output.float().square().sum(), inputs)[0]
    return output.detach(), gradient, sum(size for storage, size in kept.items() if storage not in weights)


def kept_by(node: Any) -> Iterator[Tensor]:
    """Yield what a graph keeps."""
    for before, _ in getattr(node, "next_functions", ()):
        yield from kept_by(before)
    saved = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
    for value in (*saved, *getattr(node, "saved_tensors", ())):
        if isinstance(value, Tensor):
            yield value


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_layer_gives_the_same_and_keeps_no_input(layer: Layer, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, images = settled(layer()).to(dtype), torch.randn(shape, dtype=dtype)
    output, gradient, kept = pass_of(model, images)
    with LeanGraph():
        again, lean_gradient, lean_kept = pass_of(model, images)
    assert torch.equal(again, output)
    assert lean_gradient.dtype == dtype
    torch.testing.assert_close(lean_gradient, gradient)
    assert kept >= images.nbytes
    # A factor for each channel of a BatchNorm.
    assert lean_kept <= 4 * images.itemsize


@pytest.mark.parametrize("relu", RELUS)
def test_a_relu_gives_the_same_and_keeps_signs_only(relu: str) -> None:
    torch.manual_seed(0)
    model, images = RELUS[relu](), torch.randn(3, 4, 5, 6)
    images[0, 0, 0] = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1.0])
    output, gradient, kept = pass_of(model, images)
    with LeanGraph():
        again, lean_gradient, lean_kept = pass_of(model, images)
    torch.testing.assert_close(again, output, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(lean_gradient, gradient, rtol=0, atol=0, equal_nan=True)
    assert kept == images.nbytes
    assert lean_kept == images.numel()


def test_a_closed_relu_stops_an_infinite_gradient() -> None:
    inputs = torch.tensor([-1.0, 1.0], requires_grad=True)
    with LeanGraph():
        output = F.relu(inputs)
    (gradient,) = torch.autograd.grad(output, inputs, torch.tensor([torch.inf, torch.inf]))
    assert gradient.tolist() == [0, torch.inf]


def test_a_relu_in_place_is_one() -> None:
    inputs = torch.randn(8, requires_grad=True) + 0
    version = inputs._version
    with LeanGraph():
        output = F.relu(inputs, inplace=True)
    assert output is inputs
    assert inputs._version > version
    assert inputs.min() == 0


def network() -> nn.Module:
    norm = settled(nn.BatchNorm2d(8))
    return nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(inplace=True), nn.Conv2d(8, 4, 3)).requires_grad_(False)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_network_is_the_same(layout: torch.memory_format, autocast: bool) -> None:
    torch.manual_seed(0)
    net = network().to(memory_format=layout)
    images = torch.rand(2, 3, 16, 16).contiguous(memory_format=layout)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output, gradient, kept = pass_of(net, images)
        with LeanGraph():
            again, lean_gradient, lean_kept = pass_of(net, images)
    assert torch.equal(again, output)
    torch.testing.assert_close(lean_gradient, gradient)
    assert lean_kept < kept / 4


def test_a_checkpointed_block_is_left_to_torch() -> None:
    torch.manual_seed(0)
    net, images = network(), torch.rand(2, 3, 16, 16)

    class Checkpointed(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return checkpoint(net, inputs, use_reentrant=False)

    output, gradient, _ = pass_of(net, images)
    with LeanGraph():
        again, lean_gradient, _ = pass_of(Checkpointed(), images)
    assert torch.equal(again, output)
    torch.testing.assert_close(lean_gradient, gradient)


def test_a_padding_in_words_and_an_image_without_a_batch_are_left_to_torch() -> None:
    torch.manual_seed(0)
    for padding, images in (("same", torch.rand(2, 3, 9, 9)), (1, torch.rand(3, 9, 9))):
        model = nn.Conv2d(3, 4, 3, padding=padding).requires_grad_(False)
        output, gradient, kept = pass_of(model, images)
        with LeanGraph():
            again = pass_of(model, images)
        assert torch.equal(again[0], output)
        assert torch.equal(again[1], gradient)
        assert again[2] == kept


@pytest.mark.parametrize("layer", [partial(nn.BatchNorm2d, 4), partial(nn.Conv2d, 4, 5, 3)])
@pytest.mark.parametrize("state", ["trained", "in training"])
def test_what_is_trained_or_in_training_is_left_alone(layer: Layer, state: str) -> None:
    torch.manual_seed(0)
    images, model = torch.randn(6, 4, 5, 5), layer()
    model.train(state == "in training").requires_grad_(state == "trained")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    output, gradient, kept = pass_of(model, images)
    model.load_state_dict(before)
    with LeanGraph():
        again = pass_of(model, images)
        if state == "trained":
            model(images).square().sum().backward()
            assert all(weight.grad is not None for weight in model.parameters())
    assert torch.equal(again[0], output)
    if state == "trained" or isinstance(model, nn.BatchNorm2d):
        assert torch.equal(again[1], gradient)
        assert again[2] == kept
