"""Pictures take no more than their share of the training, measured in real runs."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable
from importlib import import_module
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
from vis_callbacks.run import budget as budgets
from vis_callbacks.run.budget import FREE, Budget, allowance

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


class Endless(Slower):
    """Says that it can never be paid for, and is quick after all."""

    def passes(self, moment: Moment, samples: Samples) -> int:
        return 10**9

    def visualize(self, event: Event) -> Iterable[Panel]:
        yield event.sample_panel(0, Tile(event.trace.logits[:1]))


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


@pytest.fixture
def nothing_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """A share counts from the first second, so that trainings of seconds show what those of hours do."""
    monkeypatch.setattr(budgets, "FREE", 0.0)
    monkeypatch.setattr(budgets, "MARGIN", 0.0)


strict = pytest.mark.usefixtures("nothing_free")


def fit(folder: Path, *callbacks: Any, net: Any = Resting, **options: Any) -> dict[str, Any]:
    module = tiny.module(net=net())
    trainer = tiny.trainer(folder, [*callbacks], **{"max_epochs": EPOCHS, **options})
    trainer.fit(module, tiny.loader(32), tiny.loader(16))
    (facts,) = folder.rglob("run.json")
    return json.loads(facts.read_text())


def epochs(folder: Path, name: str) -> list[int]:
    return [record["epoch"] for record in tiny.records(folder) if record["callback"] == name]


@strict
def test_a_callback_keeps_to_its_share_and_the_report_says_when_it_was_left_out(tmp_path: Path) -> None:
    slow, report = Slow(budget=0.25), Report()
    facts = fit(tmp_path, slow, Filters(), report)
    assert facts["picture_seconds"]["Slow"] <= 0.25 * facts["training_seconds"]
    made = epochs(tmp_path, "Slow")
    assert (made[0], made[-1]) == (0, EPOCHS)
    assert len(made) > 2
    assert sorted(made + slow.left_out) == list(range(EPOCHS + 1))
    assert slow.left_out
    assert set(epochs(tmp_path, "Filters")) == set(range(EPOCHS + 1))
    (note,) = facts["notes"]
    assert note.startswith("Slow was left out in epoch")
    assert note.endswith("or 25 % of the training time; budget=None makes all.")
    assert facts["remarks"] == {"Slow": note}
    assert report.path is not None
    # In the place of its pictures too, not only among the notes.
    page = report.path.read_text()
    assert f'<p class="remark" role="note">{note}</p>' in page
    assert page.count(note) == 2


@strict
def test_of_all_callbacks_together_the_costly_ones_are_made_less_often(tmp_path: Path) -> None:
    slower, saliency = Slower(), Saliency(samples=2)
    facts = fit(tmp_path, slower, saliency, Report(budget=0.25))
    assert sum(facts["picture_seconds"].values()) <= 0.25 * facts["training_seconds"]
    made = epochs(tmp_path, "Slower")
    assert len(set(epochs(tmp_path, "Saliency"))) > len(made)
    assert 0 not in made  # before training there is nothing to pay with
    assert 2 <= len(made) < EPOCHS
    assert made[-1] == EPOCHS
    assert "Slower" in [note.split()[0] for note in facts["notes"]]


@strict
def test_what_the_shared_pass_takes_is_counted(tmp_path: Path) -> None:
    saliency = Saliency(samples=2, budget=0.15)
    facts = fit(tmp_path, saliency, net=Reluctant)
    assert facts["picture_seconds"]["Saliency"] < 0.1  # by itself it would be made in each epoch
    assert facts["picture_seconds"]["shared pass"] > 0.15 * facts["training_seconds"] / 2
    assert saliency.left_out


@strict
def test_costly_pictures_are_not_made_before_they_can_be_paid_for_or_training_ends(tmp_path: Path) -> None:
    counted = Counted(samples=2, budget=0.2)
    facts = fit(tmp_path, Saliency(samples=2), counted, net=Reluctant)
    # Two samples of 0.1 s each, ten times: more than a fifth of the training.
    assert facts["training_seconds"] < 10
    assert epochs(tmp_path, "Counted") == [EPOCHS]
    assert counted.left_out == list(range(1, EPOCHS))


def test_a_callback_that_cannot_say_what_it_takes_is_complained_of_once(tmp_path: Path) -> None:
    with pytest.warns(VisualizationWarning, match="Boasting cannot say how many passes.*not the faintest") as caught:
        fit(tmp_path, Boasting(samples=2, budget=1.0))
    assert len([one for one in caught if one.category is VisualizationWarning]) == 1
    assert len(epochs(tmp_path, "Boasting")) > 1


@strict
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


@strict
def test_the_report_names_the_share_that_binds(tmp_path: Path) -> None:
    facts = fit(tmp_path, Slow(budget=0.9), Report(budget=0.1))
    (note,) = facts["notes"]
    assert "or 10 % of the training time" in note


def test_without_a_budget_nothing_is_left_out(tmp_path: Path) -> None:
    facts = fit(tmp_path, Slow(), Report())
    assert facts["notes"] == []
    assert epochs(tmp_path, "Slow") == list(range(EPOCHS + 1))


@strict
def test_steps_that_are_left_out_are_not_asked_for_again(tmp_path: Path) -> None:
    slow = Slow(every_n_steps=2, budget=0.2)
    facts = fit(tmp_path, slow)
    assert facts["picture_seconds"]["Slow"] <= 0.2 * facts["training_seconds"]
    assert all(record["step"] % 2 == 1 for record in tiny.records(tmp_path) if record["epoch"])
    assert slow.left_out


def test_what_is_left_out_is_known_after_a_resume() -> None:
    slow, resumed = Slow(budget=0.1), Slow(budget=0.1)
    slow.left_out = [2, 3]
    resumed.load_state_dict(slow.state_dict())
    assert resumed.left_out == [2, 3]


def test_the_first_twenty_seconds_are_free(tmp_path: Path) -> None:
    slow, slower = Slow(), Slower()
    facts = fit(tmp_path, slow, slower, Report(budget=0.001))
    assert sum(facts["picture_seconds"].values()) < FREE
    assert facts["notes"] == []
    assert epochs(tmp_path, "Slow") == list(range(EPOCHS + 1))
    assert epochs(tmp_path, "Slower") == list(range(1, EPOCHS + 1))


LAST = {
    "epochs": ({}, EPOCHS),
    "steps": ({"max_epochs": -1, "max_steps": 14}, 4),
    "within an epoch": ({"max_epochs": 3, "val_check_interval": 3}, 3),
    "seldom": ({"max_epochs": 5, "check_val_every_n_epoch": 2}, 5),
    "time": ({"max_epochs": -1, "min_epochs": 5, "max_time": {"seconds": 1}}, None),
    "without validation": ({"limit_val_batches": 0, "max_epochs": 3}, 3),
}


@strict
@pytest.mark.parametrize("name", LAST)
@pytest.mark.parametrize("options", [{}, {"on": "train"}, {"every_n_epochs": 2}, {"every_n_steps": 2}], ids=str)
def test_a_training_ends_with_everything_that_is_due(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    settings, end = LAST[name]
    endless = Endless(samples=2, budget=1e-6, **options)
    facts = fit(tmp_path, Saliency(samples=2), endless, **settings)
    assert facts["status"] == "finished"
    end = end or facts["epochs"]
    assert epochs(tmp_path, "Endless") == [end]
    assert endless.left_out
    assert end not in endless.left_out


@strict
@pytest.mark.parametrize("package", tiny.PACKAGES)
def test_a_training_that_is_stopped_early_ends_with_everything(package: str, tmp_path: Path) -> None:
    early_stopping = import_module(f"{package}.callbacks").EarlyStopping

    class Stopping(tiny.module_class(package)):  # type: ignore[misc]
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("worse", float(self.current_epoch))

    module, endless = Stopping(), Endless(samples=2)
    weights: list[torch.Tensor] = []
    endless.with_handler(lambda *_: weights.append(module.net.head.weight.detach().clone()))
    trainer = tiny.trainer(
        tmp_path,
        [Filters(), endless, early_stopping("worse", patience=2), Report(budget=1e-6)],
        package=package,
        max_epochs=50,
    )
    trainer.fit(module, tiny.loader(32), tiny.loader(16))
    assert trainer.current_epoch == 3  # better once, then worse, then once too often
    (record,) = [one for one in tiny.records(tmp_path) if one["callback"] == "Endless"]
    assert (record["epoch"], record["step"]) == (3, 11)
    assert torch.equal(weights[0], module.net.head.weight)
    assert endless.left_out == [1, 2]
    facts = json.loads((tmp_path / "visualizations" / "run.json").read_text())
    assert facts["epochs"] == 3


@strict
def test_what_was_left_out_is_said_in_the_console(tmp_path: Path) -> None:
    said: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = said.append  # type: ignore[method-assign]
    logger = logging.getLogger("pytorch_lightning.trainer.trainer")
    logger.addHandler(handler)
    try:
        fit(tmp_path, Endless(samples=2), Saliency(samples=2), Report(budget=1e-6), max_epochs=3)
    finally:
        logger.removeHandler(handler)
    lines = [one.getMessage() for one in said if "left out" in one.getMessage()]
    assert lines[0].startswith("Endless was left out in epochs 1–2 to keep to ")
    assert all(line.endswith("budget=None makes all.") for line in lines)


@pytest.mark.parametrize(("training", "allowed"), [(0, 20), (599, 20), (600, 20), (601, 20.05), (3600, 170)])
def test_five_percent_of_ten_minutes_and_more_and_twenty_seconds_below(training: float, allowed: float) -> None:
    assert allowance(0.05, training) == pytest.approx(allowed)
    assert allowance(0.05, training) <= (0.05 * training if training >= 600 else 20)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5])
def test_what_is_promised_holds_at_the_end_of_any_training(share: float) -> None:
    """A run of three callbacks in numbers alone; the last event costs what all of them cost once."""
    cost = {"cheap": 0.1, "middling": 0.5, "dear": 3.0}
    for event_seconds in (1.0, 20.0, 100.0):
        budget, spent = Budget(share), dict.fromkeys(cost, 0.0)
        made: dict[str, list[int]] = {name: [] for name in cost}
        for event in range(1, 400):
            training = event * event_seconds
            costs = budget.costs(dict.fromkeys(cost, 0), spent, pass_seconds=0.0)
            everything = sum(spent.values())
            # If training ended now.
            assert everything + sum(cost.values()) <= max(20, share * training) or event == 1
            now = budget.affordable(dict.fromkeys(cost), costs, spent, training=training, everything=everything)
            budget.record_start(dict.fromkeys(now, 0), spent, training)
            for name in now:
                spent[name] += cost[name]
                made[name].append(event)
        assert min(map(len, made.values())) >= 3
        if share * event_seconds > 1:
            # Once all is paid from the share, nothing waits for ever.
            assert all(events[-1] > 350 for events in made.values())


def served(budget: Budget, costs: dict[str, float], spent: dict[str, float], training: float) -> list[str]:
    everything = sum(spent.values())
    return budget.affordable(dict.fromkeys(costs), costs, spent, training=training, everything=everything)


def test_of_equally_old_pictures_the_cheap_ones_come_first() -> None:
    costs = {"dear": 8.0, "cheap": 1.0}
    assert served(Budget(0.05), costs, {"dear": 0.0, "cheap": 0.0}, training=10) == ["cheap", "dear"]
    assert served(Budget(0.05), costs, {"dear": 4.0, "cheap": 0.0}, training=10) == ["cheap"]


def test_what_was_left_out_longest_comes_first() -> None:
    budget = Budget(0.05)
    spent = {"dear": 4.0, "cheap": 2.0, "other": 2.0}
    for training, name in enumerate(["dear", "cheap", "other"], start=1):
        budget.record_start({name: 0}, spent, training)
    costs = {"other": 1.0, "cheap": 1.0, "dear": 2.0}
    # 20 s less 8 spent and 4 for the last event: enough for all.
    assert served(budget, costs, spent, training=10) == ["dear", "cheap", "other"]
    # 3 s are left.
    assert served(budget, costs, {**spent, "other": 7.0}, training=10)[:1] == ["dear"]
    budget.record_start({"dear": 0}, spent, 10)
    assert served(budget, costs, {**spent, "other": 7.0}, training=11)[:2] == ["cheap", "other"]


def test_one_that_cannot_be_paid_for_saves_its_part_of_what_comes_in() -> None:
    budget, spent = Budget(0.1), {"dear": 0.0, "cheap": 130.0}
    budget.record_start({"dear": 0}, spent, 1000)
    budget.record_start({"cheap": 0}, spent, 1900)
    # 190 s allowed, 130 spent; half of the 100 s that came in since the dear one was made are its own.
    costs = {"dear": 30.0, "cheap": 1.0}
    assert served(budget, costs, {"dear": 0.0, "cheap": 130.0}, training=2000) == []
    # 31 s for the last event, and 60 less 31 for now: what the dear one does not save would pay for the cheap one.
    assert served(budget, {"cheap": 1.0}, {"dear": 0.0, "cheap": 130.0}, training=2000) == ["cheap"]
    # Later the dear one has its 30 s, and comes first.
    assert served(budget, costs, {"dear": 0.0, "cheap": 130.0}, training=2100) == ["dear", "cheap"]


def test_half_of_what_is_allowed_is_kept_for_a_last_event_of_any_cost() -> None:
    budget, costs = Budget(0.05), {"huge": 1000.0, "cheap": 1.0}
    assert served(budget, costs, {"huge": 0.0, "cheap": 9.0}, training=10) == ["cheap"]
    assert served(budget, costs, {"huge": 0.0, "cheap": 9.5}, training=10) == []
    budget.record_start({"cheap": 0}, {}, 5)
    # Of the other ten seconds, half are the huge one's: it comes first now, but never keeps all for itself.
    assert served(budget, costs, {"huge": 0.0, "cheap": 4.0}, training=10) == ["cheap"]
    assert served(budget, costs, {"huge": 0.0, "cheap": 4.5}, training=10) == []


def test_a_first_events_warm_up_is_not_the_estimate() -> None:
    budget = Budget(0.05)
    budget.record_start({"passes": 10, "unknown": 0}, {}, 0)
    spent = {"passes": 5.0, "unknown": 5.0}
    # Ten passes of 0.1 s: the other four seconds were the warm-up.
    assert budget.costs({"passes": 20, "unknown": 0}, spent, pass_seconds=0.1) == {"passes": 2.0, "unknown": 5.0}
    budget.record_start({"passes": 10, "unknown": 0}, spent, 10)
    spent = {"passes": 8.0, "unknown": 6.0}
    # The second time counts, also where passes take longer than the shared one.
    assert budget.costs({"passes": 20, "unknown": 0}, spent, pass_seconds=0.1) == {"passes": 6.0, "unknown": 1.0}
    budget.record_start({"unknown": 0}, spent, 20)
    # A later one that takes longer is followed after two.
    assert budget.costs({"unknown": 0}, {**spent, "unknown": 9.0}, pass_seconds=0.1) == {"unknown": 1.0}
    budget.record_start({"unknown": 0}, {**spent, "unknown": 9.0}, 30)
    assert budget.costs({"unknown": 0}, {**spent, "unknown": 12.0}, pass_seconds=0.1) == {"unknown": 3.0}


def test_what_pictures_will_cost_goes_by_their_passes() -> None:
    budget = Budget(0.1)
    assert budget.costs({"new": 30, "unknown": 0}, {}, pass_seconds=0.1) == {"new": 3.0, "unknown": 0.0}
    budget.record_start({"new": 10, "unknown": 0}, {"new": 1.0}, 0)
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
