"""Everything that is to be measured on an accelerator, in one run: ratios as on the CPU, and training undisturbed.

    python benchmarks/gpu.py [--device cuda] [--write]

Runs the passes of all techniques, a real training, the steps of class appearance, the cost of pictures in a training,
and the table of undisturbed trainings, each in a process of its own. Their tables have markers of their own on `cuda`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from table import Tables, add_options

HERE = Path(__file__).parent


def parts(options: argparse.Namespace) -> dict[str, list[str]]:
    """The commands, by what they measure."""
    device = ["--device", options.device]
    images = ["--images", "8" if options.device == "cpu" else "32"]
    written = ["--tiny"] * options.tiny + ([] if options.write is None else ["--write", str(options.write)])
    chosen = "accumulation and pytorch_lightning" if options.tiny else "pytorch_lightning"
    return {
        "passes": [str(HERE / "attribution.py"), *device, *images, *written],
        "fit": [str(HERE / "fit.py"), *device, *written],
        "class appearance": [str(HERE / "class_appearance.py"), "--speed", *device, *written],
        "overhead": [str(HERE / "overhead.py"), *written],
        "undisturbed": ["-m", "pytest", "-q", str(HERE.parent / "tests/training/test_undisturbed.py"), "-k", chosen],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--only", nargs="+", metavar="PART", help="some of the parts")
    add_options(parser)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device was found: run this where there is one, or with --device cpu to try it out")
    if options.device == "cpu" and options.write is not None:
        sys.exit("with --device cpu this only tries out what runs on an accelerator: leave out --write")
    tables = Tables(options, device=options.device)
    # Bit-identical results need deterministic kernels, which cuBLAS has with a workspace of this kind.
    settings = {"TINY_ACCELERATOR": options.device, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    rows, failed = [], []
    for part, command in parts(options).items():
        if not options.only or part in options.only:
            print(f"\n## {part}\n", flush=True)
            start = time.perf_counter()
            done = subprocess.run([sys.executable, *command], env=os.environ | settings, check=False)
            failed += [part] * (done.returncode != 0)
            rows.append((part, f"{time.perf_counter() - start:.0f}", "failed" if done.returncode else "done"))
    tables.put("gpu", ("part", "seconds", "came to an end"), rows)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
