"""Figures cannot rot: each script still runs and writes its tables, and README's own figures are those of tables."""

from __future__ import annotations

import logging
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import table
from vis_callbacks import default_suite
from vis_callbacks.report.callback import Report
from vis_callbacks.run.budget import FREE

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
SCRIPTS = re.findall(r'^    "(\w+)",$', (BENCHMARKS / "all.py").read_text(), re.MULTILINE)
IN_PROCESSES = ("distributed", "memory", "faithfulness")
"""Too slow for every commit: the first two start processes that import torch and Lightning, the last tries 50 maps."""

MARKED = table.tables_in((BENCHMARKS / "README.md").read_text("utf-8"))


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copy(BENCHMARKS / "README.md", tmp_path))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a script leaves in this process is undone: it runs here because imports alone would take half a minute."""
    loggers = [logging.getLogger(), *map(logging.getLogger, logging.root.manager.loggerDict)]
    levels = {logger: logger.level for logger in loggers}
    modules = set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    monkeypatch.setattr(os, "environ", os.environ.copy())
    yield
    for logger, level in levels.items():
        logger.setLevel(level)
    for name in set(sys.modules) - modules:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).parent in (BENCHMARKS, ROOT / "examples"):
            del sys.modules[name]


def tables_of(script: str) -> set[str]:
    return {name for name in MARKED if name.partition(":")[0] == script and not name.endswith(" on cuda")}


def check_written(script: str, file: Path) -> None:
    written = table.tables_in(file.read_text("utf-8"))
    assert {name for name, text in written.items() if text != MARKED[name]} == tables_of(script)
    for name in tables_of(script):
        head, rule, *rows = re.findall(r"^\|.*\|$", written[name], re.MULTILINE)
        assert rows
        assert {line.count("|") for line in (head, rule, *rows)} == {head.count("|")}
        assert re.search(
            r"^\*Commit \w+.*; torch [\d.]+.* cores, \d+ threads?, load [\d.]+", written[name], re.MULTILINE
        )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("script", [script for script in SCRIPTS if script not in IN_PROCESSES])
def test_a_script_runs_on_a_tiny_model_and_writes_its_tables(
    script: str, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{script}.py", "--tiny", "--write", str(copied)])
    runpy.run_path(str(BENCHMARKS / f"{script}.py"), run_name="__main__")
    check_written(script, copied)


@pytest.mark.slow
@pytest.mark.parametrize("script", [*IN_PROCESSES, "overhead"])
def test_a_script_runs_in_a_process_of_its_own(script: str, copied: Path) -> None:
    command = [sys.executable, BENCHMARKS / "all.py", "--tiny", "--write", copied, "--only", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=copied.parent, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(rf"^{script} +\d+ s$", done.stdout, re.MULTILINE)
    check_written(script, copied)


def test_one_command_goes_on_when_a_script_fails(tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARKS / "all.py", "--tiny", "--write", tmp_path / "none.md"]
    failing = subprocess.run([*command, "--only", "start", "start"], capture_output=True, text=True)
    assert failing.returncode == 1
    assert failing.stdout.count("== start") == 2
    assert "failed: start" in failing.stderr


def test_every_script_is_run_by_the_one_command() -> None:
    scripts = {path.stem for path in BENCHMARKS.glob("*.py") if "def main()" in path.read_text()}
    assert set(SCRIPTS) == scripts - {"all", "gpu"}


def test_every_table_stands_between_markers() -> None:
    text = (BENCHMARKS / "README.md").read_text("utf-8")
    assert {name.removesuffix(" on cuda").partition(":")[0] for name in MARKED} == {*SCRIPTS, "gpu"}
    assert len(re.findall("<!-- .+: (?:begin|end) -->", text)) == 2 * len(MARKED)
    for found in MARKED.values():
        text = text.replace(found, "")
    assert not re.search(r"^\|", text, re.MULTILINE)


def test_tables_are_not_written_beside_markers_nor_from_tiny_models(copied: Path) -> None:
    with pytest.raises(ValueError, match="has 0 pairs of <!-- speed: begin -->"):
        table.write(copied, "speed", "| a |")
    command = [sys.executable, str(BENCHMARKS / "start.py"), "--tiny", "--write"]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "figures of --tiny mean nothing" in refused.stderr


def rows_of(name: str) -> dict[str, dict[str, str]]:
    """The cells of a table as it stands in benchmarks/README.md, by the first one of the row and by column."""
    lines = re.findall(r"^\|(.*)\|$", MARKED[name], re.MULTILINE)
    head, _, *rows = ([cell.strip() for cell in line.split("|")] for line in lines)
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


def claim(pattern: str) -> tuple[str, ...]:
    """The figures in the only place of README that says something."""
    (found,) = re.finditer(pattern.replace(" ", r"\s+"), (ROOT / "README.md").read_text("utf-8"))
    return found.groups()


def test_the_families_of_readme_are_those_of_the_zoo() -> None:
    ((families, row),) = rows_of("zoo").items()
    assert claim(r"on the smallest model of (\d+) of timm's (\d+) families, and none fails") == (row["run"], families)
    assert row["with a failure"] == "0"
    assert "`{}` ({} M parameters)".format(*claim(r"`(\w+)` \((\d+) M parameters\) was too large")) == row["too large"]


def test_the_budget_of_readme_is_kept() -> None:
    promised, free = claim(
        r"takes at most (\d+) % of trainings of ten minutes and more, and at most (\w+) seconds below"
    )
    (report,) = (one for one in default_suite() if isinstance(one, Report))
    assert report.budget == float(promised) / 100
    assert free == {20.0: "twenty"}[FREE]
    row = rows_of("overhead")["`default_suite()`"]
    assert float(row["training waited"]) + float(row["drawing"]) <= FREE
