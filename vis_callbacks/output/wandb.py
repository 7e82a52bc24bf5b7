"""Pictures and their scalars in Weights & Biases."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vis_callbacks.output.record import Record
from vis_callbacks.output.tags import TagCleaner


class WandbSink:
    """Writes through a logger that has ``log_image``, with ``trainer/global_step`` as the x-axis, as metrics have.

    Args:
        logger: Lightning's ``WandbLogger``, or anything with its ``log_image`` and ``log_metrics``.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        # Tags become names of files.
        self._clean = TagCleaner(r"-/\w. ")

    def add(self, record: Record, picture: npt.NDArray[np.uint8]) -> None:
        """Log a picture ``(H, W, 3)`` under its tag, and its scalars under ``<tag>/<scalar>``."""
        tag = self._clean(record.tag)
        self._logger.log_image(tag, [picture], step=record.step)
        if record.scalars:
            scalars = {f"{tag}/{self._clean(name)}": value for name, value in record.scalars.items()}
            self._logger.log_metrics(scalars, step=record.step)

    def flush(self) -> None:
        """Nothing: the logger's own process writes."""
