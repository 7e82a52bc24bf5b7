"""Images that are kept of batches that pass by: spread, few, and never changed without need."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from vis_callbacks.data.collectors import ClassCollector, Collector, SpreadCollector


def seen(collector: Collector, labels: list[int] | None, *, count: int = 0, size: int = 4) -> Collector:
    """Show a collector images that are their own numbers, in batches."""
    numbers = torch.arange(len(labels) if labels is not None else count).float()
    images = numbers[:, None, None, None].expand(-1, 1, 2, 2)
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        if not collector.complete:
            collector.observe(images[part] if labels is None else (images[part], torch.tensor(labels[part])))
    return collector


def places(collector: Collector) -> list[int]:
    return [int(number) for number in collector.samples()[0][:, 0, 0, 0]]


SORTED = [0] * 20 + [1] * 20 + [2] * 20 + [3] * 20


@pytest.mark.parametrize(
    ("labels", "count", "classes", "expected"),
    [
        (SORTED, 8, 4, [0, 1, 20, 21, 40, 41, 60, 61]),
        (SORTED, 8, None, [0, 1, 20, 21, 40, 41, 60, 61]),
        (SORTED, 4, 4, [0, 20, 40, 60]),
        (SORTED, 6, 4, [0, 1, 20, 21, 40, 60]),
        (SORTED, 3, 4, [0, 20, 40]),
        (SORTED, 1, 4, [0]),
        ([0] * 20 + [1] * 2, 8, 2, [0, 1, 2, 3, 4, 5, 20, 21]),
        ([0, 1, 2, 3] * 5, 8, 4, list(range(8))),
        ([0, 0, 0, 1, 0, 0, 2], 3, None, [0, 3, 6]),
        ([0] * 9, 4, 2, [0, 1, 2, 3]),
        ([0, 1], 4, 2, [0, 1]),
    ],
)
def test_each_class_gets_as_many_as_the_others_and_its_first(
    labels: list[int], count: int, classes: int | None, expected: list[int]
) -> None:
    assert places(seen(SpreadCollector(count, classes=classes), labels)) == expected


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_those_of_a_round_robin_over_all_images(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(torch.rand(6, generator=generator), 90, True, generator=generator).tolist()
    found = Counter(labels[place] for place in places(seen(SpreadCollector(16), labels, size=7)))
    left, expected = Counter(labels), Counter[int]()
    while sum(expected.values()) < 16:
        for label in sorted(left):
            if left[label] > expected[label] and sum(expected.values()) < 16:
                expected[label] += 1
    assert sorted(found.values()) == sorted(expected.values())


def test_it_is_complete_as_soon_as_no_image_could_be_better() -> None:
    def batches_until_complete(count: int, classes: int | None, labels: list[int]) -> int:
        collector = SpreadCollector(count, classes=classes)
        for at, label in enumerate(labels):
            if collector.complete:
                return at
            collector.observe((torch.zeros(1, 1, 2, 2), torch.tensor([label])))
        return len(labels)

    assert batches_until_complete(4, 10, list(range(10))) == 4
    assert batches_until_complete(4, None, list(range(10))) == 4
    assert batches_until_complete(8, 4, SORTED) == 62
    # Without their number there may be more classes to come.
    assert batches_until_complete(8, None, SORTED) == 80


def test_few_images_are_held_however_many_pass() -> None:
    collector = SpreadCollector(8)
    for start in range(0, 4000, 100):
        collector.observe((torch.zeros(100, 1, 2, 2), torch.arange(start, start + 100) // 500))
        assert len(collector) <= 8
    unlabelled = SpreadCollector(8)
    for _ in range(40):
        unlabelled.observe(torch.zeros(100, 1, 2, 2))
        assert len(unlabelled) <= 16


@pytest.mark.parametrize(("total", "count"), [(8, 8), (9, 8), (100, 8), (1000, 3), (37, 5), (4, 8)])
def test_without_labels_images_are_spread_evenly(total: int, count: int) -> None:
    found = places(seen(SpreadCollector(count), None, count=total))
    assert len(found) == min(total, count)
    assert found[0] == 0
    steps = [later - earlier for earlier, later in itertools.pairwise(found)]
    assert max(steps) <= 2 * min(steps)
    assert found[-1] >= total // 2 or total == count


def test_what_must_do_for_a_picture_that_is_due() -> None:
    assert not seen(SpreadCollector(4), [0] * 8).usable
    assert seen(SpreadCollector(4), [0] * 8 + [1]).usable
    assert not seen(SpreadCollector(4), [0, 1]).usable
    assert seen(SpreadCollector(4), None, count=4).usable
    assert seen(SpreadCollector(1), [0]).usable


def test_the_first_ones_up_to_a_number_of_pixels() -> None:
    assert places(seen(Collector(5), SORTED)) == [0, 1, 2, 3, 4]
    large = Collector(64, most_pixels=100)
    for _ in range(9):
        if not large.complete:
            large.observe(torch.zeros(1, 3, 5, 5))
    assert len(large) == 4


def test_one_of_each_class_sorted() -> None:
    found = seen(ClassCollector(classes=3), [2, 2, 0, -1, 1, 0])
    assert places(found) == [2, 4, 0]
    assert found.complete


def rows(*true: list[int]) -> Tensor:
    return torch.tensor([[1.0 if index in one else 0.0 for index in range(4)] for one in true])


@pytest.mark.parametrize("broken", [torch.nan, -torch.inf])
def test_images_that_hold_no_numbers_are_not_kept(broken: float) -> None:
    images = torch.rand(8, 3, 4, 4)
    images[:5, 1, 2, 3] = broken
    collector = SpreadCollector(3)
    collector.observe((images, torch.arange(8) % 4))
    kept, labels = collector.samples()
    assert kept.isfinite().all()
    assert labels.tolist() == [1, 2, 3]


def test_rows_of_several_true_classes_are_kept_and_spread_by_the_first() -> None:
    collector = SpreadCollector(3)
    collector.observe((torch.zeros(4, 1, 2, 2), rows([1], [1, 3], [1, 2, 3], [])))
    collector.observe((torch.zeros(2, 1, 2, 2), rows([3], [0])))
    kept = collector.batch()
    assert kept.labels is not None
    assert kept.truths is not None
    assert kept.labels.tolist() == [1, -1, 3]
    assert kept.truths.dtype == torch.bool
    assert kept.truths.int().tolist() == [[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


def test_one_hot_rows_are_plain_labels() -> None:
    collector = SpreadCollector(3)
    collector.observe((torch.zeros(3, 1, 2, 2), rows([2], [0], [1])))
    assert collector.batch().truths is None
    assert collector.samples()[1].tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("batches", "expected"),
    [
        ([[0.5, 23.0], [7.25, 1.0]], [0.5, 23.0, 7.25]),
        ([[0.0, 1.0], [7.25, 1.0]], [0.0, 1.0, 7.25]),
        ([[[0.5, 2.0], [1.5, 3.0], [0.25, 9.0]]], [[0.5, 2.0], [1.5, 3.0], [0.25, 9.0]]),
    ],
)
def test_numbers_to_be_predicted_are_no_labels(batches: Any, expected: Any) -> None:
    collector = Collector(3)
    for values in batches:
        collector.observe((torch.zeros(len(values), 1, 2, 2), torch.tensor(values)))
    kept = collector.batch()
    assert kept.labels is not None
    assert kept.values is not None
    assert kept.labels.tolist() == [-1, -1, -1]
    assert kept.values.tolist() == expected


def test_zeros_and_ones_alone_are_classes() -> None:
    collector = Collector(3)
    collector.observe((torch.zeros(3, 1, 2, 2), torch.tensor([0.0, 1.0, 1.0])))
    assert collector.batch().values is None
    assert collector.samples()[1].tolist() == [0, 1, 1]
