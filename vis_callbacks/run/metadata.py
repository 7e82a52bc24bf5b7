"""What is known about a run as a whole; the picture store keeps it in ``run.json``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vis_callbacks.model.classifier import classifier_in, unwrapped
from vis_callbacks.run.budget import Budget, left_out
from vis_callbacks.run.timer import Timer

if TYPE_CHECKING:
    from vis_callbacks.callback import VisualizationCallback


class RunMetadata:
    """The model, the seconds, what the callbacks draw and how the run ended.

    Args:
        names: The callbacks that make pictures, each with its name; more may join.
        timer: Where their seconds are counted.
        budget: What they may cost.
    """

    def __init__(self, names: Mapping[VisualizationCallback, str], timer: Timer, budget: Budget) -> None:
        self._names = names
        self._timer = timer
        self._budget = budget
        self._steady: dict[str, Any] = {}
        self._wanted = False

    def begin(self, module: nn.Module, *, fits: bool, max_epochs: int | None, known: bool) -> None:
        """A training, validation or test starts.

        Args:
            module: The user's module.
            fits: Whether it is a training.
            max_epochs: How many epochs it may take.
            known: Whether the store tells about a run already.
        """
        if fits or not self._steady:
            # A later validation or test of the same version says nothing new about its training.
            self._wanted = self._wanted or fits or not known
            self._steady = {**_about_model(module), "max_epochs": max_epochs, "status": "running"}

    def end(self, epoch: int, error: BaseException | None) -> None:
        """What began has ended in an epoch, counted from 1. Only the first call matters."""
        # Who stops the waiting for the last pictures does not stop the training any more.
        if self._steady["status"] == "running":
            stopped = f"stopped by {type(error).__name__} in epoch {epoch}"
            self._steady["status"] = "finished" if error is None else stopped

    def now(self, *, epochs: int, thread_seconds: float) -> dict[str, Any] | None:
        """Return what is known now, or None if the store is to be left as it is.

        Args:
            epochs: How many are completed.
            thread_seconds: What drawing and writing took beside the training.
        """
        if not self._wanted:
            return None
        return {
            **self._steady,
            "updated": time.time(),
            "about": {name: _first_sentence(callback) for callback, name in self._names.items()},
            "epochs": epochs,
            "training_seconds": round(self._timer.training, 3),
            "picture_seconds": {part: round(value, 3) for part, value in self._timer.seconds.items()},
            "thread_seconds": round(thread_seconds, 3),
            "notes": [
                left_out(name, callback.left_out, min(shares))
                for callback, name in self._names.items()
                if callback.left_out and (shares := [*filter(None, (callback.budget, self._budget.share))])
            ],
        }


def _about_model(module: nn.Module) -> dict[str, Any]:
    model = unwrapped(classifier_in(module))
    inner = max(model.children(), key=_size, default=model) if type(model) is type(module) else model
    name = type(module).__name__ if inner is model else f"{type(module).__name__} ({type(unwrapped(inner)).__name__})"
    return {
        "model": name,
        "parameters": _size(module),
        "started": time.time(),
        "versions": {"torch": torch.__version__},
    }


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _first_sentence(callback: VisualizationCallback) -> str:
    sentence = (type(callback).__doc__ or "").strip().split(". See ")[0].split("\n")[0].rstrip(".")
    return f"{sentence}." if sentence else ""
