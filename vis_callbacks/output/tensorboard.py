"""Pictures and their scalars in TensorBoard."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vis_callbacks.output.record import Record
from vis_callbacks.output.tags import TagCleaner


class TensorBoardSink:
    """Writes to the summary writer of a logger that has one.

    Args:
        writer: A ``SummaryWriter``, or anything with its ``add_image``, ``add_scalar`` and ``flush``.
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        # TensorBoard replaces other characters itself, with a line on the console for each tag.
        self._clean = TagCleaner(r"-/\w.")

    def add(self, record: Record, picture: npt.NDArray[np.uint8]) -> None:
        """Log a picture ``(H, W, 3)`` under its tag, and its scalars under ``<tag>/<scalar>``."""
        tag = self._clean(record.tag)
        self._writer.add_image(tag, picture, record.step, dataformats="HWC")
        for name, value in record.scalars.items():
            self._writer.add_scalar(f"{tag}/{self._clean(name)}", value, record.step)

    def flush(self) -> None:
        """Bring everything to the disk."""
        self._writer.flush()
