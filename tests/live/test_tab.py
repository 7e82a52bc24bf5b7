"""The tab in a real TensorBoard and a real browser, while a run goes on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Frame, Page, expect

from tests.helpers import tiny
from tests.helpers.board import get, tensorboard
from tests.helpers.browser import Visit, needs_browser, visit
from tests.report.stores import record, small_run, squares

pytestmark = [needs_browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    for name in ("version_0", "version_1"):
        small_run(folder / name)
    return folder


@pytest.fixture(scope="module")
def host(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with tensorboard(tmp_path_factory.mktemp("host"), "--logdir", str(logs)) as address:
        yield address


def tab(page: Page) -> Frame:
    page.wait_for_selector("iframe")
    frame = next(one for one in page.frames if one != page.main_frame)
    frame.wait_for_selector(".card img[src]", state="attached")
    return frame


def complaints(seen: Visit) -> list[str]:
    return [one for one in seen.complaints if "Three.js" not in one]


def sources(frame: Frame) -> list[str]:
    return frame.eval_on_selector_all(".card img", "images => images.map(image => image.src)")


def test_a_new_picture_is_told_and_on_screen_in_five_seconds(chromium: Browser, host: str, logs: Path) -> None:
    with visit(chromium, f"{host}/#visualizations&run=version_0&epoch=1") as seen:
        frame = tab(seen.page)
        assert frame.text_content("#moment") == "epoch 1 · step 99"
        before = sources(frame)
        store = small_run(logs / "version_0")
        store.add(record("Saliency/sample 0", 4, 399), squares(7))
        expect(frame.locator(".newer")).to_have_text("New: epoch 4. Show", timeout=5000)
        # Nothing that the reader looks at has moved.
        assert frame.text_content("#moment") == "epoch 1 · step 99"
        assert sources(frame) == before
        frame.check("#follow")
        expect(frame.locator("#moment")).to_have_text("epoch 4 · step 399")
        store.add(record("Saliency/sample 0", 5, 499), squares(8))
        start = time.monotonic()
        expect(frame.locator("#moment")).to_have_text("epoch 5 · step 499", timeout=5000)
        shown = "img => img.decode().then(() => [img.naturalWidth, img.src])"
        width, source = frame.locator('[data-key="Saliency/sample 0"] img').evaluate(shown)
        assert time.monotonic() - start < 5
        assert width == 112
        assert "epoch0005" in source
        assert complaints(seen) == []


TRAINING = """
import sys, time
from pathlib import Path
import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger
from tests.helpers import tiny
from vis_callbacks import Filters, Report, Saliency

class Slowly(pl.Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        time.sleep(3)

folder = Path(sys.argv[1])
callbacks = [Filters(), Saliency(samples=2), Slowly(), Report()]
trainer = tiny.trainer(folder, callbacks, max_epochs=100, logger=TensorBoardLogger(folder))
trainer.fit(tiny.module(), tiny.loader(16), tiny.loader(16, seed=1))
"""


def test_a_training_is_followed_while_it_runs(chromium: Browser, tmp_path: Path) -> None:
    logs, root = tmp_path / "logs", Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    training = subprocess.Popen([sys.executable, "-c", TRAINING, logs], env=environment, **quiet)

    def newest() -> dict[str, Any]:
        made = [record for record in tiny.records(logs) if record["callback"] == "Saliency"] if logs.exists() else []
        return max(made, key=lambda record: record["epoch"], default={"epoch": -1})

    def wait_for(epoch: int) -> dict[str, Any]:
        end = time.monotonic() + 120
        while (record := newest())["epoch"] < epoch and time.monotonic() < end and training.poll() is None:
            time.sleep(0.05)
        assert record["epoch"] >= epoch
        return record

    try:
        wait_for(1)
        with (
            tensorboard(tmp_path, "--logdir", str(logs)) as address,
            visit(chromium, f"{address}/#visualizations") as seen,
        ):
            frame = tab(seen.page)
            frame.check("#follow")
            for _ in range(3):
                record = wait_for(newest()["epoch"] + 1)
                expect(frame.locator("#moment")).to_contain_text(f"epoch {record['epoch']} ", timeout=6000)
                image = frame.locator(f'[data-key="{record["tag"]}"] img')
                # Other pictures of the epoch may have come before.
                expect(image).to_have_attribute("src", re.compile(f"epoch{record['epoch']:04}"), timeout=6000)
                image.evaluate("img => img.decode()")
                assert time.time() - record["time"] < 5
            assert complaints(seen) == []
        assert training.poll() is None
    finally:
        training.kill()
        training.wait()


def test_the_slider_moves_every_row_and_the_address_opens_the_same(chromium: Browser, host: str) -> None:
    with visit(chromium, f"{host}/#visualizations&run=version_1") as seen:
        frame = tab(seen.page)
        last = sources(frame)
        frame.locator("#slider").fill("0")
        assert all(old != new for old, new in zip(last, sources(frame), strict=True))
        frame.locator("#slider").fill("2")
        seen.page.wait_for_url("**epoch=2**")
        frame.locator(".picture").nth(1).click()
        seen.page.wait_for_url("**large=1**")
        address = seen.page.url
        seen.page.go_back()
        expect(frame.locator("dialog")).to_be_hidden()
        seen.page.go_forward()
        expect(frame.locator("dialog")).to_be_visible()
        shown = frame.get_attribute("#large-image", "src")
        assert complaints(seen) == []
    with visit(chromium, address) as seen:
        frame = tab(seen.page)
        expect(frame.locator("#large-image")).to_have_attribute("src", shown or "")
        assert frame.text_content("#moment") == "epoch 2 · step 199"


def test_two_runs_are_compared(chromium: Browser, host: str) -> None:
    with visit(chromium, f"{host}/#visualizations&run=version_1") as seen:
        frame = tab(seen.page)
        frame.click(".chooser summary")
        frame.check("[aria-label='Compare version_0']")
        expect(frame.locator("h1")).to_have_text("version_1 · version_0")
        assert frame.locator(".card").count() == 6
        frame.locator("#slider").fill("1")
        frame.locator(".picture").nth(2).click()
        frame.click("text=Difference")
        expect(frame.locator("#other-image")).to_have_css("mix-blend-mode", "difference")
        frame.click("text=Swipe")
        frame.focus("#swipe")
        seen.page.keyboard.press("ArrowRight")
        assert frame.get_attribute("#swipe", "aria-valuenow") == "55"
        assert frame.locator("input[type=range]").count() == 1
        assert complaints(seen) == []


def test_rows_are_filtered_and_arranged(chromium: Browser, host: str) -> None:
    with visit(chromium, f"{host}/#visualizations&run=version_1&filter=dog") as seen:
        frame = tab(seen.page)
        expect(frame.locator(".card:visible")).to_have_count(1)
        frame.fill("#filter", "")
        expect(frame.locator(".card:visible")).to_have_count(3)
        frame.select_option("#by", "name")
        expect(frame.locator("section.by h2")).to_have_text(["conv1", "sample 0", "sample 1"])
        frame.select_option("#by", "")
        expect(frame.locator("section[id^=section-] .card")).to_have_count(3)


def test_a_film_strip_is_saved(chromium: Browser, host: str, tmp_path: Path) -> None:
    with visit(chromium, f"{host}/#visualizations&run=version_1&row=Saliency/sample+0&large=1") as seen:
        frame = tab(seen.page)
        with seen.page.expect_download() as download:
            frame.click("a[data-kind=gif]")
        download.value.save_as(tmp_path / "strip.gif")
        assert (tmp_path / "strip.gif").read_bytes().startswith(b"GIF89a")


def test_it_is_dark_with_tensorboard_and_fits_a_phone(chromium: Browser, host: str) -> None:
    phone = {"width": 380, "height": 740}
    with visit(chromium, f"{host}/?darkMode=true#visualizations", viewport=phone) as seen:
        frame = tab(seen.page)
        expect(frame.locator("html")).to_have_attribute("data-theme", "dark")
        assert frame.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("way", ["spec", "prefix"])
def test_it_works_however_tensorboard_is_started(chromium: Browser, logs: Path, tmp_path: Path, way: str) -> None:
    spec = ["--logdir_spec", f"one:{logs / 'version_0'},two:{logs / 'version_1'}"]
    prefixed = ["--logdir", str(logs), "--path_prefix", "/behind", "--bind_all"]
    arguments, prefix = (spec, "") if way == "spec" else (prefixed, "/behind")
    with (
        tensorboard(tmp_path, *arguments, prefix=prefix) as address,
        visit(chromium, f"{address}/#visualizations") as seen,
    ):
        frame = tab(seen.page)
        assert frame.text_content(".chooser summary") == ("Run: two" if way == "spec" else "Run: version_1")
        # TensorBoard itself misses fonts of its own behind a prefix.
        missed = (
            "performance.getEntriesByType('resource').filter(one => one.responseStatus >= 400).map(one => one.name)"
        )
        assert frame.evaluate(missed) == []


@pytest.mark.parametrize("fault", ["import", "store", "line", "picture", "gone"])
def test_nothing_breaks_tensorboard(chromium: Browser, tmp_path: Path, fault: str) -> None:
    logs = tmp_path / "logs"
    store = small_run(logs / "version_0")
    first = None
    if fault == "import":
        # NumPy, Pillow and Jinja2 are loaded by a request; the application itself by the start.
        first = tmp_path / "first"
        first.mkdir()
        (first / "jinja2.py").write_text("raise ImportError('no templates here')")
    elif fault == "store":
        (store.directory / "run.json").write_text("[" * 10_000)
    elif fault == "line":
        with (store.directory / "panels.jsonl").open("a") as lines:
            lines.write('{"tag": "Saliency/sam')
    elif fault == "picture":
        for picture in store.directory.rglob("*.png"):
            picture.write_bytes(b"no picture")
    with tensorboard(tmp_path, "--logdir", str(logs), first=first) as address:
        listing = json.loads(get(f"{address}/data/plugins_listing"))
        assert listing["visualizations"]["enabled"]
        with visit(chromium, f"{address}/#visualizations") as seen:
            seen.page.wait_for_selector("iframe")
            frame = seen.page.frames[1]
            if fault == "import":
                expect(frame.locator(".status")).to_contain_text("no templates here")
            elif fault == "picture":
                expect(frame.locator(".gap").first).to_contain_text("damaged")
            else:
                expect(frame.locator(".card img").first).to_be_visible()
            if fault == "line":
                expect(frame.locator("#notes")).to_contain_text("half a line")
            if fault == "gone":
                store.directory.rename(tmp_path / "away")
                expect(frame.locator(".status")).to_contain_text("is gone", timeout=8000)
        assert get(f"{address}/data/plugin/scalars/tags") is not None
