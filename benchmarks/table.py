"""Tables of README.md: each is written between its markers by the script that measures it, and says what it ran on.

In the file, a table is what stands between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

README = Path(__file__).parent / "README.md"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--tiny`` and ``--write``, which every script has."""
    parser.add_argument("--tiny", action="store_true", help="only try it out in seconds: the figures mean nothing")
    parser.add_argument(
        "--write",
        nargs="?",
        const=README,
        type=Path,
        metavar="FILE",
        help="write the tables between their markers in a file, the README.md of this folder unless given",
    )


class Tables:
    """Prints the tables of one run, and writes them where ``--write`` says.

    Args:
        options: What `add_options` read from the command line.
        packages: Those whose versions matter.
        threads: How many a process computes with.
        device: Where it computes; a table of an accelerator has markers of its own.
    """

    def __init__(self, options: argparse.Namespace, *packages: str, threads: int = 1, device: object = "cpu") -> None:
        if options.tiny and options.write is not None and options.write.resolve() == README:
            raise SystemExit("figures of --tiny mean nothing: give another file, as in --write FILE")
        self._file: Path | None = options.write
        self._device = str(device).partition(":")[0]
        threading = f"{threads} thread{'s' * (threads > 1)}"
        # What else the machine does, and not the run itself.
        load = f"load {os.getloadavg()[0]:.1f} before the run"
        machine = f"{_processor()}, {os.cpu_count()} cores, {threading}, {load}"
        accelerator = "" if self._device == "cpu" else f"{_accelerator()}; "
        versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", *packages))
        self._line = f"*Commit {commit()}; {versions}; {accelerator}{machine}{', tried out only' * options.tiny}.*"

    def put(self, name: str, head: Sequence[str], rows: Iterable[Sequence[object]], *notes: str) -> None:
        """Print a table with what it was measured on, and write it.

        Args:
            name: The name of its markers.
            head: The title of each column.
            rows: The cells.
            notes: Sentences of the run that belong below it, one paragraph each.
        """
        name = name if self._device == "cpu" else f"{name} on {self._device}"
        body = "\n\n".join([markdown(head, rows), *notes, self._line])
        print(f"\n{name}\n\n{body}", flush=True)
        if self._file is not None:
            write(self._file, name, body)


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def write(file: Path, name: str, body: str) -> None:
    """Replace what stands between the markers of a table."""
    text = file.read_text("utf-8")
    found = list(_between(name).finditer(text))
    if len(found) != 1:
        raise ValueError(
            f"{file.name} has {len(found)} pairs of <!-- {name}: begin --> and <!-- {name}: end -->, not 1"
        )
    start, end = found[0].span(1)
    file.write_text(f"{text[:start]}\n{body}\n{text[end:]}", "utf-8")


def tables_in(text: str) -> dict[str, str]:
    """Return what stands between markers, by name."""
    names = re.findall(r"<!-- (.+): begin -->", text)
    return {name: found[1] for name in names if (found := _between(name).search(text))}


def _between(name: str) -> re.Pattern[str]:
    escaped = re.escape(name)
    return re.compile(rf"<!-- {escaped}: begin -->\n(.*?)<!-- {escaped}: end -->", re.DOTALL)


def commit() -> str:
    """Return the commit of the files here; tables that were written since are no change."""
    root = README.parent.parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    found = git("rev-parse", "--short", "HEAD")
    changed = git("status", "--porcelain", "--", ".", ":!benchmarks/README.md")
    return found + "+changes" * bool(changed) if found else "unknown"


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _accelerator() -> str:
    torch = sys.modules["torch"]
    return str(torch.cuda.get_device_name())
