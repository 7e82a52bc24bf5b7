"""What outputs mean, and what events say of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vis_callbacks import ClassAppearance, FoolModel, Gradient, Moment, Panel, Samples
from vis_callbacks.errors import SubjectError
from vis_callbacks.event import Event, Needs, SharedPass
from vis_callbacks.model.subject import Subject
from vis_callbacks.output.render import describe
from vis_callbacks.synthesis.fool import fool


class Rows(nn.Module):
    """Gives rows of numbers, whatever the images."""

    def __init__(self, rows: Tensor, end: nn.Module | None = None) -> None:
        super().__init__()
        self.rows, self.end = rows, end or nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.end(self.rows[: len(images)] + 0 * images.mean(dim=(1, 2, 3))[:, None])


def event(model: nn.Module, subject: Subject, targets: Any = "predicted", **labels: Any) -> Event:
    images = torch.rand(2, 3, 4, 4)
    samples = Samples(
        images, labels.pop("labels", torch.tensor([-1, -1])), ("a", "b"), labels.pop("names", ()), **labels
    )
    shared = SharedPass(model, samples, targets)
    needs = Needs(input_gradient=True)
    shared.add(needs, subject)
    return Event(model, Moment(1, 10), shared=shared, subject=subject, needs=needs)


def shown(event: Event) -> list[Panel]:
    return list(Gradient().visualize(event))


LOGITS = torch.tensor([[2.0, 3.0, -4.0, 0.0], [1.0, -1.0, 0.5, -2.0]])
TRUTHS = torch.tensor([[True, True, False, False], [False, False, True, True]])


@pytest.mark.parametrize("end", [nn.Identity(), nn.Sigmoid()])
def test_a_label_is_right_when_it_is_among_the_true_ones(end: nn.Module) -> None:
    # A model that ends in several sigmoids says by itself that they are labels.
    subject = Subject(meaning="labels" if isinstance(end, nn.Identity) else "classes")
    found = event(Rows(LOGITS, end), subject, truths=TRUTHS, labels=torch.tensor([0, 2]), names=("a", "b", "c", "d"))
    first, second = shown(found)
    assert (first.predicted, first.label, first.right) == ("b", "a + b", True)
    assert first.probability == pytest.approx(torch.tensor(3.0).sigmoid().item())
    assert (second.predicted, second.label, second.right) == ("a", "c + d", False)
    assert describe(first).startswith("✓ a + b")
    assert describe(second).startswith("✗ c + d → predicted a")


def test_the_label_of_several_that_is_explained_is_the_most_probable() -> None:
    found = event(Rows(LOGITS), Subject(meaning="labels"), "label", truths=TRUTHS, labels=torch.tensor([0, 2]))
    assert found.trace.targets.tolist() == [1, 2]


def test_a_regression_shows_its_value_and_no_class() -> None:
    values = torch.tensor([23.4, -7.0])
    found = event(Rows(values[:, None]), Subject(meaning="value", width=1), values=torch.tensor([21.0, -6.5]))
    first, second = shown(found)
    assert (first.caption, first.label) == ("output 23.4", "value 21")
    assert (second.caption, second.label) == ("output -7", "value -6.5")
    for panel in (first, second):
        assert (panel.predicted, panel.probability, panel.right) == (None, None, None)
    # The output itself is explained, not its negation where it is below zero.
    assert found.trace.targets.tolist() == [1, 1]


def test_several_values_are_listed() -> None:
    found = event(Rows(LOGITS), Subject(meaning="value", width=4))
    assert found.prediction(0) == ("output 2, 3, -4, 0", None)


def test_features_are_not_classes() -> None:
    found = event(Rows(LOGITS), Subject(meaning="embedding", problem="features"), labels=torch.tensor([0, 2]))
    first = shown(found)[0]
    assert (first.label, first.predicted, first.probability) == ("0", None, None)
    assert first.caption == ""
    assert [panel.caption for panel in shown(event(Rows(LOGITS), Subject(meaning="embedding"), 2))] == [
        "for feature 2",
        "for feature 2",
    ]


def test_a_problem_leaves_no_verdict() -> None:
    panel = shown(event(Rows(LOGITS), Subject(problem="set forward="), labels=torch.tensor([1, 0])))[0]
    assert (panel.label, panel.predicted, panel.right) == ("1", None, None)


def test_four_names_of_ten_logits_become_numbers() -> None:
    names = ("ant", "bee", "cat", "dog")
    assert event(Rows(LOGITS), Subject(width=4), names=names).prediction(0)[0] == "bee"
    assert event(Rows(torch.eye(10)[2:4]), Subject(width=10), names=names).prediction(0)[0] == "2"
    assert event(Rows(LOGITS[:, :1]), Subject(width=1), names=names[:2]).prediction(0)[0] == "bee"


CLASS_IMAGES = pytest.mark.parametrize("callback", [ClassAppearance(steps=1), FoolModel(steps=1)])


@CLASS_IMAGES
@pytest.mark.parametrize("meaning", ["classes", "binary", "labels", "value", "embedding"])
def test_where_no_verdict_is_given_there_are_no_class_images_and_the_subjects_own_sentence_says_why(
    callback: Any, meaning: Any
) -> None:
    with pytest.raises(SubjectError) as raised:
        list(callback.visualize(event(Rows(LOGITS), Subject(meaning=meaning, problem="nothing tells; set forward="))))
    assert str(raised.value) == "nothing tells; set forward="


@CLASS_IMAGES
@pytest.mark.parametrize("meaning", ["value", "embedding"])
def test_there_are_no_class_images_without_classes(callback: Any, meaning: Any) -> None:
    with pytest.raises(SubjectError, match=r"Rows gives 4 (numbers|features), not classes: there are no"):
        list(callback.visualize(event(Rows(LOGITS), Subject(meaning=meaning))))


def test_each_of_several_sigmoids_is_fooled_by_itself() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 4), nn.Sigmoid())
    images = torch.rand(2, 3, 4, 4)
    fooled = fool(net, images, 3, steps=200, min_probability=0.6, progress=False)
    rounded = (fooled.images * 255).round() / 255
    torch.testing.assert_close(fooled.probabilities, net(rounded)[:, 3].detach())
    assert fooled.probabilities.min() > 0.6
