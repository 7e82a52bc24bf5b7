"""Every technique by default on the smallest model of every timm family.

    python benchmarks/zoo.py [--families resnet vision_transformer]

Prints a line for each family, and makes a table of their numbers. Families whose smallest model is too large are left
out, and named.
"""

from __future__ import annotations

import argparse
import gc
import sys
import warnings
from pathlib import Path

import timm
import torch
from table import Tables, add_options

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.helpers.zoo import Outcome, families, smallest, try_family

LARGEST = 300
"""Millions of parameters of the largest model that is run."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=families(), metavar="FAMILY", help="all unless given")
    parser.add_argument("--threads", type=int, default=1)
    add_options(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tables = Tables(options, "torchvision", "timm", threads=options.threads)
    chosen = ["resnet"] if options.tiny else options.families
    sizes = {family: millions(smallest(family)) for family in chosen}
    outcomes = []
    for family in chosen:
        if sizes[family] <= LARGEST:
            outcomes.append(try_family(family))
            print(line(outcomes[-1]), flush=True)
            gc.collect()
    failed = [outcome for outcome in outcomes if outcome.failures]
    large = [f"`{family}` ({size:.0f} M parameters)" for family, size in sizes.items() if size > LARGEST]
    tables.put(
        "zoo",
        ("families", "run", "with a failure", "with a map that is zero everywhere", "too large"),
        [(len(chosen), len(outcomes), len(failed), sum(bool(one.zero) for one in outcomes), ", ".join(large))],
        *(
            f"* {outcome.family} ({outcome.model}), {technique}: {reason}"
            for outcome in failed
            for technique, reason in outcome.failures.items()
        ),
    )


def millions(name: str) -> float:
    """Return a model's parameters in millions, or 0 if it can be built in memory alone."""
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        try:
            return sum(parameter.numel() for parameter in timm.create_model(name).parameters()) / 1e6
        except (RuntimeError, NotImplementedError):
            return 0.0


def line(outcome: Outcome) -> str:
    """Return what came of a family."""
    where = f"{outcome.model}, {outcome.image_size}x{outcome.image_size}, {outcome.layer} of {outcome.map}"
    failed = f"failed: {', '.join(outcome.failures)}" if outcome.failures else "all well"
    zero = f"; zero maps: {', '.join(outcome.zero)}" if outcome.zero else ""
    return f"{outcome.family:<28}{outcome.seconds:5.0f} s  {where}: {failed}{zero}"


if __name__ == "__main__":
    main()
