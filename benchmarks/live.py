"""What the live page costs: TensorBoard's start, the list of runs, the page, the slider and a film strip.

    python benchmarks/live.py

TensorBoard is started as a process of its own, as its console script does, until it would listen.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from synthetic_store import ROWS, write_store
from table import Tables, add_options

from vis_callbacks.live.app import Application
from vis_callbacks.live.runs import Run, Runs
from vis_callbacks.live.strip import write_strip

BARE = "from tensorboard import default, program; program.TensorBoard(plugins=default.get_static_plugins())"
WITH = (
    f"{BARE}; from vis_callbacks.live.plugin import VisualizationsPlugin as P; from types import SimpleNamespace as N"
)
WITH += "; p = P(N(logdir='.', flags=None)); p.get_plugin_apps(); p.is_active()"

STEPS = """async () => {
    const slider = document.querySelector("#slider"), took = [];
    for (let at = 0; at <= +slider.max; at++) {
        const start = performance.now();
        slider.value = at;
        slider.dispatchEvent(new Event("input"));
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
        took.push(performance.now() - start);
    }
    return took;
}"""


def started(code: str, folder: Path) -> tuple[float, float]:
    """Return the seconds and MB of a process that runs some code."""
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", code], cwd=folder, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, code
    return time.perf_counter() - begin, usage.ru_maxrss / 1024


def listed(folder: Path, runs: int, pictures: int) -> float:
    """Return the milliseconds to list runs of so many pictures together."""
    for number in range(runs):
        store = folder / f"version_{number}" / "visualizations"
        for row in range(ROWS):
            (store / f"Saliency/{row}").mkdir(parents=True)
            for epoch in range(pictures // runs // ROWS):
                (store / f"Saliency/{row}/{epoch}.png").touch()
        (store / "panels.jsonl").touch()
    begin = time.perf_counter()
    assert len(Runs({"": folder}).all()) == runs
    return (time.perf_counter() - begin) * 1000


def slid(folder: Path, times: int = 1) -> list[float]:
    """Return the milliseconds of each step of the slider over all moments in Chromium; none without one."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        return []
    from playwright.sync_api import sync_playwright

    command = [sys.executable, "-m", "vis_callbacks.cli", "serve", str(folder)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
        sync_playwright() as playwright,
    ):
        assert server.stdout is not None
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(server.stdout.readline().strip())
        page.wait_for_selector(".card img[src]")
        took = [step for _ in range(times) for step in page.evaluate(STEPS)]
        browser.close()
        server.terminate()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    options = parser.parse_args()
    tables = Tables(options, "tensorboard", "pillow")
    rows: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_store(folder / "run", 40 if options.tiny else 2000)
        write_store(folder / "strip", ROWS * (2 if options.tiny else 50))
        if not options.tiny:
            bare, tab = (min(started(code, folder / "run") for _ in range(5)) for code in (BARE, WITH))
            rows.append(("start of TensorBoard, s and MB", f"{bare[0]:.2f}, {bare[1]:.0f}"))
            rows.append(("the same with the tab", f"{tab[0]:.2f}, {tab[1]:.0f}"))
        runs, pictures = (2, 80) if options.tiny else (60, 30_000)
        rows.append(
            (f"list of {runs} runs with {pictures:,} pictures, ms", f"{listed(folder / 'many', runs, pictures):.1f}")
        )
        application = Application(Runs({"": folder / "run"}))
        environ = {"PATH_INFO": "/content", "QUERY_STRING": "run=run", "REQUEST_METHOD": "GET"}
        begin = time.perf_counter()
        size = sum(map(len, application(environ, lambda *_: None)))
        rows.append(
            ("page of a run of 2,000 pictures, s and kB", f"{time.perf_counter() - begin:.2f}, {size / 1000:.0f}")
        )
        if took := slid(folder / "run"):
            cuts = statistics.quantiles(took, n=20)
            rows.append(("step of its slider, ms: median, p95", f"{cuts[9]:.0f}, {cuts[18]:.0f}"))
        wide = 40 if options.tiny else 2000
        write_store(folder / "wide" / "run", 4 * wide, rows=wide)
        if took := slid(folder / "wide", times=10):
            cuts = statistics.quantiles(took, n=20)
            rows.append((f"of a page of {wide:,} pictures at once, ms: median, p95", f"{cuts[9]:.0f}, {cuts[18]:.0f}"))
        begin = time.perf_counter()
        path = write_strip(Run("", folder / "strip").store, "Saliency/sample 3", folder / "strip.webp")
        spent = time.perf_counter() - begin
        rows.append(("film strip of 50 epochs, s and kB", f"{spent:.2f}, {path.stat().st_size / 1000:.0f}"))
    tables.put("live", ("", "measured"), rows)


if __name__ == "__main__":
    main()
