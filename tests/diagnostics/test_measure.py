"""What an event costs: passes are run when they can tell something, and what was told is not asked again."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vis_callbacks.data.samples import Samples
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.ledger import Ledger
from vis_callbacks.diagnostics.measure import measure
from vis_callbacks.diagnostics.watch import TrainingWatch


def network(momentum: float = 0.1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8, momentum=momentum), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)
    ).eval()


def watched(steps: int, *, training: float = 0.9, validation: float = 0.5, images: int = 800) -> TrainingWatch:
    """Return a watch that has seen so many images answered rightly."""
    watch = TrainingWatch(None)
    watch.steps = steps
    for stage, share in (("train", training), ("validation", validation)):
        ledger = Ledger(4, marks_wanted=stage == "train")
        labels = torch.arange(images) % 4
        right = torch.arange(images) * 37 % 100 < 100 * share
        answers = torch.where(right, labels, (labels + 1) % 4)
        pixels = torch.rand(images, 1, 8, 8)
        ledger.add_images(pixels, labels)
        ledger.add_answers(nn.functional.one_hot(answers, 4).float() * 9, labels, pixels)
        setattr(watch, stage, ledger)
    watch.settle()
    return watch


SAMPLES = Samples(torch.rand(1, 1, 8, 8), torch.zeros(1).long(), ("one",), ("a", "b", "c", "d"))


def facts(watch: TrainingWatch, model: nn.Module) -> Facts:
    return measure(watch, model, model, SAMPLES, 1, None, due=True).facts


def test_layers_are_looked_at_when_dead_channels_mean_something() -> None:
    assert facts(watched(99), network()).layers == ()
    assert len(facts(watched(100), network()).layers) == 1


@pytest.mark.parametrize(
    ("steps", "momentum", "validation", "tried"),
    [(30, 0.1, 0.2, True), (30, 0.01, 0.2, False), (120, 0.01, 0.2, True), (30, 0.1, 0.9, False)],
)
def test_statistics_are_tried_where_validation_is_worse_and_they_have_left_their_start(
    steps: int, momentum: float, validation: float, tried: bool
) -> None:
    watch = watched(steps, training=0.9, validation=validation)
    assert watch.train is not None
    assert watch.validation is not None
    assert watch.train.facts().tail[0] - watch.validation.facts().accuracy == pytest.approx(0.9 - validation, abs=1e-6)
    assert (facts(watch, network(momentum)).batch_statistics is not None) == tried


@pytest.mark.parametrize(("validation", "still"), [(0.5, True), (0.88, False)])
def test_what_would_mend_a_gap_is_told_until_it_is_closed(validation: float, still: bool) -> None:
    model = network()
    first = measure(watched(120), model, model, SAMPLES, 2, None, due=True)
    assert first.facts.repairs
    later = measure(watched(180, validation=validation), model, model, SAMPLES, 3, first, due=False).facts
    assert (later.repairs, later.batch_statistics) == (
        (first.facts.repairs, first.facts.batch_statistics) if still else ((), None)
    )
    assert later.cross_entropy_before == first.facts.train.cross_entropy


@pytest.mark.parametrize(("images", "again"), [(800, False), (200, True)])
def test_places_are_looked_at_until_enough_images_were(images: int, again: bool) -> None:
    watch = watched(120, images=images)
    told = facts(watch, network()).place
    assert told.tried == images // 2
    seen = watch._ledger("train", 4, measured=True)
    assert (seen.small, seen.marks_wanted) == (again, again)
    watch.train = seen
    assert facts(watch, network()).place is told
