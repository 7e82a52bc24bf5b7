"""What `InputImages` shows is what went into the network, whoever changed the batch on its way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import tiny
from vis_callbacks import InputImages, Samples
from vis_callbacks.event import Event, Moment, SharedPass


def fit(folder: Path, callback: InputImages, module: Any = None, **options: Any) -> Any:
    trainer = tiny.trainer(folder, [callback], **options)
    trainer.fit(tiny.module() if module is None else module, tiny.loader(16), tiny.loader(16, seed=1))
    return trainer


def shown(callback: InputImages) -> dict[str, Tensor]:
    """The pictures of the callback, by panel, in the loader's own space."""
    net = tiny.Net()
    samples = Samples(torch.rand(2, 1, 8, 8), torch.tensor([0, 1]), ("0", "1"), tuple(tiny.CLASSES))
    event = Event(net, Moment(1, 1), shared=SharedPass(net, samples, "predicted"))
    return {panel.name: torch.stack([tile.values for tile in panel.all_tiles]) for panel in callback.visualize(event)}


def test_it_shows_both_batches_with_their_labels(tmp_path: Path) -> None:
    callback = InputImages(images=4, on_error="raise")
    fit(tmp_path, callback)
    first = next(iter(tiny.loader(16)))
    pictures = shown(callback)
    assert torch.equal(pictures["training"], first[0][:4])
    assert torch.equal(pictures["validation"], next(iter(tiny.loader(16, seed=1)))[0][:4])
    records = [record for record in tiny.records(tmp_path) if record["file"]]
    assert {(record["tag"], record["epoch"]) for record in records} == {
        (f"InputImages/{name}", epoch) for name in ("training", "validation") for epoch in (1, 2)
    }
    (training, _) = (record for record in records if record["tag"].endswith("training"))
    assert training["captions"] == [tiny.CLASSES[label] for label in first[1][:4].tolist()]
    assert training["scalars"]["mean"] == pytest.approx(float(first[0][:4].mean()))


class AugmentsInTheStep(tiny.module_class(tiny.PACKAGES[0])):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step((batch[0].flip(3) * 0.5, batch[1]), batch_idx)


class AugmentsOnTheDevice(tiny.module_class(tiny.PACKAGES[0])):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return (batch[0].flip(3) * 0.5, batch[1]) if self.trainer.training else batch


class InPlace(tiny.Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.mul_(0.5))


@pytest.mark.parametrize("kind", [AugmentsInTheStep, AugmentsOnTheDevice])
def test_it_shows_what_went_into_the_network(kind: Any, tmp_path: Path) -> None:
    callback = InputImages(images=4, on_error="raise")
    fit(tmp_path, callback, kind())
    seen = next(iter(tiny.loader(16)))[0][:4].flip(3) * 0.5
    assert torch.equal(callback._seen["train"].images, seen)
    assert torch.equal(callback._seen["validation"].images, next(iter(tiny.loader(16, seed=1)))[0][:4])


def test_a_network_that_changes_its_images_in_place_got_them_as_they_were(tmp_path: Path) -> None:
    callback = InputImages(images=4, on_error="raise")
    fit(tmp_path, callback, tiny.module(net=InPlace()))
    assert torch.equal(shown(callback)["training"], next(iter(tiny.loader(16)))[0][:4])


def test_without_validation_it_shows_training_alone(tmp_path: Path) -> None:
    callback = InputImages(images=2, on_error="raise")
    fit(tmp_path, callback, limit_val_batches=0)
    assert {record["tag"] for record in tiny.records(tmp_path) if record["file"]} == {"InputImages/training"}


def test_a_compiled_module_is_not_compiled_anew(tmp_path: Path) -> None:
    module = tiny.module()
    module.net.compile(backend="eager")
    callback = InputImages(images=2, on_error="raise")
    fit(tmp_path, callback, module)
    assert torch.equal(shown(callback)["training"], next(iter(tiny.loader(16)))[0][:2])
    assert not module.net._forward_pre_hooks


@pytest.mark.parametrize("rows", [nn.functional.one_hot(torch.tensor([0, 1]), 4) | nn.functional.one_hot(
    torch.tensor([2, 1]), 4)])  # fmt: skip
def test_several_labels_are_named(rows: Tensor, tmp_path: Path) -> None:
    class Several(tiny.module_class(tiny.PACKAGES[0])):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return nn.functional.binary_cross_entropy_with_logits(self(batch[0]), batch[1].float())

        validation_step = None

    data = torch.utils.data.TensorDataset(torch.rand(2, 1, 8, 8), rows)
    trainer = tiny.trainer(tmp_path, [InputImages(class_names=tiny.CLASSES, on_error="raise")], max_epochs=1)
    trainer.fit(Several(), torch.utils.data.DataLoader(data, batch_size=2))
    (record,) = (one for one in tiny.records(tmp_path) if one["file"])
    assert record["captions"] == ["circle + star", "square"]
