from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vis_callbacks.diagnostics import ledger
from vis_callbacks.diagnostics.ledger import Ledger, content_keys


def test_answers_are_counted_as_they_are_and_take_a_few_numbers_an_image() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(96, 50, generator=generator)
    labels = torch.randint(50, (96,), generator=generator)
    labels[::7] = -1
    images = torch.rand(96, 1, 8, 8, generator=generator)
    seen = Ledger(50)
    for start in range(0, 96, 32):
        part = slice(start, start + 32)
        seen.add_answers(logits[part], labels[part], images[part])
    assert sum(one.numel() for one in seen.answers) <= 5 * 96
    facts, known = seen.facts(), labels >= 0
    logits, labels, images = logits[known], labels[known], images[known]
    found, likely = logits.argmax(dim=1), logits.softmax(dim=1).sort(dim=1, descending=True)
    assert facts.answers == len(labels)
    assert facts.right == int((found == labels).sum())
    assert facts.confusion[int(labels[0])][int(found[0])] >= 1
    half = len(labels) // 2
    assert facts.cross_entropy == pytest.approx(float(F.cross_entropy(logits[half:], labels[half:])), rel=1e-5)
    gap = likely.values[:, 0] - likely.values[:, 1]
    denied = (found != labels) & (gap > 0.5)
    assert facts.doubted == int(denied.sum()) > 0
    assert facts.second == int((denied & (likely.indices[:, 1] == labels)).sum())
    worst = gap.where(found != labels, 0).argsort(descending=True)[:24]
    assert [(label, answer) for _, label, answer in seen.most_doubted] == [
        (int(labels[at]), int(found[at])) for at in worst if denied[at]
    ]
    assert torch.equal(seen.most_doubted[0][0], images[worst[0]])


def test_of_very_many_classes_there_is_no_table() -> None:
    seen = Ledger(20_000)
    seen.add_answers(torch.randn(4, 20_000), torch.arange(4), torch.rand(4, 1, 8, 8))
    facts = seen.facts()
    assert facts.confusion == ()
    assert facts.tail[1] > 0


def test_copies_are_looked_for_in_more_images_than_are_measured() -> None:
    seen = Ledger(2)
    for _ in range(3):
        seen.add_images(torch.rand(500, 1, 8, 8), torch.zeros(500).long())
    assert (sum(map(len, seen.keys)), seen.images) == (1500, ledger.MOST_IMAGES)
    assert seen.facts().images == ledger.MOST_IMAGES
    image = torch.rand(1, 3, 8, 8)
    for other in (image.flip(3), image.rot90(1, (2, 3)), image.roll(2, 3)):
        assert torch.equal(content_keys(other), content_keys(image))
    assert not torch.equal(content_keys(image + 1e-3), content_keys(image))
