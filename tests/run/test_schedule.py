from __future__ import annotations

import pytest

from vis_callbacks.errors import ConfigurationError
from vis_callbacks.run.schedule import Schedule


def epochs(schedule: Schedule, ends: list[int]) -> list[int]:
    return [epoch for epoch in ends if schedule.due_epoch(epoch) and schedule.mark_done(epoch=epoch) is None]


@pytest.mark.parametrize(
    ("every", "ends", "expected"),
    [
        (1, [1, 2, 3], [1, 2, 3]),
        (2, [1, 2, 3, 4, 5], [2, 4]),
        (3, [2, 4, 6, 8], [4, 6]),
        (5, [7, 8, 15], [7, 15]),
        (2, [1, 2, 2, 3, 4, 4], [2, 2, 4, 4]),
    ],
)
def test_the_first_end_after_a_multiple_is_due(every: int, ends: list[int], expected: list[int]) -> None:
    assert epochs(Schedule(every_n_epochs=every), ends) == expected


def test_pictures_before_training_do_not_delay_the_first_epoch() -> None:
    schedule = Schedule()
    schedule.mark_done(epoch=0)
    assert epochs(schedule, [1, 2]) == [1, 2]


def test_steps_and_epochs_do_not_disturb_each_other() -> None:
    schedule = Schedule(every_n_epochs=2, every_n_steps=3)
    found = []
    for step in range(1, 9):
        if schedule.due_step(step):
            schedule.mark_done(step=step)
            found.append(f"step {step}")
        if step % 2 == 0 and schedule.due_epoch(step // 2):
            schedule.mark_done(epoch=step // 2)
            found.append(f"epoch {step // 2}")
    assert found == ["step 3", "epoch 2", "step 6", "epoch 4"]


def test_a_step_is_due_once_though_batches_are_accumulated() -> None:
    schedule = Schedule(every_n_epochs=None, every_n_steps=2)
    due = []
    for step in (0, 1, 1, 2, 2, 2, 3, 4):
        due.append(schedule.due_step(step))
        if due[-1]:
            schedule.mark_done(step=step)
    assert due == [False, False, False, True, False, False, False, True]


def test_several_optimizers_that_step_at_once_do_not_skip_a_multiple() -> None:
    schedule = Schedule(every_n_epochs=None, every_n_steps=3)
    due = []
    for step in range(0, 14, 2):
        due.append(schedule.due_step(step))
        if due[-1]:
            schedule.mark_done(step=step)
    assert due == [False, False, True, True, False, True, True]


def test_epochs_are_the_rule_unless_steps_are_asked_for() -> None:
    assert Schedule.of("train", None, None).every_n_epochs == 1
    assert Schedule.of("train", None, 5).every_n_epochs is None
    assert Schedule.of("train", 2, 5) == Schedule(("train",), 2, 5)
    assert Schedule.of(["train", "test"], None, None).on == ("train", "test")


@pytest.mark.parametrize("wrong", [0, -1, 1.0, True, "1"])
@pytest.mark.parametrize("name", ["every_n_epochs", "every_n_steps"])
def test_numbers_are_whole_and_positive(name: str, wrong: object) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}={wrong!r}: expected a whole number from 1"):
        Schedule(**{name: wrong})  # type: ignore[arg-type]


def test_only_a_test_has_no_pictures_before_training() -> None:
    assert [Schedule.of(on, None, None).before_training for on in ("train", "validation", "test")] == [
        True,
        True,
        False,
    ]
