"""Which of the techniques that are due make pictures: data in, names out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from vis_callbacks import ConfigurationError, Filters, Moment, Saliency, Samples
from vis_callbacks.run.budget import Budget
from vis_callbacks.run.selection import Ready, Spent, select

SAMPLES = Samples(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]), ("a", "b"))
EPOCH = Moment(3, 11)
NO_SAMPLES = ConfigurationError("no batch has passed by")


def ready(name: str, *, own: float | None = None, samples: Samples | None = SAMPLES, **found: Any) -> Ready:
    return Ready(Saliency(budget=own), name, samples, **found)


def waiting(name: str, *, own: float | None = None) -> Ready:
    return ready(name, own=own, samples=None)


def failed(name: str, *, own: float | None = None) -> Ready:
    return ready(name, own=own, samples=None, error=NO_SAMPLES)


def without_samples(name: str, *, own: float | None = None) -> Ready:
    return Ready(Filters(budget=own), name)


def made_before(budget: Budget, **seconds: float) -> Spent:
    """What is known after each of these was made once, and took so long."""
    budget.record_start(dict.fromkeys(seconds, 0), {})
    return Spent(seconds, pictures=sum(seconds.values()), training=100.0, per_pass=0.1)


NEVER_MADE = Spent({}, pictures=0.0, training=100.0, per_pass=0.1)


@pytest.mark.parametrize(
    ("due", "expected"),
    [
        ([], []),
        ([ready("a"), without_samples("b")], ["a", "b"]),
        ([waiting("a"), without_samples("b"), waiting("c")], ["b"]),
        ([failed("a"), waiting("b"), ready("c")], ["a", "c"]),
        ([ready("b", passes=10**9), ready("a")], ["b", "a"]),
    ],
)
def test_without_a_budget_all_are_made_but_those_that_wait_for_samples(due: list[Ready], expected: list[str]) -> None:
    assert [one.name for one in select(due, Budget(), NEVER_MADE, EPOCH)] == expected


@pytest.mark.parametrize(
    "moment", [Moment(0, 0), Moment(3, 11, "validate"), Moment(3, 11, "test"), Moment(0, 0, "test")]
)
def test_only_pictures_of_a_training_epoch_must_be_paid_for(moment: Moment) -> None:
    budget = Budget(0.01)
    due = [ready("a", own=0.01, passes=10**9), waiting("b"), without_samples("c")]
    spent = made_before(budget, a=1000.0, c=1000.0)
    assert [one.name for one in select(due, budget, spent, moment)] == ["a", "c"]
    assert select(due, budget, spent, EPOCH) == []


@pytest.mark.parametrize(
    ("share", "due", "seconds", "expected"),
    [
        # All together may take 10 s, of which 8 are spent: the cheap one is made.
        (0.1, ["dear", "cheap"], {"dear": 7.0, "cheap": 1.0}, ["cheap"]),
        # They may take 16 s: the 8 of both are left. The order is that of the techniques.
        (0.16, ["dear", "cheap"], {"dear": 7.0, "cheap": 1.0}, ["dear", "cheap"]),
        # Nothing is left, but half of the 10 s is the cheap one's own.
        (0.1, ["dear", "cheap"], {"dear": 30.0, "cheap": 1.0}, ["cheap"]),
        (0.1, ["dear"], {"dear": 30.0, "cheap": 1.0}, []),
        (1.0, ["dear", "cheap"], {"dear": 30.0, "cheap": 1.0}, ["dear", "cheap"]),
    ],
)
def test_a_share_of_all_pays_for_the_cheap_ones_first(
    share: float, due: list[str], seconds: dict[str, float], expected: list[str]
) -> None:
    budget = Budget(share)
    spent = made_before(budget, **seconds)
    assert [one.name for one in select(list(map(ready, due)), budget, spent, EPOCH)] == expected


@pytest.mark.parametrize(("own", "expected"), [(0.1, ["b"]), (0.2, ["a", "b"]), (None, ["a", "b"])])
def test_a_share_of_its_own_bounds_a_technique_alone(own: float | None, expected: list[str]) -> None:
    budget = Budget()
    # It took 10 s of 100: another 10 need a fifth.
    spent = made_before(budget, a=10.0, b=1000.0)
    assert [one.name for one in select([ready("a", own=own), ready("b")], budget, spent, EPOCH)] == expected


def test_both_shares_bind() -> None:
    budget = Budget(0.5)
    spent = made_before(budget, a=10.0, b=10.0, c=20.0)
    due = [ready("a", own=0.1), ready("b", own=0.2), ready("c", own=1.0)]
    assert [one.name for one in select(due, budget, spent, EPOCH)] == ["b"]


@pytest.mark.parametrize(
    ("passes", "expected"),
    [
        (100, ["new"]),  # 100 passes of 0.1 s
        (101, []),
        (0, ["new"]),  # not known: its first pictures are made, to see what they cost
    ],
)
@pytest.mark.parametrize(("share", "own"), [(0.1, None), (None, 0.1)])
def test_what_was_never_made_costs_its_passes(
    share: float | None, own: float | None, passes: int, expected: list[str]
) -> None:
    due = [ready("new", own=own, passes=passes)]
    assert [one.name for one in select(due, Budget(share), NEVER_MADE, EPOCH)] == expected


def test_what_failed_is_reported_whatever_the_budget_and_what_waits_is_not_paid_for() -> None:
    due = [waiting("a", own=0.01), failed("b", own=0.01), ready("c", own=0.01, passes=100)]
    assert [one.name for one in select(due, Budget(0.01), NEVER_MADE, EPOCH)] == ["b"]


def test_nothing_is_changed() -> None:
    budget = Budget(0.1)
    spent = made_before(budget, a=1.0, b=50.0)
    due = [ready("a"), ready("b", passes=10), waiting("c")]
    before = copy.deepcopy(vars(budget)), [copy.deepcopy(one.technique.state_dict()) for one in due]
    first, second = select(due, budget, spent, EPOCH), select(due, budget, spent, EPOCH)
    assert first == second == due[:1]
    assert (vars(budget), [one.technique.state_dict() for one in due]) == before
