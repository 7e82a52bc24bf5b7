"""A process that is killed leaves every picture made so far; one that is stopped also its report."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

RUN = """
import sys, time
import tiny
from pathlib import Path
from importlib import import_module
from vis_callbacks import ClassAppearance, Filters, Report, Saliency

folder, package = Path(sys.argv[1]), sys.argv[2]
pl = import_module(package)

class Slow(tiny.module_class(package)):
    def training_step(self, batch, batch_idx):
        if self.current_epoch == 3:
            (folder / "in_epoch_3").touch()
            time.sleep(60)
        return super().training_step(batch, batch_idx)

trainer = tiny.trainer(
    folder,
    [Filters(), Saliency(samples=2), ClassAppearance(["star"], steps=2), Report()],
    package=package,
    logger=pl.loggers.TensorBoardLogger(folder, name=None, version="run"),
    max_epochs=5,
)
trainer.fit(Slow(), tiny.loader(32), tiny.loader(16, seed=1))
"""
TAGS = {"Filters/net.conv1", "Saliency/sample_0", "Saliency/sample_1", "ClassAppearance/star"}


@contextmanager
def training(folder: Path, package: str = "pytorch_lightning") -> Iterator[subprocess.Popen[str]]:
    """A process that trains, and now is in its epoch 3 of 5, where it stays."""
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", RUN, str(folder), package],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + 240
        while not (folder / "in_epoch_3").exists():
            assert process.poll() is None, process.stdout.read() if process.stdout else ""
            assert time.monotonic() < deadline, "it never came to epoch 3"
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def epochs_by_tag(store: Path) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for line in (store / "panels.jsonl").read_text().splitlines():
        record = json.loads(line)
        with Image.open(store / record["file"]) as picture:
            picture.load()
        found.setdefault(record["tag"], set()).add(record["epoch"])
    return found


def test_a_killed_run_keeps_every_finished_epoch_and_the_command_makes_the_report(tmp_path: Path) -> None:
    with training(tmp_path) as process:
        # The last event before the kill may still be on its way to the disk, an earlier one may not.
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
    store = tmp_path / "run" / "visualizations"
    found = epochs_by_tag(store)
    assert set(found) == TAGS
    assert all(epochs >= {0, 1, 2} for epochs in found.values())
    assert not (store / "report.html").exists()
    command = [sys.executable, "-m", "vis_callbacks.cli", "report", str(tmp_path / "run")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert Path(printed) == store / "report.html"
    text = Path(printed).read_text()
    assert "ClassAppearance" in text
    assert "sample_1" in text
    events = EventAccumulator(str(tmp_path / "run"), size_guidance={"images": 0})
    events.Reload()
    for tag in TAGS:
        assert {event.step for event in events.Images(tag)} >= {0, 3, 7}


@pytest.mark.parametrize("package", ["pytorch_lightning", pytest.param("lightning.pytorch", marks=pytest.mark.slow)])
def test_ctrl_c_leaves_a_report_that_says_so(package: str, tmp_path: Path) -> None:
    with training(tmp_path, package) as process:
        os.kill(process.pid, signal.SIGINT)
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1, printed
    store = tmp_path / "run" / "visualizations"
    assert all(epochs == {0, 1, 2, 3} for epochs in epochs_by_tag(store).values())
    assert json.loads((store / "run.json").read_text())["status"] == "stopped by KeyboardInterrupt in epoch 4"
    assert "stopped by KeyboardInterrupt in epoch 4" in (store / "report.html").read_text()
