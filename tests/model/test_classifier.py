"""A user's module seen as images -> logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import tiny
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.model.classifier import (
    classifier_in,
    input_dtype,
    logits_of,
    probabilities,
    resolve_targets,
    target_scores,
    unwrapped,
)

LOGITS = torch.tensor([[0.1, 2.0, -1.0], [3.0, 0.0, 0.5]])
IMAGES = torch.rand(2, 1, 4, 4)


@dataclass
class Output:
    logits: Any
    loss: Any = None


class Gives(nn.Module):
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, images: Tensor) -> Any:
        return self.output


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        LOGITS.double(),
        (LOGITS, torch.rand(2, 8, 4, 4)),
        [torch.rand(2, 8, 4, 4), LOGITS],
        {"loss": torch.zeros(()), "logits": LOGITS},
        {"features": torch.rand(2, 8, 4, 4), "out": LOGITS},
        Output(LOGITS),
        (Output(LOGITS), None),
        ((torch.rand(2, 8, 4, 4), (LOGITS,)),),
    ],
)
def test_logits_are_found_in_any_output(output: Any) -> None:
    found = logits_of(Gives(output), IMAGES)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, LOGITS)


def test_a_head_of_one_logit_is_a_column() -> None:
    assert logits_of(Gives(torch.rand(2)), IMAGES).shape == (2, 1)
    assert logits_of(Gives(torch.rand(2, 1)), IMAGES).shape == (2, 1)


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (torch.rand(2, 8, 4, 4), r"tensor \(2, 8, 4, 4\)"),
        ({"features": torch.rand(2, 8, 4, 4)}, r"\{features: tensor \(2, 8, 4, 4\)\}"),
        ((torch.rand(3, 5),), r"\(tensor \(3, 5\)\)"),
        ([torch.rand(3)] * 6, r"\(" + r"tensor \(3,\), " * 5 + r"\.\.\.\)"),
        (None, "NoneType"),
    ],
)
def test_an_output_without_logits_is_described(output: Any, found: str) -> None:
    with pytest.raises(ConfigurationError, match=f"no logits in the output of Gives: found {found}"):
        logits_of(Gives(output), IMAGES)


def test_images_get_the_models_dtype_and_keep_their_graph() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).bfloat16()
    images = IMAGES.clone().requires_grad_()
    logits_of(model, images).sum().backward()
    assert input_dtype(model) == torch.bfloat16
    assert images.grad is not None
    assert images.grad.dtype == torch.float32
    assert input_dtype(nn.ReLU()) == torch.float32


@pytest.mark.parametrize("package", tiny.PACKAGES)
def test_the_classifier_is_the_module_or_its_largest_child(package: str) -> None:
    module = tiny.module(package)
    assert classifier_in(module) is module

    class WithoutForward(tiny.module_class(package).__mro__[1]):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.small, self.large, self.list = nn.Linear(2, 2), nn.Linear(20, 20), nn.ModuleList([nn.Linear(99, 99)])

    module = WithoutForward()
    assert classifier_in(module) is module.large
    module.forward = lambda images: images
    assert classifier_in(module) is module

    class Empty(tiny.module_class(package).__mro__[1]):  # type: ignore[misc]
        pass

    with pytest.raises(ConfigurationError, match=r"Empty has no forward, nor a child that has"):
        classifier_in(Empty())


def test_a_compiled_model_is_unwrapped() -> None:
    model = nn.Linear(2, 2)
    assert unwrapped(torch.compile(model, backend="eager")) is model
    assert unwrapped(model) is model


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (None, [1, 0]),
        (2, [2, 2]),
        (torch.tensor([2, 1]), [2, 1]),
        (torch.tensor([2, 1], dtype=torch.int32), [2, 1]),
        (lambda logits: logits.argmin(dim=1), [2, 1]),
        (torch.tensor([[0, 1], [2, 0]]), [[0, 1], [2, 0]]),
    ],
)
def test_targets_of_any_kind(targets: Any, expected: list[Any]) -> None:
    found = resolve_targets(targets, LOGITS)
    assert found.tolist() == expected
    assert found.dtype == torch.long


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (3, "target 3: expected a class from 0 to 2"),
        (torch.tensor([0, -1]), "target -1: expected a class from 0 to 2"),
        (torch.tensor([0, 1, 2]), r"shape \(3,\): expected \(2,\)"),
        (torch.zeros(2, 3).long(), r"shape \(2, 3\)"),
    ],
)
def test_wrong_targets_are_told(targets: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        resolve_targets(targets, LOGITS)


def test_scores_and_probabilities() -> None:
    assert target_scores(LOGITS, torch.tensor([1, 2])).tolist() == [2.0, 0.5]
    torch.testing.assert_close(target_scores(LOGITS, torch.tensor([[1, 0], [0, 2]])), torch.tensor([1.9, 2.5]))
    torch.testing.assert_close(probabilities(LOGITS), LOGITS.softmax(dim=1))


def test_one_logit_stands_for_two_classes() -> None:
    logits = torch.tensor([[2.0], [-1.0]])
    torch.testing.assert_close(probabilities(logits)[:, 1], logits[:, 0].sigmoid())
    assert resolve_targets(None, logits).tolist() == [1, 0]
    assert target_scores(logits, torch.tensor([1, 0])).tolist() == [2.0, 1.0]
    assert target_scores(logits, torch.tensor([[1, 0], [0, 1]])).tolist() == [4.0, 2.0]


def test_a_model_that_squeezes_one_images_axis_away_is_understood() -> None:
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.AdaptiveAvgPool2d(1))
    head = nn.Linear(8, 3)

    class Squeezes(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return head(net(images).squeeze())

    one, both = logits_of(Squeezes(), IMAGES[:1]), logits_of(Squeezes(), IMAGES)
    assert one.shape == (1, 3)
    torch.testing.assert_close(one, both[:1])
    with pytest.raises(ConfigurationError, match="no logits"):
        logits_of(Gives(LOGITS[0]), IMAGES)
