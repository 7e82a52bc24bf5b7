"""Pictures take no more than their share of the training, measured in real runs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import tiny
from vis_callbacks import (
    ConfigurationError,
    Event,
    Filters,
    Panel,
    Report,
    Saliency,
    Samples,
    Tile,
    VisualizationCallback,
    VisualizationWarning,
    default_suite as suite,
)
from vis_callbacks.event import Moment
from vis_callbacks.run.budget import Budget

EPOCHS = 8


class Slow(VisualizationCallback):
    """Takes its time."""

    def visualize(self, event: Event) -> Iterable[Panel]:
        time.sleep(0.2)
        yield Panel("slow", Tile(torch.zeros(3, 4, 4)))


class Slower(Slow):
    """Is worth several processes."""

    split = "items"


class Counted(Slower):
    """Knows how often it will do what takes the shared pass 0.2 s."""

    def passes(self, moment: Moment, samples: Samples) -> int:
        return 10 * len(samples)

    def visualize(self, event: Event) -> Iterable[Panel]:
        time.sleep(2)
        yield Panel("counted", Tile(torch.zeros(3, 4, 4)))


class Boasting(Slower):
    """Does not know."""

    def passes(self, moment: Moment, samples: Samples) -> int:
        raise RuntimeError("not the faintest")


class Resting(tiny.Net):
    """A network that trains slowly."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            time.sleep(0.1)
        return super().forward(images)


class Reluctant(Resting):
    """A network whose explanation takes its time."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not self.training and torch.is_grad_enabled():
            time.sleep(0.2)
        return super().forward(images)


def fit(folder: Path, *callbacks: Any, net: Any = Resting) -> dict[str, Any]:
    module = tiny.module(net=net())
    tiny.trainer(folder, [*callbacks], max_epochs=EPOCHS).fit(module, tiny.loader(32), tiny.loader(16))
    (facts,) = folder.rglob("run.json")
    return json.loads(facts.read_text())


def epochs(folder: Path, name: str) -> list[int]:
    return [record["epoch"] for record in tiny.records(folder) if record["callback"] == name]


def test_a_callback_keeps_to_its_share_and_the_report_says_when_it_was_left_out(tmp_path: Path) -> None:
    slow, report = Slow(budget=0.15), Report()
    facts = fit(tmp_path, slow, Filters(), report)
    assert facts["picture_seconds"]["Slow"] <= 0.15 * facts["training_seconds"]
    made = epochs(tmp_path, "Slow")
    assert made[0] == 0
    assert len(made) > 1
    assert sorted(made + slow.left_out) == list(range(EPOCHS + 1))
    assert slow.left_out
    assert set(epochs(tmp_path, "Filters")) == set(range(EPOCHS + 1))
    (note,) = facts["notes"]
    assert note.startswith("Slow was left out in epoch")
    assert note.endswith("to keep within 15 % of the training time.")
    assert report.path is not None
    assert note in report.path.read_text()


def test_of_all_callbacks_together_the_costly_ones_are_made_less_often(tmp_path: Path) -> None:
    slower, saliency = Slower(), Saliency(samples=2)
    facts = fit(tmp_path, slower, saliency, Report(budget=0.2))
    assert sum(facts["picture_seconds"].values()) <= 0.2 * facts["training_seconds"]
    assert len(set(epochs(tmp_path, "Saliency"))) >= EPOCHS
    made = epochs(tmp_path, "Slower")
    assert 0 not in made  # before training there is nothing to pay with
    assert 1 <= len(made) < EPOCHS
    assert [note.split()[0] for note in facts["notes"]] == ["Slower"]


def test_what_the_shared_pass_takes_is_counted(tmp_path: Path) -> None:
    saliency = Saliency(samples=2, budget=0.15)
    facts = fit(tmp_path, saliency, net=Reluctant)
    assert facts["picture_seconds"]["Saliency"] < 0.1  # by itself it would be made in each epoch
    assert 0 < facts["picture_seconds"]["shared pass"] <= 0.15 * facts["training_seconds"]
    assert saliency.left_out


def test_costly_pictures_are_not_made_before_they_can_be_paid_for(tmp_path: Path) -> None:
    counted = Counted(samples=2, budget=0.2)
    facts = fit(tmp_path, Saliency(samples=2), counted, net=Reluctant)
    # Two samples of 0.1 s each, ten times: more than a fifth of the training.
    assert facts["training_seconds"] < 10
    assert "Counted" not in facts["picture_seconds"]
    assert counted.left_out == list(range(1, EPOCHS + 1))


def test_a_callback_that_cannot_say_what_it_takes_is_complained_of_once(tmp_path: Path) -> None:
    with pytest.warns(VisualizationWarning, match="Boasting cannot say how many passes.*not the faintest") as caught:
        fit(tmp_path, Boasting(samples=2, budget=1.0))
    assert len([one for one in caught if one.category is VisualizationWarning]) == 1
    assert len(epochs(tmp_path, "Boasting")) > 1


def test_what_drawing_beside_the_training_takes_is_counted(tmp_path: Path) -> None:
    def busy(picture: torch.Tensor) -> torch.Tensor:
        until = time.thread_time() + 0.2
        while time.thread_time() < until:
            pass
        return picture

    filters = Filters(budget=0.15, transform=busy)
    facts = fit(tmp_path, filters)
    assert facts["picture_seconds"]["Filters"] < 0.5 * facts["thread_seconds"]
    assert filters.left_out


def test_what_earlier_fits_of_a_trainer_took_is_training_too(tmp_path: Path) -> None:
    trainer, module = tiny.trainer(tmp_path, [Filters()], max_epochs=1), tiny.module(net=Resting())

    def training_seconds() -> float:
        trainer.fit(module, tiny.loader(32), tiny.loader(16))
        (facts,) = tmp_path.rglob("run.json")
        return float(json.loads(facts.read_text())["training_seconds"])

    once = training_seconds()
    time.sleep(1)
    trainer.fit_loop.max_epochs = 2
    twice = training_seconds()
    assert 0.4 <= once <= twice - 0.4
    assert twice - once < 1  # what lies between two fits is nobody's


def test_the_report_names_the_share_that_binds(tmp_path: Path) -> None:
    facts = fit(tmp_path, Slow(budget=0.9), Report(budget=0.1))
    (note,) = facts["notes"]
    assert note.endswith("to keep within 10 % of the training time.")


def test_without_a_budget_nothing_is_left_out(tmp_path: Path) -> None:
    facts = fit(tmp_path, Slow(), Report())
    assert facts["notes"] == []
    assert epochs(tmp_path, "Slow") == list(range(EPOCHS + 1))


def test_steps_that_are_left_out_are_not_asked_for_again(tmp_path: Path) -> None:
    slow = Slow(every_n_steps=2, budget=0.1)
    facts = fit(tmp_path, slow)
    assert facts["picture_seconds"]["Slow"] <= 0.1 * facts["training_seconds"]
    assert all(record["step"] % 2 == 1 for record in tiny.records(tmp_path) if record["epoch"])
    assert slow.left_out


def test_what_is_left_out_is_known_after_a_resume() -> None:
    slow, resumed = Slow(budget=0.1), Slow(budget=0.1)
    slow.left_out = [2, 3]
    resumed.load_state_dict(slow.state_dict())
    assert resumed.left_out == [2, 3]


def test_cheap_pictures_come_first() -> None:
    budget = Budget(0.1)
    spent = {"cheap": 1.0, "dear": 5.0}
    budget.record_start({"cheap": 0, "dear": 0}, {})
    costs = budget.costs({"dear": 0, "cheap": 0}, spent, pass_seconds=9.0)
    assert costs == spent
    due = {"dear": None, "cheap": None}
    assert budget.affordable(due, costs, spent, training=39, everything=6) == []
    # Half of a tenth of 40 s is its own.
    assert budget.affordable(due, costs, spent, training=40, everything=6) == ["cheap"]
    assert budget.affordable(due, costs, spent, training=119, everything=6) == ["cheap"]
    assert budget.affordable(due, costs, spent, training=120, everything=6) == ["cheap", "dear"]
    assert budget.affordable({**due, "cheap": 0.01}, costs, spent, training=120, everything=6) == ["dear"]


def test_what_pictures_will_cost_goes_by_their_passes() -> None:
    budget = Budget(0.1)
    assert budget.costs({"new": 30, "unknown": 0}, {}, pass_seconds=0.1) == {"new": 3.0, "unknown": 0.0}
    budget.record_start({"new": 10, "unknown": 0}, {"new": 1.0})
    assert budget.costs({"new": 30, "unknown": 0}, {"new": 1.5, "unknown": 2.0}, pass_seconds=0.1) == {
        "new": 1.5,
        "unknown": 2.0,
    }


@pytest.mark.parametrize("share", [0, -0.1, 1.5, True, "5 %"])
@pytest.mark.parametrize("make", [Saliency, Report])
def test_a_share_is_above_0_and_up_to_1(make: Any, share: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"budget=.*expected a share of the training time"):
        make(budget=share)


def test_the_default_suite_has_one() -> None:
    assert [one.budget for one in suite() if isinstance(one, Report)] == [0.05]
    assert [one.budget for one in suite(budget=None) if isinstance(one, Report)] == [None]
