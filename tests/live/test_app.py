"""The application by its answers, in this process; the server by a real one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.report.stores import small_run
from vis_callbacks.live.app import Application
from vis_callbacks.live.runs import Runs, folders_of


def ask(application: Application, path: str, **query: Any) -> tuple[str, bytes]:
    said: list[str] = []
    environ = {"PATH_INFO": path, "QUERY_STRING": urlencode(query, doseq=True), "REQUEST_METHOD": "GET"}
    body = b"".join(application(environ, lambda status, headers: said.append(status)))
    return said[0][:3], body


@pytest.fixture
def application(tmp_path: Path) -> Application:
    for number in (2, 10, 1):
        small_run(tmp_path / "logs" / f"version_{number}")
    (tmp_path / "secret.png").write_bytes(b"secret")
    return Application(Runs({"": tmp_path / "logs"}))


def test_runs_are_in_natural_order(application: Application) -> None:
    assert json.loads(ask(application, "/changes")[1])["runs"] == ["version_1", "version_2", "version_10"]


@pytest.mark.parametrize(
    "file",
    ["../../../secret.png", "/etc/passwd", "run.json", "a\0.png", "x" * 5000 + ".png", "", "link.png", "Filters"],
)
def test_files_outside_the_store_and_those_that_are_no_pictures_are_refused(
    application: Application, tmp_path: Path, file: str
) -> None:
    store = tmp_path / "logs" / "version_1" / "visualizations"
    (store / "link.png").symlink_to(tmp_path / "secret.png")
    assert ask(application, "/picture", run="version_1", file=file)[0] == "404"
    inside = next(store.rglob("epoch*.png")).relative_to(store).as_posix()
    assert ask(application, "/picture", run="version_1", file=inside)[1].startswith(b"\x89PNG")


@pytest.mark.parametrize("run", ["../logs/version_1", "nothing", ""])
def test_only_runs_of_the_list_are_read(application: Application, run: str) -> None:
    assert ask(application, "/content", run=run)[0] == "404"


def test_whatever_is_written_changes_the_token(application: Application, tmp_path: Path) -> None:
    def token() -> str:
        return str(json.loads(ask(application, "/changes", run="version_1")[1])["token"])

    before = token()
    assert token() == before
    (tmp_path / "logs" / "version_1" / "visualizations" / "findings.json").write_text("{}")
    assert token() != before


def test_logdir_specs_name_their_folders(tmp_path: Path) -> None:
    small_run(tmp_path / "a")
    small_run(tmp_path / "b" / "version_3")
    runs = Runs(folders_of("", f"first:{tmp_path / 'a'},second:{tmp_path / 'b'}"))
    assert list(runs.all()) == ["first", "second/version_3"]
    assert folders_of("s3://bucket/logs") == {}


def test_a_store_that_was_set_aside_is_no_run(tmp_path: Path) -> None:
    store = small_run(tmp_path / "version_0")
    store.directory.rename(tmp_path / "version_0" / "visualizations.1")
    assert not Runs({"": tmp_path}).any()


def test_serve_shows_the_page_on_this_machine_alone_without_torch(tmp_path: Path) -> None:
    small_run(tmp_path / "version_0")
    code = (
        "import sys, threading, _thread; from vis_callbacks.cli import main\n"
        "threading.Thread(target=lambda: (sys.stdin.read(), _thread.interrupt_main()), daemon=True).start()\n"
        "main(sys.argv[1:]); print(*sys.modules)"
    )
    command = [sys.executable, "-c", code, "serve", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        assert b"alone.js" in urllib.request.urlopen(address).read()
        content = json.loads(urllib.request.urlopen(f"{address}content?run=version_0").read())
        assert len(content["pictures"]) == 9
        foreign = urllib.request.Request(address, headers={"Host": "example.org"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(foreign)
        process.stdin.close()
        loaded = set(process.stdout.read().split())
    assert "vis_callbacks.report.html" in loaded
    assert loaded & {"torch", "torchvision", "pytorch_lightning", "lightning", "matplotlib", "tensorboard"} == set()


def test_a_hundred_runs_are_listed_in_no_time(tmp_path: Path) -> None:
    for number in range(100):
        folder = tmp_path / f"version_{number}" / "visualizations"
        folder.mkdir(parents=True)
        (folder / "panels.jsonl").touch()
        for row in range(20):
            (folder / f"row{row}").mkdir()
    best = min(_seconds(Runs({"": tmp_path})) for _ in range(3))
    assert best < 0.05


def _seconds(runs: Runs) -> float:
    start = time.perf_counter()
    assert len(runs.all()) == 100
    return time.perf_counter() - start
