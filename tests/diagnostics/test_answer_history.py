"""Answers are judged as numbers, without a training."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor

from vis_callbacks.diagnostics import answer_history
from vis_callbacks.diagnostics.answer_history import AnswerHistory, image_keys
from vis_callbacks.diagnostics.gallery import Gallery


def told(answers: list[str], *, classes: int = 3) -> AnswerHistory:
    """A history of images 0, 1, 2, ... of class 0; each text has an answer a pass, "." where the image was not seen."""
    history = AnswerHistory()
    for part in range(len(answers[0])):
        for key, row in enumerate(answers):
            if row[part] != ".":
                logits = 4.0 * torch.nn.functional.one_hot(torch.tensor([int(row[part])]), classes)
                history.add(part, torch.tensor([key]), torch.tensor([0]), logits)
    history.fold()
    return history


def keys(found: list[answer_history.HardSample]) -> list[int]:
    return [one.key for one in found]


def test_each_kind_of_hard_image_is_told_apart() -> None:
    #                never right, right, forgotten, never settles, learned
    history = told(["1111", "0000", "0001", "0101", "1000"])
    assert keys(history.hardest(9)) == [0]
    assert keys(history.forgotten(9)) == [3, 2]  # by mean margin
    assert keys(history.unsettled(9)) == [3]
    assert keys(history.confident(9)) == [0, 2, 3]
    assert (history.never_right, history.now_forgotten) == (1, 2)
    (worst,) = history.hardest(1)
    assert (worst.answer, worst.margin, worst.right) == (1, -4.0, (False,) * 4)
    assert worst.history == pytest.approx([0.018] * 4, abs=0.005)
    assert history.unsettled(1)[0].changes == 3


def test_a_pass_in_which_an_image_was_not_seen_is_a_gap() -> None:
    (one,) = told(["1.0", "000"]).hardest(9) or told(["1.1", "000"]).hardest(9)
    assert [value is None for value in one.history] == [False, True, False]


def test_the_order_of_the_images_does_not_matter() -> None:
    answers = ["1111", "0001", "0101", "1000"]
    forward, backward = told(answers), told(answers[::-1])
    named = {key: 3 - key for key in range(4)}
    assert keys(forward.forgotten(9)) == [named[key] for key in keys(backward.forgotten(9))]


def test_pairs_of_classes_are_counted_in_the_last_pass() -> None:
    history = AnswerHistory()
    labels = torch.tensor([0, 0, 1, 2, 2])
    for answers in ([2, 2, 2, 0, 0], [1, 1, 0, 2, 1]):
        logits = 3.0 * torch.nn.functional.one_hot(torch.tensor(answers), 3)
        history.add(sum(answers), torch.arange(5), labels, logits)
    history.fold()
    assert history.confused(3) == [(0, 1, 3)]
    assert keys(history.taken_for(0, 1, 9)) == [0, 1]


def test_images_that_differ_in_each_pass_have_no_history() -> None:
    history = AnswerHistory()
    for part in range(4):
        history.add(part, torch.arange(40) + 100 * part, torch.zeros(40).long(), torch.tensor([[0.0, 1.0]] * 40))
    history.fold()
    assert not history.followed
    assert len(history) == 40
    assert len(history.confident(9)[0].history) == 1


def test_a_long_training_keeps_fewer_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_history, "MOST_COLUMNS", 4)
    history = told(["1" * 23])
    (one,) = history.hardest(9)
    assert 2 <= len(one.history) <= 4
    assert one.history[-1] is not None
    assert one.margin == pytest.approx(-4.0)


def test_most_images_are_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_history, "MOST_SAMPLES", 3)
    assert len(told(["11"] * 9)) == 3


def test_it_goes_on_from_a_checkpoint() -> None:
    file = io.BytesIO()
    torch.save(told(["10", "01"]).state_dict(), file)
    file.seek(0)
    history = AnswerHistory()
    history.load_state_dict(torch.load(file, weights_only=True))
    history.add(7, torch.arange(2), torch.zeros(2).long(), torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    history.fold()
    assert [one.right for one in sorted(history.forgotten(9), key=lambda one: one.key)] == [
        (False, True, False),
        (True, False, False),
    ]


def test_answers_without_a_known_label_or_a_number_are_left_out() -> None:
    history = AnswerHistory()
    logits = torch.tensor([[0.0, 1.0], [0.0, 1.0], [torch.nan, 1.0]])
    history.add(0, torch.arange(3), torch.tensor([0, -1, 0]), logits)
    history.fold()
    assert keys(history.confident(9)) == [0]


@pytest.mark.parametrize("side", [4, 28, 64, 224])
def test_images_that_differ_have_other_keys(side: int) -> None:
    images = torch.rand(64, 3, side, side)
    labels = torch.zeros(64).long()
    assert len(set(image_keys(images, labels).tolist())) == 64
    assert torch.equal(image_keys(images.clone(), labels), image_keys(images, labels))
    assert not torch.isin(image_keys(images.flip(3), labels), image_keys(images, labels)).any()
    assert len(set(image_keys(images[:1].expand(4, -1, -1, -1), torch.arange(4)).tolist())) == 4


def test_a_gallery_keeps_the_worst_and_what_is_wanted() -> None:
    gallery = Gallery()
    images = torch.arange(640.0).view(640, 1, 1, 1).expand(-1, 1, 4, 4)

    def passed() -> None:
        for start in range(0, 640, 16):
            keys: Tensor = torch.arange(start, start + 16)
            gallery.add(keys, keys / 1000, images[start : start + 16])
        gallery.fold()

    passed()
    assert gallery[639] is not None
    assert gallery[3] is None
    gallery.keep([3, 639])
    assert gallery[638] is None
    passed()
    found = gallery[3]
    assert found is not None
    assert float(found.mean()) == 3
