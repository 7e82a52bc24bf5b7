"""Pictures reach every logger that takes them, each with the real package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from pytorch_lightning.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vis_callbacks import Filters, Saliency


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
def test_mlflow_in_files(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    store = f"sqlite:///{tmp_path}/mlflow.db"
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
