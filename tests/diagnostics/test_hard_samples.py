"""Hard samples of real trainings: wrong labels are found, and what cannot be followed is not made up."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.diagnostics.test_diagnostics import data
from tests.helpers import tiny
from vis_callbacks import HardSamples
from vis_callbacks.diagnostics.answer_history import image_keys

EXAMPLES = Path(__file__).parents[2] / "examples"


def mislabelled(count: int, wrong: int) -> tuple[TensorDataset, set[int]]:
    """Data of which the first labels are wrong, and the keys of these."""
    images, labels = data(count).tensors
    labels = labels.clone()
    labels[:wrong] = (labels[:wrong] + 1) % 4
    return TensorDataset(images, labels), set(image_keys(images[:wrong], labels[:wrong]).tolist())


def fit(folder: Path, callback: HardSamples, train: Any, module: Any = None, **options: Any) -> Any:
    trainer = tiny.trainer(folder, [callback], **{"max_epochs": 6, **options})
    loaders = DataLoader(train, batch_size=8, shuffle=True), DataLoader(data(64, seed=2), batch_size=8)
    trainer.fit(tiny.module() if module is None else module, *loaders)
    return trainer


def tags(folder: Path) -> set[str]:
    assert [record["error"] for record in tiny.records(folder) if record["error"]] == []
    return {record["tag"] for record in tiny.records(folder) if record["file"]}


def test_wrong_labels_are_the_hardest_images(tmp_path: Path) -> None:
    train, wrong = mislabelled(160, 8)
    callback = HardSamples(images=8, on_error="raise")
    linear = tiny.module(net=nn.Sequential(nn.Flatten(), nn.Linear(64, 4)))
    trainer = fit(tmp_path, callback, train, linear, max_epochs=5)
    assert trainer.callback_metrics["val_accuracy"] > 0.9
    found = callback.hardest(8)
    assert sum(one.key in wrong for one in found) >= 7
    assert all(len(one.history) == 5 for one in found)
    assert {"HardSamples/training-hardest", "HardSamples/training-confident"} <= tags(tmp_path)
    last = [one for one in tiny.records(tmp_path) if one["tag"].endswith("training-hardest")][-1]
    assert last["scalars"]["never right"] >= 7
    # The first pictures are the hardest images, by label and answer.
    names = [f"{one.label} → {one.answer} ({one.confidence:.0%})" for one in found]
    assert list(last["captions"])[:4] == names[:4]


@pytest.mark.slow
def test_of_digits_with_wrong_labels_the_hardest_are_those(tmp_path: Path) -> None:
    example = runpy.run_path(str(EXAMPLES / "digits.py"))
    training, _ = example["digits"]()
    images, labels = training.tensors
    random = torch.Generator().manual_seed(5)
    wrong = torch.randperm(len(labels), generator=random)[: len(labels) // 20]
    labels = labels.clone()
    labels[wrong] = (labels[wrong] + torch.randint(1, 10, (len(wrong),), generator=random)) % 10
    torch.manual_seed(5)
    callback = HardSamples(on_error="raise")
    trainer = tiny.trainer(tmp_path, [callback], max_epochs=3)
    train = DataLoader(TensorDataset(images, labels), batch_size=64, shuffle=True)
    trainer.fit(example["DigitClassifier"]("test_resnet"), train)
    keys = set(image_keys(images, labels)[wrong].tolist())
    assert sum(one.key in keys for one in callback.hardest(100)) >= 80


def test_it_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    train, _ = mislabelled(64, 4)
    fit(tmp_path / "begun", HardSamples(), train, max_epochs=2).save_checkpoint(tmp_path / "two.ckpt")
    torch.load(tmp_path / "two.ckpt", weights_only=True)
    callback = HardSamples()
    trainer = tiny.trainer(tmp_path / "resumed", [callback], max_epochs=3)
    trainer.fit(tiny.module(), DataLoader(train, batch_size=8), ckpt_path=tmp_path / "two.ckpt")
    assert {len(one.history) for one in callback.hardest()} == {3}


class Noisy(TensorDataset):
    """Other pixels each time."""

    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        return image + 0.01 * torch.rand_like(image), label


def test_augmented_images_have_no_history_but_answers(tmp_path: Path) -> None:
    train, _ = mislabelled(64, 8)
    callback = HardSamples(on_error="raise")
    fit(tmp_path, callback, Noisy(*train.tensors), max_epochs=3)
    shown = {(record["tag"], record["epoch"]) for record in tiny.records(tmp_path) if record["file"]}
    assert ("HardSamples/training-confident", 3) in shown
    assert ("HardSamples/training-hardest", 3) not in shown
    assert ("HardSamples/training-forgotten", 3) not in shown


def test_without_one_class_for_each_image_nothing_is_shown(tmp_path: Path) -> None:
    class Several(tiny.module_class(tiny.PACKAGES[0])):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return nn.functional.binary_cross_entropy_with_logits(self(batch[0]), batch[1].float())

        validation_step = None

    train = TensorDataset(torch.rand(16, 1, 8, 8), (torch.rand(16, 4) > 0.5).long())
    trainer = tiny.trainer(tmp_path, [HardSamples(on_error="raise")])
    trainer.fit(Several(), DataLoader(train, batch_size=8))
    assert tags(tmp_path) == set()


@pytest.mark.parametrize("options", [{"limit_val_batches": 0}, {"val_check_interval": 0.5}])
def test_it_follows_training_however_validation_runs(options: dict[str, Any], tmp_path: Path) -> None:
    train, _ = mislabelled(64, 8)
    callback = HardSamples(on_error="raise")
    fit(tmp_path, callback, train, max_epochs=3, **options)
    found = callback.hardest(8)
    assert {len(one.history) for one in found} == {3}
    # Each image is seen once an epoch, though validation reads what was noted in its middle; without validation the
    # network is known from the second batch on.
    everything = callback._histories["train"].state_dict()["table"]["history"]
    assert len(everything) == 64
    assert (everything == 0).sum(dim=0).tolist() in ([0, 0, 0], [8, 0, 0])


def test_nothing_is_left_at_the_network(tmp_path: Path) -> None:
    module = tiny.module()
    fit(tmp_path, HardSamples(), data(16), module, max_epochs=1)
    assert all(not one._forward_hooks and not one._forward_pre_hooks for one in module.modules())
