"""Functions of torch are replaced however a model calls them, and activations are told apart by their arguments."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vis_callbacks.model.torch_functions import CLIPPED, RELUS, FunctionMode, is_in_place, is_rectifier
from vis_callbacks.synthesis.optimization.redirected_relu import RedirectedGradients

SPELLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "functional": F.relu,
    "functional by keyword": lambda x: F.relu(input=x),
    "functional in place": F.relu_,
    "torch": torch.relu,
    "torch in place": torch.relu_,
    "method": Tensor.relu,
    "method in place": Tensor.relu_,
    "ReLU6": nn.ReLU6(),
    "functional ReLU6": F.relu6,
    "hardtanh": lambda x: F.hardtanh(x, 0.0, 6.0),
    "hardtanh in place": lambda x: F.hardtanh_(x, 0.0, 6.0),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_in_the_table_and_known_by_its_arguments(spelling: str) -> None:
    met: list[tuple[bool, bool]] = []

    def note(function: Callable[..., Tensor], input: Tensor, *args: object, **kwargs: object) -> Tensor:
        met.append((is_rectifier(function, *args, **kwargs), is_in_place(function, **kwargs)))
        return function(input, *args, **kwargs)

    inputs = torch.tensor([-1.0, 2.0])
    with FunctionMode({function: partial(note, function) for function in RELUS | CLIPPED}):
        outputs = SPELLINGS[spelling](inputs)
    assert met == [(True, "in place" in spelling)]
    assert outputs.tolist() == [0.0, 2.0]
    assert (outputs is inputs) == ("in place" in spelling)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_dead_unit_gets_its_gradient_and_its_value_whatever_the_spelling(spelling: str) -> None:
    leaf = torch.full((1, 2), -1.0, requires_grad=True)
    with RedirectedGradients():
        outputs = SPELLINGS[spelling](leaf + 0)
    assert outputs.tolist() == [[0.0, 0.0]]
    assert torch.autograd.grad(-outputs.sum(), leaf)[0].tolist() == [[-1.0, -1.0]]


def test_other_functions_and_other_times_are_left_alone() -> None:
    x = torch.tensor([-2.0])
    with FunctionMode({torch.relu: torch.abs}):
        assert (torch.relu(x) + torch.sigmoid(x)).item() == pytest.approx(2 + torch.sigmoid(x).item())
    assert torch.relu(x).item() == 0
