"""Makes all tables: runs every script here, one after the other, each as a process of its own.

    python benchmarks/all.py --write

A script that fails is named at the end, and the others still run. `gpu.py` is not among them: it needs an accelerator.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from table import add_options

HERE = Path(__file__).parent
SCRIPTS = (
    "start",
    "live",
    "overhead",
    "drawing",
    "fit",
    "attribution",
    "memory",
    "growth",
    "distributed",
    "warm_start",
    "realism",
    "diagnostics",
    "class_appearance",
    "faithfulness",
    "zoo",
)
"""The quick ones first."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=SCRIPTS, help="some of the scripts")
    add_options(parser)
    options = parser.parse_args()
    arguments = ["--tiny"] * options.tiny + ([] if options.write is None else ["--write", str(options.write)])
    # What is measured is what lies here, whatever is installed.
    places = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    took: dict[str, str] = {}
    failed = []
    for script in options.only:
        print(f"\n== {script}", flush=True)
        start = time.perf_counter()
        done = subprocess.run([sys.executable, HERE / f"{script}.py", *arguments], env=environment, check=False)
        took[script] = f"{time.perf_counter() - start:7.0f} s"
        if done.returncode:
            failed.append(script)
            took[script] += ", failed"
    print("\n" + "\n".join(f"{script:<18}{spent}" for script, spent in took.items()))
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
