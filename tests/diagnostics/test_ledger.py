from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vis_callbacks.diagnostics import ledger
from vis_callbacks.diagnostics.ledger import Ledger, content_keys, mark_keys


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
    # Of each batch the most denied; of all these the most denied first.
    gap, batches = gap.where(found != labels, 0), torch.arange(96)[known] // 32
    worst = torch.cat([(batches == at).nonzero()[:, 0][gap[batches == at].topk(4).indices] for at in range(3)])
    worst = worst[gap[worst].argsort(descending=True)]
    assert [(label, answer) for _, label, answer in seen.most_doubted] == [
        (int(labels[at]), int(found[at])) for at in worst if denied[at]
    ]
    assert torch.equal(seen.most_doubted[0][0], images[worst[0]])
    # However many batches there are, no more are kept.
    for _ in range(30):
        seen.add_answers(logits, labels, images)
    assert len(seen.most_doubted) == 24
    assert sum(len(one) for one, _ in seen.doubted) <= 24 + 8 * len(labels) // 8


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
    seen.settle()
    assert (sum(map(len, seen.keys)), seen.images) == (1500, ledger.MOST_IMAGES)
    assert seen.facts().images == ledger.MOST_IMAGES
    image = torch.rand(1, 3, 8, 8)
    for other in (image.flip(3), image.rot90(1, (2, 3)), image.roll(2, 3)):
        for neighbours in (False, True):
            keys = content_keys(torch.cat([image, other]), neighbours=neighbours)
            assert keys[0] == keys[1]
    assert not torch.equal(content_keys(image + 1e-3), content_keys(image))


def test_drawings_of_as_many_black_pixels_have_other_keys() -> None:
    order = torch.rand(2000, 64, generator=torch.Generator().manual_seed(0)).argsort(dim=1)
    images = (order < 20).float().view(-1, 1, 8, 8)
    assert len(content_keys(images).unique()) == 1
    assert len(content_keys(images, neighbours=True).unique()) == 2000
    seen = Ledger(2)
    seen.add_images(images, torch.zeros(2000).long())
    seen.settle()
    assert len(torch.cat(seen.keys).unique()) == 2000


@pytest.mark.parametrize("scale", [1.0, 1 / 255])
def test_images_of_other_pixels_have_other_keys(scale: float) -> None:
    # Pixels from 0 to 255 are floats whose last bits are all zero.
    images = torch.full((5000, 1, 8, 8), 7.0)
    images[:, 0, 3, 3] = torch.arange(5000) % 256
    images[:, 0, 5, 1] = torch.arange(5000) // 256
    pixels = images.flatten(1).sort(dim=1).values
    assert len(content_keys(images * scale).unique()) == len(pixels.unique(dim=0))
    assert content_keys(torch.full((2, 3, 8, 8), 9.0) * scale).tolist() == [0, 0]


def test_images_that_are_all_black_are_constant() -> None:
    seen = Ledger(2)
    seen.add_images(((torch.zeros(40, 3, 28, 28) - 0.1307) / 0.3081), torch.zeros(40).long())
    seen.settle()
    assert (seen.facts().constant, seen.facts().flat) == (40, (40, 40, 40))


def test_black_images_are_constant_though_each_channel_has_its_normalisation() -> None:
    images = torch.rand(40, 3, 16, 16)
    images[:6] = 0
    images = (images - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / 0.22
    seen = Ledger(2)
    seen.add_images(images, torch.zeros(40).long())
    seen.settle()
    assert seen.facts().constant == 6
    assert content_keys(images[:6]).tolist() == [0] * 6


def test_images_of_one_colour_are_constant_however_bright() -> None:
    seen = Ledger(2)
    images = torch.full((40, 3, 9, 9), 255.0)
    images[8:] += torch.randn(32, 3, 9, 9)
    seen.add_images(images, torch.zeros(40).long())
    seen.settle()
    facts = seen.facts()
    assert facts.constant == 8
    assert facts.contrast == pytest.approx(float(images.flatten(1).var(dim=1, correction=0).mean().sqrt()), rel=1e-4)


def test_images_with_alike_channels_are_gray_whatever_the_normalisation() -> None:
    images = torch.rand(32, 3, 16, 16)
    images[:8] = images[:8].mean(dim=1, keepdim=True)
    images = (images - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    for some, gray in ((images, 0.25), (images[:, :1], 0.0)):
        seen = Ledger(2)
        seen.add_images(some, torch.zeros(32).long())
        seen.settle()
        assert seen.facts().gray == gray


@pytest.mark.parametrize("size", [1, 32, 300])
def test_batches_put_aside_tell_what_one_batch_tells(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels, logits = torch.rand(700, 1, 12, 12), torch.randint(4, (700,)), torch.randn(700, 4)
    seen = Ledger(4)
    for batch in range(0, 700, size):
        part = slice(batch, batch + size)
        given, answers = images[part].clone(), logits[part].clone()
        seen.add_images(given, labels[part])
        given += 1  # a step may change its batch, and its outputs
        seen.add_answers(answers, labels[part], given)
        answers += 1
    seen.settle()
    # Looked at as they come.
    monkeypatch.setattr(ledger, "_SMALL", 0)
    whole = Ledger(4, range=seen.range)
    whole.add_images(images, labels)
    whole.add_answers(logits, labels, images)
    facts, expected = seen.facts(), whole.facts()
    assert facts.confusion == expected.confusion
    assert (facts.labels, facts.doubted, facts.second, facts.tail) == (
        expected.labels,
        expected.doubted,
        expected.second,
        expected.tail,
    )
    assert facts.cross_entropy == pytest.approx(expected.cross_entropy)
    assert facts.means == pytest.approx(expected.means)
    for name in ("keys", "thumbnails", "marks", "image_labels"):
        assert torch.equal(torch.cat(getattr(seen, name)), torch.cat(getattr(whole, name))), name
    assert len(torch.cat(seen.marks)) == 640
    assert seen.kept_labels == whole.kept_labels
    assert torch.equal(torch.stack(seen.kept), torch.stack(whole.kept))
    assert len(seen.most_doubted) == len(whole.most_doubted)


def test_a_step_without_answers_leaves_those_of_the_others() -> None:
    seen = Ledger(2)
    for step in range(3):
        seen.add_images(torch.rand(4, 1, 8, 8), torch.zeros(4).long())
        if step != 1:
            seen.add_answers(torch.tensor([[2.0, 1.0]] * 4), torch.zeros(4).long(), torch.rand(4, 1, 8, 8))
    seen.settle()
    assert (seen.facts().right, seen.facts().answers, seen.facts().labels) == (8, 8, (12, 0))


@pytest.mark.parametrize(("channels", "size", "step"), [(1, 12, 1), (3, 16, 1), (3, 80, 4), (2, 3, 1)])
def test_patches_have_the_same_key_where_their_levels_are_the_same(channels: int, size: int, step: int) -> None:
    levels = torch.randint(16, (6, channels, size, size), generator=torch.Generator().manual_seed(0)).float()
    levels[1], levels[2, :, :, : size // 2] = levels[0], levels[0, :, :, : size // 2]
    levels[3], levels[4, :, : size // 2] = 7, 7
    keys = mark_keys(levels / 15 * 3 - 1, -1.0, 2.0)
    if size < 4:
        assert keys.tolist() == [[[0]]] * 6
        return
    patches = levels.unfold(2, 4, step).unfold(3, 4, step).permute(0, 2, 3, 1, 4, 5).flatten(3)
    assert keys.shape == patches.shape[:3]
    assert torch.equal(keys == 0, patches.unflatten(3, (channels, -1)).aminmax(dim=4).max.sub(
        patches.unflatten(3, (channels, -1)).amin(dim=4)).amax(dim=3) < 4)  # fmt: skip
    told = keys != 0
    same = (patches[:, None] == patches[None]).all(dim=4)
    assert torch.equal((keys[:, None] == keys[None]) & told[:, None] & told[None], same & told[:, None] & told[None])
