"""Every technique on the smallest model of every timm family, as a table.

``python benchmarks/zoo.py`` tries all families; names of families after it restrict it to these.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.helpers.zoo import Outcome, families, try_family


def main() -> None:
    chosen = sys.argv[1:] or families()
    print("| family | model | size | default layer | its map | failed | zero maps | s |", flush=True)
    print("|---|---|---|---|---|---|---|---|", flush=True)
    outcomes = []
    for family in chosen:
        outcomes.append(try_family(family))
        print(row(outcomes[-1]), flush=True)
        gc.collect()
    failed = [outcome for outcome in outcomes if outcome.failures]
    share = 100 * len(failed) / len(outcomes)
    print(f"\n{len(outcomes)} families, {len(failed)} with a failure ({share:.1f} %).")
    for outcome in failed:
        for technique, reason in outcome.failures.items():
            print(f"* {outcome.family} ({outcome.model}), {technique}: {reason}")


def row(outcome: Outcome) -> str:
    cells = (
        outcome.family,
        outcome.model,
        str(outcome.image_size),
        outcome.layer,
        outcome.map,
        ", ".join(outcome.failures),
        ", ".join(outcome.zero),
        f"{outcome.seconds:.0f}",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
