"""LightningCLI of both packages configures every callback, and says what is misspelt."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from tests.helpers import tiny
from tests.training.undisturbed import callback_classes
from vis_callbacks import DefaultSuite, Report

pytest.importorskip("jsonargparse")

YAML = """
trainer:
  max_epochs: 1
  accelerator: cpu
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: vis_callbacks.Filters
      init_args: {layer: net.conv2}
    - class_path: vis_callbacks.Saliency
      init_args:
        samples: per_class
        targets: label
        "on": [train, validation]
        display: [heatmap, overlay]
        mean: 0.5
        std: [0.25]
        class_names: [a, b, c, d]
    - class_path: vis_callbacks.Saliency
      init_args: {name: child, samples: 1, forward: net}
    - class_path: vis_callbacks.Saliency
      init_args: {name: nested, samples: 1, forward: net.branches.first}
    - class_path: vis_callbacks.Saliency
      init_args: {name: path, samples: 1, forward: tests.training.test_lightning_cli.of_net}
    - class_path: vis_callbacks.Saliency
      init_args: {name: colon, samples: 1, forward: "tests.training.test_lightning_cli:of_net"}
    - class_path: vis_callbacks.Report
      init_args: {forward: net}
"""


def of_net(module: Any, images: Tensor) -> Tensor:
    """What an import path in a configuration names."""
    return module.net(images)


def cli(package: str, folder: Path, *arguments: str, run: bool = True) -> Any:
    pl, command = import_module(package), import_module(f"{package}.cli").LightningCLI

    class Module(tiny.module_class(package)):  # type: ignore[misc]
        def __init__(self, lr: float = 0.05) -> None:
            super().__init__(lr=lr)
            self.net.branches = nn.ModuleDict({"first": tiny.Net()})

    class Data(pl.LightningDataModule):  # type: ignore[misc]
        def train_dataloader(self) -> Any:
            return tiny.loader(32)

        def val_dataloader(self) -> Any:
            return tiny.loader(16, seed=1)

    (folder / "run.yaml").write_text(YAML)
    given = [*(["fit"] if run else []), "--config", str(folder / "run.yaml"), *arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", *given])
        patch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's own
        return command(Module, Data, run=run, save_config_callback=None, seed_everything_default=0)


@pytest.mark.parametrize("package", tiny.PACKAGES)
def test_a_yaml_and_the_command_line_set_callbacks_up(package: str, tmp_path: Path) -> None:
    found = cli(
        package,
        tmp_path,
        f"--trainer.default_root_dir={tmp_path}",
        "--trainer.callbacks+=vis_callbacks.GradCAM",
        "--trainer.callbacks.samples=2",
        "--trainer.callbacks.layer=net.conv1",
        "--trainer.callbacks+=vis_callbacks.ClassAppearance",
        "--trainer.callbacks.classes=[0,star]",
        "--trainer.callbacks.steps=2",
    )
    assert found.trainer.current_epoch == 1
    records = tiny.records(tmp_path)
    assert [record["error"] for record in records if record["error"]] == []
    made = {record["callback"]: record["tag"] for record in records}
    assert made["Filters"] == "Filters/conv2"
    assert made["Saliency"] == "Saliency/d"
    assert made["ClassAppearance"] == "ClassAppearance/star"
    assert made.keys() == {"Filters", "Saliency", "GradCAM", "ClassAppearance", "child", "nested", "path", "colon"}
    (facts,) = tmp_path.rglob("run.json")
    about = json.loads(facts.read_text())
    assert about["subject"]["network"] == "net"
    shown = {name: (one["network"], one["forward"].rpartition(".")[2]) for name, one in about["subjects"].items()}
    assert shown == {
        "nested": ("net.branches.first", "first"),
        "path": ("", "of_net"),
        "colon": ("", "test_lightning_cli:of_net"),
    }
    assert (tmp_path / "visualizations" / "report.html").is_file()


@pytest.mark.parametrize("package", tiny.PACKAGES)
def test_the_suite_is_one_class_in_a_yaml(package: str, tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(
        "trainer:\n  callbacks:\n    - class_path: vis_callbacks.DefaultSuite\n      init_args: {budget: 0.1}\n"
    )
    found = cli(package, tmp_path, "--config", str(tmp_path / "suite.yaml"), f"--trainer.default_root_dir={tmp_path}")
    (one,) = [callback for callback in found.trainer.callbacks if type(callback) is DefaultSuite]
    assert one.callbacks[-1].budget == 0.1
    records = tiny.records(tmp_path)
    assert [record["error"] for record in records if record["error"]] == []
    assert {record["callback"] for record in records if record["epoch"] == 1} == {
        callback.name for callback in one.callbacks[1:-1]
    }
    assert (tmp_path / "visualizations" / "report.html").is_file()


@pytest.mark.parametrize("package", tiny.PACKAGES)
def test_the_suite_is_added_on_the_command_line(package: str, tmp_path: Path) -> None:
    added = ["--trainer.callbacks+=vis_callbacks.DefaultSuite", "--trainer.callbacks.budget=null"]
    found = [one for one in cli(package, tmp_path, *added, run=False).trainer.callbacks if type(one) is DefaultSuite]
    assert [one.callbacks[-1].budget for one in found] == [None]


@pytest.mark.parametrize("package", [tiny.PACKAGES[0], pytest.param(tiny.PACKAGES[1], marks=pytest.mark.slow)])
@pytest.mark.parametrize("callback", [*callback_classes(watchers=True), Report], ids=lambda kind: kind.__name__)
def test_every_callback_can_be_added_and_every_option_is_known(callback: type, package: str, tmp_path: Path) -> None:
    added = [f"--trainer.callbacks+=vis_callbacks.{callback.__name__}"]
    if callback is not Report:
        added += ["--trainer.callbacks.every_n_epochs=2", "--trainer.callbacks.name=mine"]
    added += ["--trainer.callbacks.forward=net"]
    ours = [one for one in cli(package, tmp_path, *added, run=False).trainer.callbacks if type(one) is callback]
    assert ours
    assert callback is Report or ours[-1].name == "mine"
    assert (ours[-1].forward_for_all if callback is Report else ours[-1].forward) == "net"


@pytest.mark.parametrize("package", tiny.PACKAGES)
@pytest.mark.parametrize("callback", ["Saliency", "Filters", "ClassAppearance"])
def test_a_misspelt_option_says_so(
    callback: str, package: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    added = [f"--trainer.callbacks+=vis_callbacks.{callback}", "--trainer.callbacks.every_n_epoch=2"]
    with pytest.raises(SystemExit) as stopped:
        cli(package, tmp_path, *added, run=False)
    assert stopped.value.code == 2
    assert "every_n_epoch" in capsys.readouterr().err


@pytest.mark.parametrize("package", tiny.PACKAGES)
def test_a_wrong_value_says_so(package: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    added = ["--trainer.callbacks+=vis_callbacks.Saliency", "--trainer.callbacks.on_error=ignore"]
    with pytest.raises(SystemExit):
        cli(package, tmp_path, *added, run=False)
    said = capsys.readouterr().err
    assert "on_error" in said
    assert "ignore" in said
