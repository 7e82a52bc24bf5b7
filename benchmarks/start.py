"""How long the package takes to open: imports, ``--help``, and the report of a run, each as a process of its own.

    python benchmarks/start.py [--log-dir DIR]

The report is that of a store of as many pictures as the digits example makes, or of a log directory. CPU seconds and
the largest memory of each process, the best of three.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from table import Tables, add_options

IMPORTS = {
    "`import torch, torchvision`": "import torch, torchvision",
    "the same and `vis_callbacks.functional`": "import torch, torchvision, vis_callbacks.functional",
    "`import vis_callbacks`": "import vis_callbacks",
}
PICTURES = 126


def measured(command: list[str]) -> tuple[float, float]:
    """Return the CPU seconds and the largest memory, in MB, of a process."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log-dir", type=Path, help="the report of this run is written")
    add_options(parser)
    options = parser.parse_args()
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    tables = Tables(options, "torchvision", "pytorch-lightning", threads=threads)
    # Loading torch alone takes seconds.
    commands = {name: ["-c", code] for name, code in IMPORTS.items() if not (options.tiny and "torch" in code)}
    commands["`vis-callbacks --help`"] = ["-m", "vis_callbacks.cli", "--help"]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        run, output = Path(folder) / "run", Path(folder) / "report.html"
        if options.log_dir is None:
            # Not here: a process that is started from a large one counts as large.
            code = f"from synthetic_store import write_store; write_store({str(run)!r}, {PICTURES})"
            subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=True)
        arguments = ["report", str(options.log_dir or run), "-o", str(output)]
        commands["`vis-callbacks report`"] = ["-m", "vis_callbacks.cli", *arguments]
        for name, command in commands.items():
            runs = [measured([sys.executable, *command]) for _ in range(1 if options.tiny else 3)]
            rows.append((name, f"{min(run[0] for run in runs):.2f}", f"{min(run[1] for run in runs):.0f}"))
    tables.put("start", ("", "CPU s", "MB"), rows)


if __name__ == "__main__":
    main()
