"""Pictures reach every logger that takes them, each with the real package."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.helpers import tiny
from vis_callbacks import Filters, Saliency, VisualizationWarning


def fit(folder: Path, loggers: Any) -> list[dict[str, Any]]:
    trainer = tiny.trainer(folder, [Filters(), Saliency(samples=2)], logger=loggers)
    trainer.fit(tiny.module(), tiny.loader(32), tiny.loader(16, seed=1))
    made = tiny.records(folder)
    assert len(made) == 9
    assert all(record["file"] for record in made)
    return made


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its own, of what it is built on
def test_weights_and_biases_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(save_dir=tmp_path, offline=True, project="digits")
    fit(tmp_path, logger)
    logger.experiment.finish()
    images = list(tmp_path.glob("wandb/offline-run-*/files/media/images/**/*.png"))
    assert len(images) == 9
    assert sum("Saliency" in str(image) for image in images) == 6


@pytest.mark.filterwarnings("ignore")  # its own, of what it is built on
@pytest.mark.parametrize("scheme", ["file:", "sqlite:///"])
def test_mlflow(scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    # MLflow 3 takes a store of files only where that is asked for.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store = f"{scheme}{tmp_path}/mlflow.db"
    logger = MLFlowLogger("digits", tracking_uri=store, artifact_location=str(tmp_path / "artifacts"))
    fit(tmp_path, logger)
    assert len(list((tmp_path / "artifacts").rglob("images/*.png"))) == 9
    dead = logger.experiment.get_metric_history(logger.run_id, "Filters/net.conv1/dead")
    assert [metric.value for metric in dead] == [0, 0, 0]


def test_several_at_once_and_numbers_alone(tmp_path: Path) -> None:
    names = ("one", "two")
    boards = [TensorBoardLogger(tmp_path, name=name, version="run") for name in names]
    made = fit(tmp_path, [CSVLogger(tmp_path, name="csv"), *boards])
    for name in names:
        found = EventAccumulator(str(tmp_path / name / "run"), size_guidance={"images": 0}).Reload()
        assert set(found.Tags()["images"]) == {record["tag"] for record in made}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_all_at_once_take_hostile_names_and_all_that_takes_pictures_gets_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    pytest.importorskip("mlflow")
    monkeypatch.setenv("WANDB_SILENT", "true")
    names = ["../../x", "<script>", "x" * 10_000, "😀", "😁"]
    weights = WandbLogger(save_dir=tmp_path / "w", offline=True, project="digits")
    flow = MLFlowLogger(
        "digits", tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", artifact_location=str(tmp_path / "artifacts")
    )
    board, csv = TensorBoardLogger(tmp_path, name="t", version="run"), CSVLogger(tmp_path, name="csv")
    (tmp_path / "w").mkdir()
    ours = [Saliency(samples=1, name=name) for name in names]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = tiny.trainer(tmp_path, ours, logger=[csv, flow, weights, board], max_epochs=1)
        trainer.fit(tiny.module(), tiny.loader(32), tiny.loader(16, seed=1))
    assert [str(one.message) for one in caught if issubclass(one.category, VisualizationWarning)] == []
    weights.experiment.finish()
    assert len(list(tmp_path.glob("w/wandb/offline-run-*/files/media/images/**/*.png"))) == 10
    assert len(list((tmp_path / "artifacts").rglob("images/*.png"))) == 10
    found = EventAccumulator(str(tmp_path / "t" / "run"), size_guidance={"images": 0}).Reload()
    assert [len(found.Images(tag)) for tag in found.Tags()["images"]] == [2] * 5
    assert len(list(tmp_path.rglob("visualizations"))) == 1
