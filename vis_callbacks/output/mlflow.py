"""Pictures and their scalars in MLflow."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vis_callbacks.output.record import Record
from vis_callbacks.output.tags import TagCleaner


class MlflowSink:
    """Writes to the client of a logger, in the run that the logger writes to.

    Args:
        logger: Lightning's ``MLFlowLogger``, or anything with an MLflow client as ``experiment`` and its ``run_id``.
    """

    def __init__(self, logger: Any) -> None:
        self._client = logger.experiment
        self._run_id = logger.run_id
        # MLflow refuses a key with any other character.
        self._clean = TagCleaner(r"-/a-zA-Z0-9_. ")

    def add(self, record: Record, picture: npt.NDArray[np.uint8]) -> None:
        """Log a picture ``(H, W, 3)`` under its tag, and its scalars under ``<tag>/<scalar>``."""
        key = self._clean(record.tag)
        self._client.log_image(self._run_id, picture, key=key, step=record.step, synchronous=True)
        for name, value in record.scalars.items():
            metric = f"{key}/{self._clean(name)}"
            self._client.log_metric(self._run_id, metric, value, step=record.step, synchronous=True)

    def flush(self) -> None:
        """Nothing: every picture is written when it is logged."""
