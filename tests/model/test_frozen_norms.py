"""BatchNorms with a smaller backward: the same values and gradients, and the input is let go of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vis_callbacks.model.frozen_norms import FrozenNorms

NORMS: list[tuple[Callable[[], nn.Module], tuple[int, ...]]] = [
    (lambda: nn.BatchNorm1d(4), (3, 4)),
    (lambda: nn.BatchNorm1d(4), (3, 4, 5)),
    (lambda: nn.BatchNorm2d(4), (3, 4, 5, 6)),
    (lambda: nn.BatchNorm2d(4, affine=False), (3, 4, 5, 6)),
    (lambda: nn.BatchNorm2d(4, eps=0.1), (1, 4, 5, 6)),
    (lambda: nn.BatchNorm3d(4), (2, 4, 3, 2, 2)),
    (lambda: nn.SyncBatchNorm(4), (3, 4, 5, 6)),
]


def settled(norm: nn.Module) -> nn.Module:
    for tensor in (*norm.parameters(), norm.running_mean, norm.running_var):
        nn.init.uniform_(tensor, 0.5, 1.5)
    return norm.eval().requires_grad_(False)


def pass_of(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return the output, the gradient of its squares, and how many elements the graph has kept."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    inputs = images.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(inputs)
    gradient = torch.autograd.grad(output.square().sum(), inputs)[0]
    return output.detach(), gradient, sum(kept.values())


@pytest.mark.parametrize(("norm", "shape"), NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_output_is_the_same_and_so_is_the_gradient(
    norm: Callable[[], nn.Module], shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    model, images = settled(norm()).to(dtype), torch.randn(shape, dtype=dtype)
    output, gradient, kept = pass_of(model, images)
    with FrozenNorms():
        again, frozen_gradient, frozen_kept = pass_of(model, images)
    assert torch.equal(again, output)
    assert frozen_gradient.dtype == dtype
    torch.testing.assert_close(frozen_gradient, gradient)
    assert kept >= images.numel()
    assert frozen_kept == 4


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_network_is_the_same(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    norm = settled(nn.BatchNorm2d(8))
    net = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(inplace=True), nn.Conv2d(8, 4, 3)).requires_grad_(False)
    images = torch.rand(2, 3, 16, 16).contiguous(memory_format=layout)
    output, gradient, kept = pass_of(net, images)
    with FrozenNorms():
        again, frozen_gradient, frozen_kept = pass_of(net, images)
    assert torch.equal(again, output)
    torch.testing.assert_close(frozen_gradient, gradient)
    # The output of the first convolution.
    assert kept - frozen_kept > 0.9 * 2 * 8 * 14 * 14


def test_what_is_trained_or_in_training_is_left_alone() -> None:
    torch.manual_seed(0)
    images = torch.randn(6, 4, 5, 5)
    for model in (settled(nn.BatchNorm2d(4)).train(), settled(nn.BatchNorm2d(4)).requires_grad_()):
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        output, gradient, kept = pass_of(model, images)
        model.load_state_dict(state)
        with FrozenNorms():
            again = pass_of(model, images)
        assert torch.equal(again[0], output)
        assert torch.equal(again[1], gradient)
        assert again[2] == kept
    model = settled(nn.BatchNorm2d(4)).requires_grad_()
    with FrozenNorms():
        model(images).square().sum().backward()
    assert model.weight.grad is not None
