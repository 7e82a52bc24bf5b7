"""A checkpoint carries what the pictures need to go on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.data.test_samples import Taker
from tests.helpers import tiny
from tests.training.undisturbed import callback_classes, cheap
from vis_callbacks import ClassAppearance, Filters, Report, Saliency

PLAIN = (Tensor, bytes, str, int, float, bool, type(None))


def fit(folder: Path, *callbacks: Any, package: str = tiny.PACKAGES[0], epochs: int, **options: Any) -> Any:
    trainer = tiny.trainer(folder, callbacks, package=package, max_epochs=epochs)
    trainer.fit(tiny.module(package), tiny.loader(32), tiny.loader(24, seed=1, shuffle=True), **options)
    return trainer


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from leaves(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from leaves(item)
    else:
        yield value


@pytest.mark.parametrize("package", tiny.PACKAGES)
def test_a_checkpoint_of_every_callback_loads_with_weights_only(package: str, tmp_path: Path) -> None:
    callbacks = [cheap(kind) for kind in callback_classes()]
    fit(tmp_path, *callbacks, package=package, epochs=1).save_checkpoint(tmp_path / "one.ckpt")
    states = torch.load(tmp_path / "one.ckpt", weights_only=True)["callbacks"]
    assert {callback.state_key for callback in callbacks} <= set(states)
    for callback in callbacks:
        for leaf in leaves(states[callback.state_key]):
            assert type(leaf) in PLAIN, (callback.name, type(leaf))
    new = [cheap(kind) for kind in callback_classes()]
    fit(tmp_path, *new, package=package, epochs=2, ckpt_path=tmp_path / "one.ckpt")
    resumed = {record["callback"] for record in tiny.records(tmp_path) if record["epoch"] == 2 and record["file"]}
    assert resumed == {callback.name for callback in callbacks}


@pytest.mark.parametrize("report_first", [False, True])
@pytest.mark.parametrize("samples", [3, "per_class"])
def test_the_same_samples_go_on(samples: Any, report_first: bool, tmp_path: Path) -> None:
    def callbacks(taker: Taker) -> list[Any]:
        return [Report(), taker] if report_first else [Filters(), taker, Report()]

    first, second = Taker(samples=samples), Taker(samples=samples)
    torch.manual_seed(1)
    fit(tmp_path / "a", *callbacks(first), epochs=1).save_checkpoint(tmp_path / "one.ckpt")
    torch.manual_seed(2)
    fit(tmp_path / "b", *callbacks(second), epochs=3, ckpt_path=tmp_path / "one.ckpt")
    assert len(second.taken) == 2
    for taken in second.taken:
        assert torch.equal(taken.images, first.taken[0].images)
        assert torch.equal(taken.labels, first.taken[0].labels)


def test_the_colour_scale_of_filters_goes_on(tmp_path: Path) -> None:
    first, second = Filters(), Filters()
    fit(tmp_path / "a", first, epochs=1).save_checkpoint(tmp_path / "one.ckpt")
    assert first.limit is not None
    fit(tmp_path / "b", second, epochs=2, ckpt_path=tmp_path / "one.ckpt")
    assert second.limit == first.limit


def test_class_appearance_goes_on_from_its_image(tmp_path: Path) -> None:
    def pictures(folder: str, epochs: int, **options: Any) -> list[bytes]:
        callback = ClassAppearance(["star"], steps=4, recipe="simonyan", samples=2, restart_every=100)
        trainer = fit(tmp_path / folder, callback, epochs=epochs, **options)
        trainer.save_checkpoint(tmp_path / f"{folder}.ckpt")
        return [file.read_bytes() for file in tiny.files_of(tmp_path / folder, tiny.records(tmp_path / folder))]

    whole = pictures("whole", 2)
    assert len(whole) == 3
    assert [*pictures("begun", 1), *pictures("resumed", 2, ckpt_path=tmp_path / "begun.ckpt")] == whole


def test_the_schedule_goes_on(tmp_path: Path) -> None:
    options = {"every_n_epochs": 2}
    fit(tmp_path / "a", Filters(**options), epochs=3).save_checkpoint(tmp_path / "three.ckpt")
    fit(tmp_path / "b", Filters(**options), epochs=6, ckpt_path=tmp_path / "three.ckpt")
    assert [record["epoch"] for record in tiny.records(tmp_path / "b")] == [4, 6]


def test_callbacks_of_one_class_find_their_own_state(tmp_path: Path) -> None:
    def callbacks() -> list[Any]:
        return [Filters("net.conv2"), Filters("net.conv1"), Saliency(samples=2), Saliency(samples=3)]

    first, second = callbacks(), callbacks()
    fit(tmp_path / "a", *first, epochs=1).save_checkpoint(tmp_path / "one.ckpt")
    fit(tmp_path / "b", *second[::-1], epochs=2, ckpt_path=tmp_path / "one.ckpt")
    assert [one.limit for one in first[:2]] == [one.limit for one in second[:2]]
    assert first[0].limit != first[1].limit


def shown(picture: Tensor, index: int, state: Any) -> None:
    """A handler."""


def keys() -> list[str]:
    from functools import partial

    return [
        Saliency(samples=torch.ones(1, 3, 2, 2)).on_train().with_handler(shown).state_key,
        ClassAppearance(optimizer=partial(torch.optim.SGD, lr=1)).state_key,
        Saliency(transform=partial(shown, index=1)).state_key,
    ]


@pytest.mark.slow
def test_the_key_of_a_state_is_the_same_in_another_process() -> None:
    import os
    import subprocess
    import sys

    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        "from tests.training import test_resume; print(test_resume.keys())",
    ]
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    other = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert other == str(keys())
    assert "0x" not in other
