"""What is known about a run as a whole; the picture store keeps it in ``run.json``."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from vis_callbacks.model.classifier import classifier_in, unwrapped
from vis_callbacks.run.budget import Budget, left_out
from vis_callbacks.run.technique import Technique
from vis_callbacks.run.timer import Timer


class RunMetadata:
    """The model, the seconds, what the techniques draw and how the run ended.

    Args:
        names: The name of each technique of the run; more may join.
        timer: Where their seconds are counted.
        budget: What they may cost.
    """

    def __init__(self, names: Mapping[Technique, str], timer: Timer, budget: Budget) -> None:
        self._names = names
        self._timer = timer
        self._budget = budget
        self._fixed: dict[str, Any] = {}
        self._wanted = False

    def mark_running(self, module: nn.Module, *, fitting: bool, max_epochs: int | None, known: bool) -> None:
        """Record that a fit, validation or test starts.

        Args:
            module: The user's module.
            fitting: Whether it is a fit.
            max_epochs: The most epochs that it may take.
            known: Whether the store holds the metadata of a run already.
        """
        if fitting or not self._fixed:
            # A later validation or test must not replace the metadata of the training.
            self._wanted = self._wanted or fitting or not known
            self._fixed = {**_about_model(module), "max_epochs": max_epochs, "status": "running"}

    def mark_ended(self, epoch: int, error: BaseException | None) -> None:
        """Record that the run has ended in an epoch, counted from 1. Only the first call counts."""
        # A Ctrl-C while the last pictures are written does not stop the training any more.
        if self._fixed["status"] == "running":
            stopped = f"stopped by {type(error).__name__} in epoch {epoch}"
            self._fixed["status"] = "finished" if error is None else stopped

    @property
    def left_out(self) -> list[str]:
        """One sentence per technique that the budget has left out in some epochs."""
        return list(self._left_out().values())

    def current(self, *, epochs: int, thread_seconds: float, nothing: Mapping[str, str]) -> dict[str, Any] | None:
        """Return what is known now, or None if the store must keep what it holds.

        Args:
            epochs: Number of completed epochs.
            thread_seconds: Time spent on drawing and writing beside training.
            nothing: Why nothing is shown of techniques, one sentence by name.
        """
        if not self._wanted:
            return None
        return {
            **self._fixed,
            "updated": time.time(),
            "about": {name: _first_sentence(technique) for technique, name in self._names.items()},
            "epochs": epochs,
            "training_seconds": round(self._timer.training, 3),
            "picture_seconds": {part: round(value, 3) for part, value in self._timer.seconds.items()},
            "thread_seconds": round(thread_seconds, 3),
            "notes": self.left_out,
            "remarks": {**nothing, **self._left_out()},
        }

    def _left_out(self) -> dict[str, str]:
        return {
            name: left_out(name, technique.left_out, min(shares))
            for technique, name in self._names.items()
            if technique.left_out and (shares := [*filter(None, (technique.budget, self._budget.share))])
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


def _first_sentence(technique: Technique) -> str:
    sentence = (type(technique).__doc__ or "").strip().split(". See ")[0].split("\n")[0].rstrip(".")
    return f"{sentence}." if sentence else ""
