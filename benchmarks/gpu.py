"""Everything that is to be measured on an accelerator, in one run: ratios as on the CPU, and training undisturbed.

    python benchmarks/gpu.py [--device cuda]

Runs the passes of all techniques, the steps of class appearance, the cost of pictures in a training, and the table of
undisturbed trainings, each in a process of its own, and prints the device's name first.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent


def parts(device: str) -> dict[str, list[str]]:
    """The commands, by what they measure."""
    images = "8" if device == "cpu" else "32"
    return {
        "passes": [str(HERE / "attribution.py"), "--device", device, "--images", images],
        "class appearance": [str(HERE / "class_appearance.py"), "--speed", "--device", device],
        "overhead": [str(HERE / "overhead.py")],
        "undisturbed": ["-m", "pytest", "-q", str(HERE.parent / "tests" / "undisturbed"), "-k", "pytorch_lightning"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--only", choices=list(parts("cuda")), help="one of the parts")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device was found: run this where there is one, or with --device cpu to try it out")
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "the CPU"
    print(f"{name}, torch {torch.__version__}", flush=True)
    failed = []
    for part, command in parts(arguments.device).items():
        if arguments.only in (None, part):
            print(f"\n## {part}\n", flush=True)
            # Bit-identical results need deterministic kernels, which cuBLAS has with a workspace of this kind.
            settings = {"TINY_ACCELERATOR": arguments.device, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
            done = subprocess.run([sys.executable, *command], env=os.environ | settings, check=False)
            failed += [part] * (done.returncode != 0)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
