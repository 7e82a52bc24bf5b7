"""The metrics that a run logs, those of validation apart from those of training."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


class MetricReader:
    """Separates validation metrics from training metrics: validation metrics change while validation runs.

    Example:
        >>> reader = MetricReader()
        >>> reader.read({"train_loss": 0.5}, "validation starts")
        {}
        >>> reader.read({"train_loss": 0.5, "val_loss": 0.7}, "validation")
        {'val_loss': 0.7}
        >>> reader.read({"train_loss": 0.4, "val_loss": 0.7}, "train")
        {'train_loss': 0.4}
    """

    def __init__(self) -> None:
        self._before: dict[str, float] = {}
        self._of_validation: set[str] = set()

    def read(self, metrics: Mapping[str, Any], moment: str) -> dict[str, float]:
        """Return the metrics that are complete at ``"validation starts"`` (none), ``"validation"`` or ``"train"``."""
        values = _numbers(metrics)
        if moment == "validation starts":
            self._before = values
            return {}
        if moment == "validation":
            self._of_validation |= {name for name, value in values.items() if self._before.get(name) != value}
            return {name: value for name, value in values.items() if name in self._of_validation}
        return {name: value for name, value in values.items() if name not in self._of_validation}


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics that are single numbers; of one logged per step and per epoch, the value per epoch."""
    numbers = {}
    for name, value in metrics.items():
        if isinstance(value, Tensor) and value.numel() != 1:
            continue
        stem = name.removesuffix("_epoch").removesuffix("_step")
        if stem == name or stem not in metrics:
            numbers[name] = float(value)
    return numbers
