"""The suite as one callback is the suite as a list: pictures, names, state, report."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import pickle
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from tests.helpers import tiny
from vis_callbacks import DefaultSuite, Filters, Occlusion, Report, default_suite as suite
from vis_callbacks._lightning import LightningCallback
from vis_callbacks.run.hooks import RunHooks

NAMES = ["Filters", "Activations", "Saliency", "FineCAM", "ClassAppearance"]


def fit(folder: Path, callbacks: list[Any], *, package: str = tiny.PACKAGES[0], **options: Any) -> Any:
    trainer = tiny.trainer(folder, callbacks, package=package, **options)
    trainer.fit(tiny.module(package), tiny.loader(32), tiny.loader(16, seed=1))
    return trainer


def store(folder: Path) -> list[tuple[Any, ...]]:
    records = [{**record, "time": 0, "seconds": 0} for record in tiny.records(folder)]
    files = [path.read_bytes() for path in tiny.files_of(folder, records)]
    return [(*record.items(), data) for record, data in zip(records, files, strict=True)]


@pytest.mark.parametrize("package", tiny.PACKAGES)
def test_one_callback_makes_the_pictures_of_the_list(package: str, tmp_path: Path) -> None:
    one = DefaultSuite()
    fit(tmp_path / "list", suite(), package=package)
    fit(tmp_path / "one", [one], package=package)
    assert store(tmp_path / "one") == store(tmp_path / "list") != []
    made = {(record["callback"], record["epoch"]) for record in tiny.records(tmp_path / "one")}
    assert {name for name, epoch in made if epoch == 2} == set(NAMES)
    assert one.callbacks[-1].path == tmp_path / "one" / "visualizations" / "report.html"
    assert one.callbacks[-1].path.is_file()


def test_training_is_the_same_with_and_without(tmp_path: Path) -> None:
    found = []
    for callbacks in ([], [DefaultSuite()], suite()):
        trainer = fit(tmp_path / str(len(found)), callbacks)
        found.append([parameter.detach().clone() for parameter in trainer.lightning_module.parameters()])
    for other in found[1:]:
        assert all(torch.equal(first, second) for first, second in zip(found[0], other, strict=True))


@pytest.mark.parametrize("first", [False, True])
def test_other_callbacks_stand_beside_it(first: bool, tmp_path: Path) -> None:
    others = [Occlusion(samples=2, window=4, stride=4), Filters("net.conv2")]
    fit(tmp_path, [*others, DefaultSuite()] if first else [DefaultSuite(), *others])
    names = {record["callback"] for record in tiny.records(tmp_path) if record["file"]}
    assert names == {*NAMES, "Occlusion", "Filters_2"}


@pytest.mark.parametrize("begun", [suite, lambda: [DefaultSuite()]], ids=["list", "one"])
def test_it_continues_from_a_checkpoint(begun: Any, tmp_path: Path) -> None:
    first = begun()
    fit(tmp_path / "begun", first, max_epochs=2).save_checkpoint(tmp_path / "two.ckpt")
    torch.load(tmp_path / "two.ckpt", weights_only=True)
    fit(tmp_path / "whole", suite(), max_epochs=3)
    trainer = tiny.trainer(tmp_path / "resumed", [DefaultSuite()], max_epochs=3)
    # Lightning warns of callbacks of the checkpoint that are missing from its own list.
    missing = pytest.warns(UserWarning, match="Please add the following callbacks") if len(first) > 1 else nullcontext()
    with missing:
        trainer.fit(tiny.module(), tiny.loader(32), tiny.loader(16, seed=1), ckpt_path=tmp_path / "two.ckpt")
    expected = [row for row in store(tmp_path / "whole") if dict(row[:-1])["epoch"] == 3]
    assert store(tmp_path / "resumed") == expected != []


def test_every_hook_of_a_callback_of_it_is_called() -> None:
    # The run acts on the hooks of `RunHooks`, whoever leads it; those that a technique adds must be handed on.
    hooks = [name for name in dir(LightningCallback) if name.startswith("on_") or name in ("setup", "teardown")]
    own = {
        name for callback in suite() for name in hooks if getattr(type(callback), name) is not getattr(RunHooks, name)
    }
    assert own <= {name for name in hooks if name in vars(DefaultSuite)}
    assert "on_train_batch_start" in own


def test_it_takes_what_the_list_takes() -> None:
    assert inspect.signature(DefaultSuite).parameters == inspect.signature(suite).parameters
    assert DefaultSuite(budget=None).callbacks[-1].budget is None
    assert [type(one) for one in DefaultSuite().callbacks] == [type(one) for one in suite()]


@pytest.mark.parametrize("make", [suite, lambda **options: DefaultSuite(**options).callbacks])
def test_how_batches_are_read_and_shown_can_be_said_for_all(make: Any, tmp_path: Path) -> None:
    names = ["north", "east", "south", "west"]
    ours = make(budget=None, class_names=names, batch_to_images=lambda batch: (batch["scan"][0], batch["scan"][1]))
    images, labels = next(iter(tiny.loader(16)))

    class Scans(tiny.module_class(tiny.PACKAGES[0])):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch["scan"], batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            return super().validation_step(batch["scan"], batch_idx)

    batches = DataLoader([{"scan": [images, labels]}], batch_size=None)
    tiny.trainer(tmp_path, ours).fit(Scans(), batches, batches)
    shown = {record["label"] for record in tiny.records(tmp_path) if record["callback"] == "Saliency"}
    assert shown
    assert shown <= {*names}


@pytest.mark.parametrize("through", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_it_can_be_copied_and_used_again(through: Any, tmp_path: Path) -> None:
    one = through(DefaultSuite())
    fit(tmp_path / "first", [one], max_epochs=1)
    fit(tmp_path / "second", [through(one)], max_epochs=1)
    assert store(tmp_path / "first") == store(tmp_path / "second") != []


@pytest.mark.skipif(importlib.util.find_spec("hydra") is None, reason="needs hydra-core")
@pytest.mark.parametrize("package", tiny.PACKAGES)
def test_hydra_instantiates_it(package: str, tmp_path: Path) -> None:
    from hydra.utils import instantiate

    config = {"_target_": "vis_callbacks.DefaultSuite", "budget": 0.1}
    trainer = instantiate(
        {
            "_target_": f"{package}.Trainer",
            "max_epochs": 1,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": str(tmp_path),
            "callbacks": [config, {"_target_": "vis_callbacks.Occlusion", "samples": 2, "window": 4, "stride": 4}],
        },
        _convert_="all",
    )
    trainer.fit(tiny.module(package), tiny.loader(32), tiny.loader(16, seed=1))
    assert {record["callback"] for record in tiny.records(tmp_path)} == {*NAMES, "Occlusion"}
    (one,) = [callback for callback in trainer.callbacks if type(callback) is DefaultSuite]
    assert isinstance(one.callbacks[-1], Report)
    assert one.callbacks[-1].budget == 0.1
