"""Memory that the first event freed goes back to the system before training takes its own."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import tiny
from vis_callbacks import Saliency
from vis_callbacks.run.run import Run

FREED = """
from vis_callbacks.run.freed_memory import return_freed_memory
def resident():
    return 4096 * int(open("/proc/self/statm").read().split()[1])
blocks = [bytearray(b"1" * 60_000) for _ in range(4000)]
last = bytearray(b"1" * 60_000)  # the heap does not shrink below it
full = resident()
del blocks
kept = resident()
return_freed_memory()
print(full - kept, full - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep no freed memory")
def test_it_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    alone, returned = map(int, done.stdout.split())
    assert alone < 60_000_000
    assert returned > 200_000_000


def test_only_before_the_training_of_a_fit(tmp_path: Path) -> None:
    trainer = tiny.trainer(tmp_path, [Saliency(samples=2)], max_epochs=1)
    trainer.validate(tiny.module(), tiny.loader(8), verbose=False)
    assert "freed memory" not in Run.of(trainer).timer.seconds
    trainer.fit(tiny.module(), tiny.loader(16), tiny.loader(8))
    assert Run.of(trainer).timer.seconds["freed memory"] > 0
