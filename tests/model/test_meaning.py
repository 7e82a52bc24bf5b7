"""What outputs mean, and what events say of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vis_callbacks import ClassAppearance, FoolModel, Gradient, Moment, Panel, Samples
from vis_callbacks.errors import SubjectError
from vis_callbacks.event import Event, Needs, SharedPass
from vis_callbacks.model.known_classes import Classes
from vis_callbacks.model.labels import Labels, labels_in
from vis_callbacks.model.meaning import meaning_of
from vis_callbacks.model.subject import Subject
from vis_callbacks.output.render import describe
from vis_callbacks.synthesis.fool import fool

NUMBERS, ROWS = torch.tensor([0, 3, 1]), torch.tensor([[1.0, 0, 0, 0], [0, 0, 1.0, 0]])
SEVERAL = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize(
    ("width", "labels", "losses", "meaning"),
    [
        (4, None, (), "classes"),
        (4, NUMBERS, (), "classes"),
        (4, ROWS, (), "classes"),
        (4, 0.7 * ROWS + 0.075, (), "classes"),
        (4, SEVERAL, (), "labels"),
        (4, SEVERAL.float(), (), "labels"),
        (4, torch.tensor([[1.0, -1, 0, 0], [0, 1, -1, -1]]), (), "labels"),
        (4, torch.tensor([[1.0, torch.nan, 0, 0], [0, 1, 1, 0]]), (), "labels"),
        (4, ROWS, ("BCELoss",), "labels"),
        (4, None, ("CrossEntropyLoss", "BCEWithLogitsLoss"), "labels"),
        (4, torch.tensor([0, -1, 2]), (), "classes"),
        (1, None, (), "binary"),
        (1, None, ("BCEWithLogitsLoss",), "binary"),
        (1, torch.tensor([0.0, 1.0]), (), "binary"),
        (1, torch.tensor([[0.0], [1.0]]), (), "binary"),
        (1, torch.tensor([0, 1]), (), "binary"),
        (1, torch.tensor([23.4, 7.0]), (), "value"),
        (1, torch.tensor([[23.4], [7.0]]), (), "value"),
        (1, torch.tensor([0.25, 0.5]), (), "value"),
        (1, torch.tensor([0.0, 1.0]), ("MSELoss",), "value"),
        (1, torch.tensor([23, 7]), (), "value"),
        (4, torch.rand(3, 4) * 9, (), "value"),
        (4, torch.tensor([0.5, 2.5]), (), "value"),
        (4, None, ("MSELoss",), "value"),
        # A student that imitates its teacher.
        (4, NUMBERS, ("MSELoss",), "classes"),
        (512, NUMBERS, ("TripletMarginLoss",), "embedding"),
    ],
)
def test_what_outputs_mean(width: int, labels: Tensor | None, losses: Sequence[str], meaning: str) -> None:
    assert meaning_of(width, None if labels is None else Labels.of(labels), losses) == meaning


@pytest.mark.parametrize(
    ("batch", "width", "kind"),
    [
        # Class numbers before rows that may be a table, one-hot rows before numbers that may be anything.
        ((SEVERAL, NUMBERS[:2]), 4, "numbers"),
        ((torch.ones(2, 3), NUMBERS[:2]), 3, "rows"),
        ((torch.ones(2, 3), NUMBERS[:2]), 4, "numbers"),
        ((SEVERAL, torch.tensor([812, 4])), 4, "rows"),
        ((ROWS, NUMBERS[:2]), 4, "rows"),
        ((SEVERAL, torch.tensor([0.3, 0.7])), 4, "rows"),
        ((NUMBERS[:2], torch.tensor([0.3, 0.7])), 4, "numbers"),
        ((torch.rand(2, 4),), 4, "values"),
        ((torch.tensor([0.3, 7.2]),), 4, "values"),
        ((torch.rand(2, 7),), 4, None),
    ],
)
def test_which_labels_belong_to_the_outputs(batch: tuple[Tensor, ...], width: int, kind: str | None) -> None:
    classes = Classes(labels=labels_in((torch.rand(2, 3, 4, 4), *batch)))
    found = classes.labels_for(width)
    assert (found and found.kind) == kind
    assert classes.expect(width) == (kind == "rows")
    if kind is None:
        assert classes.labels_for(7) is not None


def test_one_number_per_image_is_no_label_of_outputs_that_are_stated_to_be_classes() -> None:
    labels = labels_in((torch.rand(2, 3, 4, 4), torch.tensor([0.3, 7.2])))
    assert Classes(names=4, labels=labels).labels_for(4) is None


class Rows(nn.Module):
    """Gives rows of numbers, which hang on the images by all but nothing."""

    def __init__(self, rows: Tensor, end: nn.Module | None = None) -> None:
        super().__init__()
        self.rows, self.end = rows, end or nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.end(self.rows[: len(images)] * (1 + 1e-9 * images.mean(dim=(1, 2, 3)))[:, None])


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
