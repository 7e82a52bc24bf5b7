"""The main job as a stranger meets it: the example's script, TensorBoard and the report in a real browser."""

from __future__ import annotations

import ast
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.browser import launched, needs_browser, visit
from vis_callbacks.diagnostics.registry import CHECKS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "examples" / "notebooks"
EPOCHS = 3


def run_example(name: str, *arguments: str, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("digits")
    printed = run_example("digits.py", "--epochs", str(EPOCHS), "--output", str(folder / "out"), cwd=folder)
    return folder / "out", printed


@pytest.fixture(scope="module")
def tensorboard(digits: tuple[Path, str]) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = re.search(r"tensorboard (--.*)", digits[1])
    assert command is not None, "the example prints the TensorBoard command"
    arguments = [sys.executable, "-m", "tensorboard.main", *command[1].split(), "--port", str(port)]
    server = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://localhost:{port}"
    try:
        for _ in range(120):
            try:
                if b"FineCAM" in urllib.request.urlopen(f"{address}/data/plugin/images/tags").read():
                    break
            except OSError:
                pass
            time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(30)


def test_digits_are_learned_and_paths_printed(digits: tuple[Path, str]) -> None:
    folder, printed = digits
    accuracy = re.search(r"validation accuracy ([\d.]+)%", printed)
    assert accuracy is not None
    assert float(accuracy[1]) > 95
    assert f"tensorboard --samples_per_plugin images=1000 --logdir {folder}" in printed
    report = re.search(r"report: +(\S+)", printed)
    assert report is not None
    assert Path(report[1]).is_file()


def test_the_store_holds_every_epoch_of_every_tag(digits: tuple[Path, str]) -> None:
    store = next(digits[0].rglob("visualizations"))
    records = [json.loads(line) for line in (store / "panels.jsonl").read_text().splitlines()]
    tags = {record["tag"] for record in records}
    # Nothing is wrong with this training; a note, of its first epochs perhaps, would have its evidence here.
    found = json.loads((store / "findings.json").read_text())
    assert [one for one in found["findings"] if one["severity"] == "alarm"] == []
    assert set(found["checked"]) == set(CHECKS)
    of_every_epoch = {tag for tag in tags if not tag.startswith("Diagnostics")}
    assert {tag.split("/")[0] for tag in of_every_epoch} == {"Filters", "FineCAM", "ClassAppearance"}
    assert len(of_every_epoch) == 21
    for tag in of_every_epoch:
        assert [record["epoch"] for record in records if record["tag"] == tag] == list(range(EPOCHS + 1))
    assert all((store / record["file"]).is_file() for record in records)


@needs_browser
def test_tensorboard_shows_the_pictures_of_every_epoch(tensorboard: str) -> None:
    window = {"width": 1400, "height": 1200}
    with launched() as browser, visit(browser, f"{tensorboard}/#images", viewport=window) as seen:
        seen.page.wait_for_selector("tf-image-loader img", timeout=60_000)
        for section in ("FineCAM", "Filters", "ClassAppearance"):
            assert seen.page.get_by_text(section, exact=True).count() >= 1
        card = seen.page.locator("tf-image-loader").first
        slider = card.locator("paper-slider#steps")
        assert slider.get_attribute("aria-valuemax") == str(EPOCHS)
        shown = set()
        for _ in range(EPOCHS + 1):
            seen.page.wait_for_timeout(300)
            image = card.locator("img")
            assert image.evaluate("image => image.complete && image.naturalWidth > 0")
            shown.add((card.locator(".heading-label span").first.inner_text(), image.get_attribute("src")))
            slider.focus()
            seen.page.keyboard.press("ArrowLeft")
        assert len(shown) == EPOCHS + 1
        assert not [error for error in seen.complaints if "Three.js" not in error]


@needs_browser
def test_the_report_opens_from_disk_and_the_slider_moves_the_pictures(digits: tuple[Path, str]) -> None:
    report = next(digits[0].rglob("report.html"))
    with launched() as browser, visit(browser, report.as_uri()) as seen:
        pictures = seen.page.locator("figure img")
        assert pictures.count() >= 21
        sources = "nodes => nodes.map(node => node.src)"
        last = pictures.evaluate_all(sources)
        seen.page.keyboard.press("Home")
        first = pictures.evaluate_all(sources)
        changed = sum(a != b for a, b in zip(first, last, strict=True))
        assert changed >= 21, "but for what stood out, each shows another epoch"
        assert seen.complaints == []
        assert [request for request in seen.requests if not request.startswith(("file:", "data:", "blob:"))] == []


def test_a_technique_of_ones_own(tmp_path: Path) -> None:
    printed = run_example("custom_technique.py", cwd=tmp_path)
    store = next(tmp_path.rglob("visualizations"))
    records = [json.loads(line) for line in (store / "panels.jsonl").read_text().splitlines()]
    assert {record["callback"] for record in records} == {"ShiftSensitivity"}
    assert all(record["error"] is None for record in records)
    assert {record["epoch"] for record in records} == {0, 1, 2, 3}
    assert "report.html" in printed


def test_the_other_lightning_package_needs_one_changed_line(tmp_path: Path) -> None:
    source = (ROOT / "examples" / "digits.py").read_text()
    changed = source.replace("import pytorch_lightning as pl", "import lightning.pytorch as pl")
    assert sum(a != b for a, b in zip(source.splitlines(), changed.splitlines(), strict=True)) == 1
    (tmp_path / "digits.py").write_text(changed)
    done = subprocess.run(
        [sys.executable, "digits.py", "--epochs", "1", "--output", "out"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    store = next((tmp_path / "out").rglob("visualizations"))
    assert (store / "report.html").is_file()
    epochs = {json.loads(line)["epoch"] for line in (store / "panels.jsonl").read_text().splitlines()}
    assert epochs == {0, 1}


def test_a_yaml_file_sets_everything_up(tmp_path: Path) -> None:
    more = ["--trainer.max_epochs=1", "--trainer.callbacks+=vis_callbacks.Activations", "--trainer.callbacks.samples=2"]
    run_example("digits_cli.py", "fit", "--config", str(ROOT / "examples" / "digits.yaml"), *more, cwd=tmp_path)
    (store,) = tmp_path.rglob("visualizations")
    records = [json.loads(line) for line in (store / "panels.jsonl").read_text().splitlines()]
    made = {record["callback"] for record in records if record["file"]}
    assert made == {"Filters", "Saliency", "GradCAM", "ClassAppearance", "Activations"}


def run_cells(notebook: Path) -> tuple[list[str], list[object]]:
    """Run a notebook; return its code, and what a notebook would show of the last lines that are expressions."""
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names: dict[str, object] = {}
    shown = []
    for number, source in enumerate(sources):
        *statements, last = ast.parse(source).body
        if not isinstance(last, ast.Expr):
            statements.append(last)
        exec(compile(ast.Module(statements, []), f"cell {number}", "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names))
    return sources, shown


def is_shown(value: object) -> bool:
    html, png = (getattr(value, name, lambda: None)() for name in ("_repr_html_", "_repr_png_"))
    return bool((html and "<iframe" in html) or (png and png.startswith(b"\x89PNG")))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "notebook", sorted((ROOT / "examples" / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem
)
def test_a_notebook_runs_and_shows_pictures(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.setattr(sys, "argv", ["notebook"])
    _, shown = run_cells(notebook)
    pictures = [value for value in shown if is_shown(value)]
    assert len(pictures) >= (1 if notebook.stem == "class_appearance" else 3)


def test_every_cell_of_the_notebook_shows_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    sources, shown = run_cells(ROOT / "examples" / "notebook.ipynb")
    assert len(sources) >= 10
    assert max(len(source.splitlines()) for source in sources) <= 3
    assert len(shown) >= 10
    assert all(map(is_shown, shown))
    assert (tmp_path / "out" / "espresso.png").is_file()
