"""A real TensorBoard process that has the plugin, whether the package is installed or not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
GROUP = "tensorboard_plugins"
READY = "at http://"


def places(folder: Path) -> list[str]:
    """The package's source, and its entry point where no installed distribution has it."""
    if any(one.name == "visualizations" for one in metadata.entry_points(group=GROUP)):
        return [str(ROOT)]
    text = (ROOT / "pyproject.toml").read_text()
    lines = text.split(f"[project.entry-points.{GROUP}]\n")[1].split("\n\n")[0]
    info = folder / "live_tab-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: live-tab\nVersion: 0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{lines.replace(chr(34), '')}\n")
    return [str(folder), str(ROOT)]


@contextmanager
def tensorboard(folder: Path, *arguments: str, first: Path | None = None, prefix: str = "") -> Iterator[str]:
    """Start TensorBoard and yield its address; `first` is a folder that stands before all others on the path."""
    paths = [*([str(first)] if first else []), *places(folder / "plugin")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "tensorboard.main", *arguments, "--port", "0", "--load_fast", "false"]
    said = folder / "tensorboard.log"
    with said.open("w") as log, subprocess.Popen(command, stdout=log, stderr=log, env=environment) as process:
        try:
            for _ in range(300):
                if READY in said.read_text():
                    break
                assert process.poll() is None, said.read_text()
                time.sleep(0.1)
            port = said.read_text().split(READY)[1].split("/")[0].rsplit(":", 1)[1].split()[0]
            yield f"http://localhost:{port}{prefix}"
        finally:
            process.terminate()
            process.wait(30)


def get(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=20) as answer:
        return bytes(answer.read())
