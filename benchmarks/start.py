"""How long the package takes to open: imports, ``--help``, and the report of a run, each as a process of its own.

``python benchmarks/start.py [log_dir]``; the report is that of a log directory, such as one of ``examples/digits.py``.
CPU seconds and the largest memory of each process, the best of three.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

IMPORTS = {
    "`import torch, torchvision`": "import torch, torchvision",
    "the same and `vis_callbacks.functional`": "import torch, torchvision, vis_callbacks.functional",
    "`import vis_callbacks`": "import vis_callbacks",
}


def measured(command: list[str]) -> tuple[float, float]:
    """Return the CPU seconds and the largest memory, in MB, of a process."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    commands = {name: ["-c", code] for name, code in IMPORTS.items()}
    commands["`vis-callbacks --help`"] = ["-m", "vis_callbacks.cli", "--help"]
    with tempfile.TemporaryDirectory() as folder:
        if len(sys.argv) > 1:
            output = str(Path(folder) / "report.html")
            commands["`vis-callbacks report`"] = ["-m", "vis_callbacks.cli", "report", sys.argv[1], "-o", output]
        print("| | CPU s | MB |\n|---|---|---|")
        for name, arguments in commands.items():
            runs = [measured([sys.executable, *arguments]) for _ in range(3)]
            print(f"| {name} | {min(run[0] for run in runs):.2f} | {min(run[1] for run in runs):.0f} |", flush=True)


if __name__ == "__main__":
    main()
