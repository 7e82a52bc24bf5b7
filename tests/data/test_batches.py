"""What is read from a batch: which tensor is the images, which the labels, and what these are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import tv_tensors

from vis_callbacks.data.batches import find_batch, read_batch
from vis_callbacks.data.collectors import SpreadCollector
from vis_callbacks.errors import ConfigurationError

IMAGES, MASKS, LABELS = torch.rand(4, 3, 8, 8), torch.zeros(4, 1, 8, 8), torch.tensor([2, 0, 1, 1])
INDEX, ROWS = torch.arange(100, 104), nn.functional.one_hot(LABELS, 3)


@pytest.mark.parametrize(
    "batch",
    [
        (IMAGES, LABELS),
        (INDEX, IMAGES, LABELS),
        (IMAGES, torch.rand(4, 5), LABELS),
        (IMAGES, torch.rand(4), LABELS),
        (IMAGES, LABELS, INDEX),
        (LABELS, IMAGES),
        {"mask": MASKS, "image": IMAGES, "label": LABELS},
        {"segmentation_mask": MASKS, "scan": IMAGES, "label": LABELS},
        {"depth": MASKS, "pixel_values": IMAGES, "labels": LABELS},
        {"index": INDEX, "x": IMAGES, "y": LABELS},
        {"Image": IMAGES, "ID": INDEX, "Target": LABELS},
        {"group": INDEX, "img": IMAGES, "target": ROWS},
        {"image": IMAGES, "boxes": torch.rand(4, 4), "category": LABELS},
        {"inputs": {"image": IMAGES, "mask": MASKS}, "meta": {"idx": INDEX, "label": LABELS}},
        SimpleNamespace(mask=MASKS, image=IMAGES, weight=torch.rand(4), target=LABELS),
        ([IMAGES, IMAGES / 2], LABELS),
        (IMAGES, MASKS, LABELS),
        (IMAGES, 0.9 * ROWS + 0.1 / 3),
        (IMAGES, LABELS.int()[:, None]),
    ],
)
def test_images_and_labels_are_told_from_what_is_beside_them(batch: Any) -> None:
    found = find_batch(batch)
    assert torch.equal(found.images, IMAGES)
    assert found.labels is not None
    assert found.labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.long, torch.uint8, torch.bool, torch.bfloat16])
def test_rows_of_zeros_and_ones_say_which_classes_are_true(dtype: torch.dtype) -> None:
    rows = torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0], [0, 0, 1]])
    found = find_batch((IMAGES, rows.to(dtype)))
    assert found.labels is not None
    assert found.truths is not None
    assert found.labels.tolist() == [1, 0, -1, 2]
    assert torch.equal(found.truths, rows.bool())
    assert found.values is None


def test_uncertain_labels_are_not_true() -> None:
    rows = torch.tensor([[-1.0, 1.0], [float("nan"), 0.0], [1.0, 1.0], [0.0, -1.0]])
    found = find_batch((IMAGES, rows))
    assert found.truths is not None
    assert found.labels is not None
    assert found.truths.int().tolist() == [[0, 1], [0, 0], [1, 1], [0, 0]]
    assert found.labels.tolist() == [1, -1, 0, -1]


def test_mixed_labels_count_by_the_largest_part() -> None:
    mixed = 0.7 * ROWS + 0.3 * ROWS.flip(0)
    found = find_batch((IMAGES, mixed))
    assert found.labels is not None
    assert found.truths is None
    assert found.labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize("values", [torch.rand(4) * 90, torch.rand(4, 2) * 9, torch.tensor([3.0, 1.0, 0.0, 2.0])])
def test_numbers_are_values(values: Tensor) -> None:
    found = find_batch((IMAGES, values))
    assert found.labels is None
    assert found.truths is None
    assert found.values is not None
    assert torch.equal(found.values, values)


def test_what_is_to_be_ignored_has_no_label() -> None:
    assert find_batch((IMAGES, torch.tensor([-100, 3, -1, 0]))).labels.tolist() == [-1, 3, -1, 0]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ((torch.zeros(2, 3, 4, 8, 8), LABELS), ("(2, 3, 4, 8, 8)", "video or volume", "batch_to_images=")),
        ({"image": torch.zeros(2, 1, 4, 8, 8)}, ("video or volume", "batch[0][:, :, 0]")),
        ((torch.zeros(3, 8, 8), torch.tensor(1)), ("without a batch", "[None]")),
        ((torch.zeros(64, 28, 28), torch.zeros(64)), ("gray images without channels", "[:, None]")),
        ((torch.zeros(4, 28, 28, 3), LABELS), ("(N, H, W, C)", "permute(0, 3, 1, 2)", "(4, 28, 28, 3)")),
        ({"tokens": torch.zeros(4, 7), "y": []}, ("{tokens: tensor (4, 7)", "(N, C, H, W)", "batch_to_images=")),
        ({f"part {at}": [torch.zeros(4, 7)] * 9 for at in range(30)}, ("batch_to_images=",)),
    ],
)
def test_what_has_no_images_is_described_with_what_to_do(batch: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        find_batch(batch)
    assert all(word in str(caught.value) for word in words), caught.value
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("shape", [(4, 8, 128, 1), (4, 3, 8, 3), (4, 4, 64, 3), (4, 12, 200, 3)])
def test_narrow_images_are_images(shape: tuple[int, ...]) -> None:
    assert find_batch(torch.zeros(shape)).images.shape == shape


def test_subclasses_become_plain_tensors() -> None:
    collector = SpreadCollector(2)
    collector.observe((tv_tensors.Image(IMAGES), LABELS.as_subclass(Named)))
    kept = collector.batch()
    assert type(kept.images) is Tensor
    assert type(kept.labels) is Tensor
    assert torch.equal(kept.images, IMAGES[:2])


def test_tensors_of_monai_become_plain_tensors() -> None:
    data = pytest.importorskip("monai.data")
    collector = SpreadCollector(2)
    collector.observe({"image": data.MetaTensor(IMAGES), "label": LABELS})
    assert type(collector.batch().images) is Tensor
    assert type(read_batch(lambda batch: batch["image"], {"image": data.MetaTensor(IMAGES)}).images) is Tensor


class Named(Tensor):
    """A subclass as libraries make them."""


def test_a_reader_may_give_labels_of_any_kind() -> None:
    rows = torch.tensor([[1, 1], [0, 1], [0, 0], [1, 0]])
    assert read_batch(lambda batch: (batch, rows), IMAGES).truths is not None
    assert read_batch(lambda batch: (batch, torch.rand(4) + 2), IMAGES).values is not None
    assert read_batch(lambda batch: (batch, [2, 0, 1, 1]), IMAGES).labels.tolist() == LABELS.tolist()  # type: ignore[union-attr]
    assert read_batch(lambda batch: batch, IMAGES).labels is None


TABLE = torch.tensor([[1, 1, 1], [0, 1, 1], [1, 0, 0], [1, 1, 0]])
SORTED = torch.tensor([0, 0, 1, 3])


@pytest.mark.parametrize(
    ("batch", "classes", "expected"),
    [
        ((IMAGES, TABLE, SORTED), 4, SORTED),
        ((IMAGES, TABLE, SORTED), None, SORTED),
        ((IMAGES, torch.ones(4, 3), SORTED), None, SORTED),
        ((IMAGES, SORTED, TABLE), None, SORTED),
        # As wide as there are classes, the rows are labels.
        ((IMAGES, TABLE, torch.tensor([1, 0, 1, 0])), 3, TABLE),
        ((IMAGES, TABLE, torch.tensor([812, 4, 77, 3])), 40, TABLE),
        # Numbers that count the images are none of classes.
        ((IMAGES, TABLE, torch.arange(8, 12)), None, TABLE),
        ((IMAGES, torch.eye(4)[SORTED], torch.tensor([9, 0, 3, 3])), None, SORTED),
        ({"image": IMAGES, "label": TABLE, "sex": SORTED}, None, TABLE),
        # Nor beside numbers of classes, nor what is too large for them.
        ((IMAGES, torch.arange(8, 12), SORTED), None, SORTED),
        ((IMAGES, torch.tensor([31, 4, 8, 0]), SORTED), 4, SORTED),
        ((IMAGES, SORTED, torch.arange(4)), 4, SORTED),
        ((IMAGES, torch.arange(4), torch.tensor([31, 4, 8, 0])), 4, torch.arange(4)),
        ({"image": IMAGES, "table": TABLE, "diagnosis": SORTED}, None, SORTED),
    ],
)
def test_labels_are_told_from_what_may_be_labels_too(batch: Any, classes: Any, expected: Tensor) -> None:
    found = find_batch(batch, classes)
    assert found.labels is not None
    if expected.ndim == 2:
        assert found.truths is not None
        assert torch.equal(found.truths, expected.bool())
    else:
        assert torch.equal(found.labels, expected)
