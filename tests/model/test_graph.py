from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vis_callbacks.model.graph import nodes_on_every_path


def made(seed: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """A random graph: its end, its input, and all tensors between."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.ones(1, requires_grad=True)
    tensors = [inputs * 2]
    for _ in range(8):
        chosen = torch.randint(len(tensors), (2,), generator=generator).tolist()
        recent = [tensors[-1], tensors[-1 - chosen[0] % min(3, len(tensors))]]
        tensors.append(recent[0] * 1.5 if chosen[1] % 2 else recent[0] + recent[1])
    return tensors[-1], inputs, tensors


@pytest.mark.parametrize("seed", range(20))
def test_a_tensor_on_every_path_is_one_without_which_nothing_reaches_the_inputs(seed: int) -> None:
    output, inputs, tensors = made(seed)
    found = nodes_on_every_path(output, inputs)
    for tensor in tensors:
        # A hook that stops the gradient cuts what goes through the tensor, and nothing else.
        handle = tensor.register_hook(torch.zeros_like)
        (gradient,) = torch.autograd.grad(output, inputs, retain_graph=True)
        handle.remove()
        assert (tensor.grad_fn in found) == (float(gradient) == 0)


def test_nothing_is_on_a_path_that_is_not_there() -> None:
    inputs, other = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
    assert nodes_on_every_path((other * 2).sum(), inputs) == set()
