"""The loggers of a Trainer that take pictures, told by what they can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vis_callbacks.output.mlflow import MlflowSink
from vis_callbacks.output.record import Record
from vis_callbacks.output.tensorboard import TensorBoardSink
from vis_callbacks.output.wandb import WandbSink


class LoggerSink(Protocol):
    """Somewhere that pictures are logged."""

    def add(self, record: Record, picture: npt.NDArray[np.uint8]) -> None:
        """Log a picture ``(H, W, 3)`` and its scalars."""

    def flush(self) -> None:
        """Bring everything to the disk."""


def logger_sinks(loggers: Sequence[Any]) -> list[LoggerSink]:
    """Return a sink for every logger that takes pictures; a logger of numbers alone, such as CSV, has none.

    To be called on the training thread: a logger makes its experiment when it is first touched.
    """
    return [sink for logger in loggers if (sink := _sink(logger)) is not None]


def _sink(logger: Any) -> LoggerSink | None:
    if hasattr(logger, "log_image"):
        return WandbSink(logger)
    experiment = getattr(logger, "experiment", None)
    if hasattr(experiment, "add_image") and hasattr(experiment, "flush"):
        return TensorBoardSink(experiment)
    if hasattr(experiment, "log_image") and getattr(logger, "run_id", None) is not None:
        return MlflowSink(logger)
    return None
