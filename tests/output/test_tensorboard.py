"""Event files, read back: tags, and an x-axis that is that of the metrics logged at the same moment."""

from __future__ import annotations

import json
import logging
from collections import Counter
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.helpers import tiny
from vis_callbacks import ClassAppearance, Event, Filters, Panel, Report, Saliency, Tile, VisualizationCallback
from vis_callbacks.output.destinations import Destinations
from vis_callbacks.output.record import Record
from vis_callbacks.output.writer import Output


def events(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    found.Reload()
    return found


def image_steps(found: EventAccumulator) -> dict[str, list[int]]:
    return {tag: [event.step for event in found.Images(tag)] for tag in found.Tags()["images"]}


def scalar_steps(found: EventAccumulator, tag: str) -> list[int]:
    return [event.step for event in found.Scalars(tag)]


def fit(folder: Path, *callbacks: Any, module: Any = None, package: str = tiny.PACKAGES[0], **options: Any) -> Any:
    pl = import_module(package)
    settings = {"logger": pl.loggers.TensorBoardLogger(folder, name=None, version="run"), **options}
    ckpt_path = settings.pop("ckpt_path", None)
    trainer = tiny.trainer(folder, callbacks, package=package, **settings)
    module = tiny.module(package) if module is None else module
    trainer.fit(module, tiny.loader(32), tiny.loader(16, seed=1), ckpt_path=ckpt_path)
    return trainer


@pytest.mark.parametrize("package", tiny.PACKAGES)
def test_every_picture_of_every_epoch_is_there(package: str, tmp_path: Path) -> None:
    callbacks = [Filters(), Saliency(samples=3), ClassAppearance(classes=["star"], steps=2)]
    fit(tmp_path, *callbacks, package=package, max_epochs=12)
    found = events(tmp_path / "run")
    steps = image_steps(found)
    assert set(steps) == {
        "Filters/net.conv1",
        "ClassAppearance/star",
        *(f"Saliency/sample_{index}" for index in range(3)),
    }
    expected = [0, *scalar_steps(found, "val_loss")]
    assert len(expected) == 13
    assert all(found == expected for found in steps.values())
    picture = Image.open(BytesIO(found.Images("Saliency/sample_0")[0].encoded_image_string))
    assert min(picture.size) > 8
    assert scalar_steps(found, "Filters/net.conv1/dead") == expected
    # The store and TensorBoard tell the same story.
    assert {(record["tag"], record["step"]) for record in tiny.records(tmp_path)} == {
        (tag, step) for tag in steps for step in expected
    }


class Manual(tiny.module_class(tiny.PACKAGES[0])):  # type: ignore[misc]
    """Two optimizers, so that Trainer.global_step counts every batch twice."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        loss = super().training_step(batch, batch_idx)
        self.log("loss_of_step", loss, on_step=True)
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.01) for part in (self.net.conv1, self.net.head)]


class LogsSteps(tiny.module_class(tiny.PACKAGES[0])):  # type: ignore[misc]
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("loss_of_step", loss, on_step=True)
        return loss


SETTINGS = {
    "plain": {},
    "accumulation": {"accumulate_grad_batches": 3},
    "validation in mid-epoch": {"val_check_interval": 0.5},
    "both": {"val_check_interval": 0.5, "accumulate_grad_batches": 2},
    "validation every second epoch": {"check_val_every_n_epoch": 2},
}


@pytest.mark.parametrize(
    ("name", "module"),
    # Lightning accumulates only where it optimises itself.
    [(name, LogsSteps) for name in SETTINGS] + [(name, Manual) for name in ("plain", "validation in mid-epoch")],
)
def test_pictures_and_metrics_share_their_x_axis(name: str, module: Any, tmp_path: Path) -> None:
    callbacks = [
        Filters(name="AtValidation"),
        Filters(name="AtTrain", on="train"),
        Filters(name="AtStep", every_n_steps=1),
    ]
    fit(tmp_path, *callbacks, module=module(), max_epochs=4, **SETTINGS[name])
    found = events(tmp_path / "run")
    steps = {tag.split("/")[0]: values for tag, values in image_steps(found).items()}
    assert steps["AtValidation"] == [0, *scalar_steps(found, "val_loss")]
    assert steps["AtTrain"] == [0, *scalar_steps(found, "train_loss")]
    logged = set(scalar_steps(found, "loss_of_step"))
    assert set(steps["AtStep"]) == {0, *logged}


def test_a_run_that_is_resumed_makes_no_step_twice(tmp_path: Path) -> None:
    class Stumbles(tiny.module_class(tiny.PACKAGES[0])):  # type: ignore[misc]
        stumbles = True

        def on_train_epoch_start(self) -> None:
            if self.stumbles and self.current_epoch == 3:
                raise ZeroDivisionError("stumbled")

    checkpoints = import_module(tiny.PACKAGES[0]).callbacks.ModelCheckpoint
    keep = {"dirpath": tmp_path / "kept", "filename": "{epoch}", "save_top_k": -1}

    def run(module: Any, **options: Any) -> None:
        callbacks = [Filters(), Saliency(samples=2), Report(), checkpoints(**keep)]
        fit(tmp_path, *callbacks, module=module, max_epochs=5, enable_checkpointing=True, **options)

    with pytest.raises(ZeroDivisionError):
        run(Stumbles())
    before = (tmp_path / "run" / "visualizations" / "panels.jsonl").read_text().splitlines()
    module = Stumbles()
    module.stumbles = False
    run(module, ckpt_path=tmp_path / "kept" / "epoch=0.ckpt")
    for tag, steps in image_steps(events(tmp_path / "run")).items():
        assert sorted(steps) == [0, 3, 7, 11, 15, 19], tag
    records = tiny.records(tmp_path)
    assert max(Counter((record["tag"], record["step"]) for record in records).values()) == 1
    assert [record["epoch"] for record in records if record["callback"] == "Filters"] == [0, 1, 2, 3, 4, 5]
    assert (tmp_path / "run" / "visualizations" / "panels.jsonl").read_text().splitlines()[: len(before)] == before


@pytest.mark.parametrize("package", tiny.PACKAGES)
def test_every_tensorboard_logger_gets_the_pictures(package: str, tmp_path: Path) -> None:
    loggers = import_module(package).loggers
    two = [loggers.TensorBoardLogger(tmp_path / name, name=None, version="run") for name in "ab"]
    fit(tmp_path, Filters(), package=package, logger=[two[0], loggers.CSVLogger(tmp_path / "c"), two[1]])
    for name in "ab":
        assert image_steps(events(tmp_path / name / "run")) == {"Filters/net.conv1": [0, 3, 7]}
    assert len(tiny.records(tmp_path / "a" / "run")) == 3


@pytest.mark.parametrize("package", tiny.PACKAGES)
def test_without_a_logger_pictures_and_report_are_below_the_default_folder(
    package: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Lightning's loggers have their own handlers, and hand nothing on.
    monkeypatch.setattr(logging.getLogger(package), "handlers", [caplog.handler])
    report = Report()
    fit(tmp_path, Filters(), report, package=package, logger=False)
    assert report.path == tmp_path / "visualizations" / "report.html"
    assert f"The report with all pictures of this run: {report.path}" in caplog.text
    assert len(list(tiny.files_of(tmp_path, tiny.records(tmp_path)))) == 3
    assert list(tmp_path.rglob("events.out*")) == []


def test_a_csv_logger_alone_is_enough(tmp_path: Path) -> None:
    csv = import_module(tiny.PACKAGES[0]).loggers.CSVLogger(tmp_path, name=None, version="csv")
    report = Report()
    fit(tmp_path, Filters(), report, logger=csv)
    assert report.path == tmp_path / "csv" / "visualizations" / "report.html"
    assert len(tiny.records(tmp_path)) == 3


def test_names_that_tensorboard_would_change_are_changed_quietly(tmp_path: Path) -> None:
    names = ["a b", "ü/<script>", "x" * 300, "d"]
    fit(tmp_path, ClassAppearance(steps=2, class_names=names), max_epochs=1)
    assert len(image_steps(events(tmp_path / "run"))) == 4


class Same(VisualizationCallback):
    """Gives the same picture each time."""

    uses_samples = False

    def visualize(self, event: Event) -> list[Panel]:
        return [Panel("same", Tile(torch.zeros(3, 4, 4)))]


def test_the_caption_says_the_epoch_which_tensorboard_does_not_know(tmp_path: Path) -> None:
    fit(tmp_path, Same(), max_epochs=2)
    pictures = [one.encoded_image_string for one in events(tmp_path / "run").Images("Same/same")]
    assert len(set(pictures)) == 3
    stored = {file.read_bytes() for file in tiny.files_of(tmp_path, tiny.records(tmp_path))}
    assert len(stored) == 1


def test_a_finding_is_written_when_it_is_new_and_not_when_its_numbers_change(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="")
    output = Output(tmp_path, [logger])
    output.put(0, Record("A/one", "A", 0, 0), Panel("one", Tile(torch.zeros(1, 4, 4))), Destinations(), None, {})
    one = {"check": "scale", "severity": "note", "rows": [], "first_epoch": 1, "last_epoch": 1}
    alarm = {**one, "severity": "alarm"}
    for step in (
        {"findings": [{**one, "sentence": "3 of 10"}]},
        {"findings": [{**one, "sentence": "4 of 12"}]},
        {"findings": [{**alarm, "sentence": "9 of 12"}]},
        {"findings": [{**alarm, "sentence": "9 of 13"}]},
    ):
        output.tell({"checked": ["scale"], **step})
    assert output.drain(60)
    logger.experiment.flush()
    found = EventAccumulator(str(logger.log_dir), size_guidance={"tensors": 0}).Reload()
    texts = [one.tensor_proto.string_val[0].decode() for one in found.Tensors("visualizations/findings/text_summary")]
    assert ["3 of 10" in texts[0], "9 of 12" in texts[1], len(texts)] == [True, True, 2]
    stored = json.loads((tmp_path / "visualizations" / "findings.json").read_text())
    assert stored["findings"][0]["sentence"] == "9 of 13"
