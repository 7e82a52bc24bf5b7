"""Whose logit is explained."""

from __future__ import annotations

import pytest
import torch

from vis_callbacks import ConfigurationError, Samples
from vis_callbacks.data.samples import UNKNOWN
from vis_callbacks.data.targets import choose_targets, class_index

LOGITS = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0], [1.0, 2.0, 9.0]])
SAMPLES = Samples(
    torch.zeros(3, 1, 2, 2), torch.tensor([0, 2, UNKNOWN]), ("0", "1", "2"), ("ant", "bee", "tabby, tabby cat")
)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("predicted", [0, 1, 2]),
        ("label", [0, 2, 2]),
        (1, [1, 1, 1]),
        ("bee", [1, 1, 1]),
        ("Tabby_Cat", [2, 2, 2]),
        ("contrast", [[0, 2], [1, 2], [2, 1]]),
    ],
)
def test_targets_are_found(spec: str | int, expected: list[int]) -> None:
    assert choose_targets(spec, SAMPLES, LOGITS).tolist() == expected


def test_a_one_logit_head_has_two_classes() -> None:
    assert choose_targets("predicted", SAMPLES, torch.tensor([[2.0], [-2.0], [0.5]])).tolist() == [1, 0, 1]


@pytest.mark.parametrize("classes", [3, 5, 1000])
def test_of_equal_logits_the_first_is_explained_which_is_said_to_be_predicted(classes: int) -> None:
    """As of a head that begins at zero, torchvision's ViT for one."""
    assert choose_targets("predicted", SAMPLES, torch.zeros(3, classes)).tolist() == [0, 0, 0]
    assert choose_targets("contrast", SAMPLES, torch.zeros(3, classes)).tolist() == [[0, 1], [0, 2], [0, 1]]


def test_names_are_matched_and_misspelt_ones_get_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="nearest: bee"):
        class_index("beee", ("ant", "bee"))
    with pytest.raises(ConfigurationError, match="no class names are known"):
        class_index("bee", ())
    with pytest.raises(ConfigurationError, match=r"2 classes.*\[0, 1\]"):
        class_index("crane", ("crane", "crane"))
    assert class_index("7", ()) == 7
