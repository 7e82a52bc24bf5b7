"""Runs of several processes, started by `test_ddp`: each process writes down what it ends with."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training import Case, train

from vis_callbacks import default_suite

RUNS: dict[str, Callable[[Path, str], Any]] = {}


def run(function: Callable[[Path, str], Any]) -> Callable[[Path, str], Any]:
    RUNS[function.__name__] = function
    return function


@run
def suite(folder: Path, package: str) -> Any:
    case = Case(trainer={"devices": 2, "strategy": "ddp"})
    start = time.time()
    without = train(case, package, list, folder / "without")
    print("without", time.time() - start, flush=True)
    start = time.time()
    found = train(case, package, default_suite, folder / "with")
    print("with", time.time() - start, flush=True)
    return {"without": without, "with": found}


if __name__ == "__main__":
    name, folder, package = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    result = RUNS[name](folder, package)
    (folder / f"rank{os.environ.get('LOCAL_RANK', 0)}.json").write_text(json.dumps(result))
