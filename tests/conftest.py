from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# What Lightning, torch and TensorBoard say about small runs on a CPU; whatever else is said fails a test.
_WELL_KNOWN = (
    r"ignore:The '\w+' does not have many workers",
    r"ignore:The number of training batches",
    r"ignore:You passed `dataloader_iter`",
    r"ignore:.*`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"ignore:Starting from v1.9.0, `tensorboardX` has been removed",
    r"ignore:.*`_get_pg_default_device` will be deprecated",
    r"ignore:The `srun` command is available",
    r"ignore:Checkpoint directory .* exists and is not empty",
    r"ignore:Experiment logs directory .* exists and is not empty",
    r"ignore:Your `val_dataloader`'s sampler has shuffling enabled",
    r"ignore:Your `test_dataloader`'s sampler has shuffling enabled",
    r"ignore:You have turned on `Trainer\(detect_anomaly=True\)`",
    r"ignore:Anomaly Detection has been enabled",
    r"ignore:`trainer.init_module` cannot fully support proper instantiation",
    r"ignore:The `LightningModule.configure_model",
    r"ignore:Swapping scheduler",
    r"ignore:Detected call of `lr_scheduler.step\(\)` before",
    r"ignore:Trainer already configured with model summary callbacks",
    r"ignore:You defined a `validation_step` but have no `val_dataloader`",
    r"ignore:Found \d+ module\(s\) in eval mode at the start of training",
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A running Chromium."""
    from tests.helpers.browser import launched  # here: most tests need no browser

    with launched() as browser:
        yield browser


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--change-filesystems", action="store_true", help="also run tests that mount a disk or change file attributes"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("changes_filesystems") and not item.config.getoption("--change-filesystems"):
        pytest.skip("mounts a disk or changes file attributes: ask for it with --change-filesystems")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts what runs beside it deaf to Ctrl-C, and that is inherited.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for line in _WELL_KNOWN:
        config.addinivalue_line("filterwarnings", line)
