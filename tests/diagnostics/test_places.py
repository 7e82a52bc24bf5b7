"""Places that tell a class: a mark over varied ground is known by its place, an object by all of the image."""

from __future__ import annotations

import torch
from torch import Tensor

from vis_callbacks.diagnostics.facts import PlaceFacts
from vis_callbacks.diagnostics.ledger import Ledger
from vis_callbacks.diagnostics.places import place_facts


def told(images: Tensor, labels: Tensor) -> tuple[PlaceFacts, PlaceFacts]:
    ledger = Ledger(int(labels.max()) + 1)
    ledger.add_images(images, labels)
    ledger.settle()
    place, border, _ = place_facts(ledger)
    return place, border


def smooth(count: int, side: int = 28) -> Tensor:
    """Return varied images without sharp edges."""
    coarse = torch.rand(count, 1, 7, 7, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, side, mode="bilinear")


def test_a_translucent_mark_of_one_class_is_known_by_its_place() -> None:
    labels = torch.arange(600) % 6
    images = smooth(600)
    marked = labels == 4
    images[marked, :, 20:24, 18:24] = 0.3 * images[marked, :, 20:24, 18:24] + 2
    place, border = told(images, labels)
    assert (place.marked, place.repeated) == ((4,), False)
    assert place.score > 0.95
    assert place.beyond < 0.5
    left, top, right, bottom = place.box
    assert 0.55 < left < right < 0.9
    assert 0.6 < top < bottom < 0.9
    assert border.right < 0.5 * border.tried


def test_images_without_labels_are_of_no_class() -> None:
    labels = torch.where(torch.arange(400) % 2 == 0, -1, 1 + torch.arange(400) // 2 % 2)
    place, border = told(smooth(400), labels)
    known = labels >= 0
    assert (place, border) == told(smooth(400)[known], labels[known])


def test_a_class_that_is_brighter_everywhere_is_known_by_every_place() -> None:
    labels = torch.arange(400) % 2
    place, border = told(smooth(400) + 2 * labels[:, None, None, None], labels)
    assert place.right == place.tried == 200
    assert not place.marked
    assert place.beyond > 0.9
    assert border.beyond > 0.9


def test_a_border_tells_more_than_what_is_inside() -> None:
    labels = torch.arange(500) % 5
    images = smooth(500)
    frame = torch.ones(28, 28, dtype=torch.bool)
    frame[4:-4, 4:-4] = False
    images = torch.where(frame, labels[:, None, None, None].float(), images)
    _, border = told(images, labels)
    assert border.right == border.tried
    assert border.beyond < 0.5


def test_a_place_that_tells_no_more_than_the_frequent_class_tells_nothing() -> None:
    # In the corner all images are black.
    labels = (torch.arange(600) % 10 == 0).long()
    images = smooth(600)
    images[:, :, :6, :6] = 0
    place, border = told(images, labels)
    for found in (place, border):
        assert not found.marked
        assert found.beyond >= 0.9
