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


def made_before(budget: Budget, *, training: float = 1000.0, pictures: float | None = None, **seconds: float) -> Spent:
    """What is known after each of these was made once, after 100 s of training, and took so long."""
    budget.record_start(dict.fromkeys(seconds, 0), {}, 100.0)
    return Spent(seconds, pictures=pictures or sum(seconds.values()), training=training, per_pass=0.1)


NEVER_MADE = Spent({}, pictures=0.0, training=1000.0, per_pass=0.1)


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
    ("moment", "last"),
    [
        (Moment(0, 0), False),
        (Moment(3, 11, "validate"), False),
        (Moment(3, 11, "test"), False),
        (Moment(0, 0, "test"), False),
        (EPOCH, True),
    ],
)
def test_only_pictures_of_a_training_epoch_before_the_last_must_be_paid_for(moment: Moment, last: bool) -> None:
    budget = Budget(0.01)
    due = [ready("a", own=0.01, passes=10**9), waiting("b"), without_samples("c")]
    spent = made_before(budget, a=1000.0, c=1000.0)
    assert [one.name for one in select(due, budget, spent, moment, last=last)] == ["a", "c"]
    assert select(due, budget, spent, EPOCH) == []


@pytest.mark.parametrize(
    ("share", "due", "seconds", "expected"),
    [
        # Of 1,000 s, all together may take 40, less 10 for the last event, and 8 are spent: enough for both.
        (0.05, ["dear", "cheap"], {"dear": 7.0, "cheap": 3.0}, ["dear", "cheap"]),
        # 22 less 10 and 10: the cheap one comes first, and the order is that of the techniques.
        (0.032, ["dear", "cheap"], {"dear": 9.0, "cheap": 1.0}, ["cheap"]),
        # 20 s are free, whatever the share.
        (1e-6, ["dear", "cheap"], {"dear": 3.0, "cheap": 1.0}, ["dear", "cheap"]),
        (1e-6, ["dear", "cheap"], {"dear": 9.0, "cheap": 1.0}, []),
        # Half of them is kept for a last event that takes more.
        (1e-6, ["dear", "cheap"], {"dear": 3.0, "cheap": 7.0, "of old": 1.0}, []),
        (1.0, ["dear", "cheap"], {"dear": 30.0, "cheap": 1.0}, ["dear", "cheap"]),
    ],
)
def test_a_share_of_all_pays_in_turn_and_keeps_what_the_last_event_needs(
    share: float, due: list[str], seconds: dict[str, float], expected: list[str]
) -> None:
    budget = Budget(share)
    spent = made_before(budget, **seconds)
    assert [one.name for one in select(list(map(ready, due)), budget, spent, EPOCH)] == expected


def test_what_was_left_out_longest_is_made_first() -> None:
    budget = Budget(0.036)
    made_before(budget, young=4.0, old=5.0)
    budget.record_start({"young": 0}, {"young": 4.0, "old": 5.0}, 500.0)
    spent = Spent({"young": 8.0, "old": 5.0}, pictures=13.0, training=1000.0, per_pass=0.1)
    # 26 s, less 9 for the last event and 13 spent: 4 s would pay for the young one, but are saved for the old one's 5.
    assert [one.name for one in select([ready("young"), ready("old")], budget, spent, EPOCH)] == []
    more = Spent(spent.by_name, spent.pictures, 1050.0, 0.1)
    assert [one.name for one in select([ready("young"), ready("old")], budget, more, EPOCH)] == ["old"]


def test_what_is_not_due_now_is_kept_for_the_last_event_too() -> None:
    budget = Budget(1e-6)
    spent = made_before(budget, now=3.0, later=6.0)
    assert [one.name for one in select([ready("now")], budget, spent, EPOCH)] == ["now"]
    assert select([ready("now")], budget, spent, EPOCH, later=[ready("later")]) == []
    assert [one.name for one in select([ready("now")], budget, spent, EPOCH, later=[waiting("later")])] == ["now"]


@pytest.mark.parametrize(("own", "expected"), [(0.02, ["b"]), (0.04, ["a", "b"]), (None, ["a", "b"])])
def test_a_share_of_its_own_bounds_a_technique_alone(own: float | None, expected: list[str]) -> None:
    budget = Budget()
    # It took 10 s of 1,000: with another ten now and ten at the end it needs 30, and may take 20 or 30.
    spent = made_before(budget, a=10.0, b=1000.0)
    assert [one.name for one in select([ready("a", own=own), ready("b")], budget, spent, EPOCH)] == expected


def test_both_shares_bind() -> None:
    budget = Budget(0.13)
    spent = made_before(budget, a=10.0, b=10.0, c=20.0)
    # All may take 120 s, of which 40 are spent and 40 kept; a may take 20, b 30, c more than there is.
    due = [ready("a", own=0.02), ready("b", own=0.04), ready("c", own=1.0)]
    assert [one.name for one in select(due, budget, spent, EPOCH)] == ["b", "c"]


@pytest.mark.parametrize(
    ("passes", "expected"),
    [
        (150, ["new"]),  # 150 passes of 0.1 s, of 30 s
        (151, []),
        (0, ["new"]),  # not known: its first pictures are made, to see what they cost
    ],
)
@pytest.mark.parametrize(("share", "own"), [(0.04, None), (None, 0.04)])
def test_what_was_never_made_costs_its_passes(
    share: float | None, own: float | None, passes: int, expected: list[str]
) -> None:
    due = [ready("new", own=own, passes=passes)]
    assert [one.name for one in select(due, Budget(share), NEVER_MADE, EPOCH)] == expected


def test_what_failed_is_reported_whatever_the_budget_and_what_waits_is_not_paid_for() -> None:
    due = [waiting("a", own=0.01), failed("b", own=0.01), ready("c", own=0.01, passes=1000)]
    spent = Spent({}, pictures=10.0**6, training=1000.0, per_pass=0.1)
    assert [one.name for one in select(due, Budget(0.01), spent, EPOCH)] == ["b"]


def test_nothing_is_changed() -> None:
    budget = Budget(0.05)
    spent = made_before(budget, a=1.0, b=15.0)
    due = [ready("a"), ready("b"), waiting("c")]
    before = copy.deepcopy(vars(budget)), [copy.deepcopy(one.technique.state_dict()) for one in due]
    first, second = select(due, budget, spent, EPOCH), select(due, budget, spent, EPOCH)
    assert first == second == due[:1]
    assert (vars(budget), [one.technique.state_dict() for one in due]) == before
