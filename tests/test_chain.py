"""torchbearer's chain: where pictures go, and when."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.helpers import tiny
from vis_callbacks import ClassAppearance, Filters, Saliency


def fit(folder: Path, *callbacks: Any, **options: Any) -> Any:
    import pytorch_lightning as pl

    logger = pl.loggers.TensorBoardLogger(folder, name=None, version="run")
    trainer = tiny.trainer(folder, callbacks, logger=logger, **options)
    trainer.fit(tiny.module(), tiny.loader(32), tiny.loader(16, seed=1))
    return trainer


def tensorboard_tags(folder: Path) -> list[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "run"), size_guidance={"images": 0})
    found.Reload()
    return sorted(tag.split("/")[0] for tag in found.Tags()["images"])


@pytest.fixture(autouse=True)
def no_windows() -> Iterator[None]:
    before = plt.get_backend()
    plt.switch_backend("agg")
    yield
    plt.close("all")
    plt.switch_backend(before)


def test_every_link_returns_the_callback() -> None:
    callback = Filters()
    links = [
        callback.on_train(),
        callback.on_val(),
        callback.on_test(),
        callback.to_file("a.png"),
        callback.to_tensorboard(),
        callback.to_pyplot(),
        callback.with_handler(print),
    ]
    assert all(link is callback for link in links)


def test_torchbearers_example(tmp_path: Path) -> None:
    callback = (
        ClassAppearance(["star"], steps=2, transform=lambda image: 1 - image)
        .on_val()
        .to_file(str(tmp_path / "cups" / "{name}_{epoch}.png"))
    )
    trainer = tiny.trainer(tmp_path, [callback])
    trainer.validate(tiny.module(), tiny.loader(16), verbose=False)
    assert [path.name for path in (tmp_path / "cups").iterdir()] == ["star_0.png"]


def test_stages_add_up_and_replace_the_default(tmp_path: Path) -> None:
    assert Filters().on_train().schedule.on == ("train",)
    assert Filters().on_train().on_test().schedule.on == ("train", "test")
    assert Filters(on="train").on_val().schedule.on == ("validation",)
    trainer = fit(tmp_path, Filters().on_test())
    assert tiny.records(tmp_path) == []
    trainer.test(trainer.lightning_module, tiny.loader(16), verbose=False)
    assert [record["stage"] for record in tiny.records(tmp_path)] == ["test"]


def test_files_are_named_by_their_fields(tmp_path: Path) -> None:
    pattern = str(tmp_path / "{callback}" / "{stage}_{epoch:02d}_{step}_{index}_{sample}_{label}_{predicted}.png")
    fit(tmp_path, Saliency(samples=2).to_file(pattern), max_epochs=1)
    records = tiny.records(tmp_path)
    expected = {
        f"fit_{r['epoch']:02d}_{r['step']}_{r['sample']}_{r['sample']}_{r['label']}_{r['predicted']}.png"
        for r in records
    }
    assert {path.name for path in (tmp_path / "Saliency").iterdir()} == expected
    assert len(expected) == 4
    # No dots of a class name lead out of the folder.
    names = ["../../up", "b", "c", "d"]
    fit(tmp_path / "b", Saliency(samples=1, class_names=names).to_file(str(tmp_path / "b" / "x" / "{label}.png")))
    assert {path.parent for path in (tmp_path / "b").rglob("*up.png")} == {tmp_path / "b" / "x"}


def test_a_named_destination_replaces_tensorboard_and_never_the_store(tmp_path: Path) -> None:
    fit(
        tmp_path,
        Filters(name="default"),
        Filters(name="file").to_file(str(tmp_path / "{epoch}.png")),
        Filters(name="both").to_file(str(tmp_path / "both_{epoch}.png")).to_tensorboard(),
        Filters(name="handled").with_handler(lambda *_: None),
    )
    assert tensorboard_tags(tmp_path) == ["both", "default"]
    assert {record["callback"] for record in tiny.records(tmp_path)} == {"default", "file", "both", "handled"}
    assert len(list(tmp_path.glob("*.png"))) == 6


def test_a_handler_gets_the_picture_its_index_and_what_is_known(tmp_path: Path) -> None:
    got: list[tuple[Tensor, int, Mapping[str, Any]]] = []
    fit(tmp_path, Saliency(samples=2).with_handler(lambda *arguments: got.append(arguments)), max_epochs=1)
    assert [(index, state["epoch"], state["sample"]) for _, index, state in got] == [
        (0, 0, 0),
        (1, 0, 1),
        (0, 1, 0),
        (1, 1, 1),
    ]
    picture, _, state = got[0]
    assert picture.ndim == 3
    assert picture.shape[0] == 3
    assert picture.dtype == torch.float32
    assert 0 <= picture.min() <= picture.max() <= 1
    assert state["label"] == "circle"
    assert state["tag"] == "Saliency/sample_0"
    assert 0 < state["probability"] <= 1


def test_a_handler_that_fails_is_said_and_loses_no_picture(tmp_path: Path) -> None:
    def handler(*_: Any) -> None:
        raise ValueError("hands full")

    with pytest.warns(match="Saliency made no pictures in epoch 0: ValueError: hands full"):
        fit(tmp_path, Saliency(samples=2).with_handler(handler))
    assert {record["epoch"] for record in tiny.records(tmp_path) if record["file"]} == {0, 1, 2}


def test_a_transform_is_applied_before_pictures_go_out(tmp_path: Path) -> None:
    got: list[Tensor] = []
    callback = Filters(transform=lambda picture: torch.zeros(1, 5, 7)).to_tensorboard()
    callback.to_file(str(tmp_path / "{epoch}.png")).with_handler(lambda picture, *_: got.append(picture))
    fit(tmp_path, callback, max_epochs=1)
    assert all(torch.equal(picture, torch.zeros(3, 5, 7)) for picture in got)
    for path in [*tmp_path.glob("*.png"), *tiny.files_of(tmp_path, tiny.records(tmp_path))]:
        with Image.open(path) as image:
            assert np.asarray(image).shape == (5, 7, 3)


def test_pyplot_shows_each_picture_in_a_figure_of_its_own_without_waiting(tmp_path: Path) -> None:
    fit(tmp_path, Saliency(samples=3).to_pyplot(), max_epochs=2)
    assert sorted(plt.get_figlabels()) == [f"Saliency/sample_{index}" for index in range(3)]
    (axes,) = plt.figure("Saliency/sample_0").axes
    assert axes.images[0].get_array().shape[2] == 3
