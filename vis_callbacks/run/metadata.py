"""What is known about a run as a whole; the picture store keeps it in ``run.json``."""

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from vis_callbacks.errors import LayerError
from vis_callbacks.model.classifier import has_forward, unwrapped
from vis_callbacks.model.feature_info import FeatureInfo
from vis_callbacks.model.features import known_feature_info
from vis_callbacks.model.layers import find_layer
from vis_callbacks.output.subject_facts import subject_facts
from vis_callbacks.run.budget import Budget, left_out
from vis_callbacks.run.selection import Ready
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
        self._subjects: dict[str, dict[str, Any]] = {}
        self._networks: dict[str, int] = {}

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

    def describe(self, ready: Iterable[Ready]) -> None:
        """Record what the pictures of an event are about."""
        features: dict[tuple[int, int], FeatureInfo | None] = {}
        for one in ready:
            if one.subject is not None:
                known = self._subjects.get(one.name, {})
                self._networks[one.name] = id(one.model)
                self._subjects[one.name] = {
                    **known,
                    **one.subject.as_dict(),
                    "outputs": one.subject.outputs,
                    **_about_pictures(one, features),
                }

    @property
    def subjects(self) -> dict[str, Any]:
        """The subject of the first technique, with what all that share it look at, and those of others by name."""
        main: dict[str, Any] = {}
        others: dict[str, dict[str, Any]] = {}
        for name, found in self._subjects.items():
            if self._networks[name] != next(iter(self._networks.values())):
                others[name] = found
                continue
            targets = list(dict.fromkeys([*main.get("targets", ()), *found["targets"]]))
            layers = {**main.get("layers", {}), **found.get("layers", {})}
            main = {**main, **found, "targets": targets, "layers": layers}
        return {"subject": main, **({"subjects": others} if others else {})} if main else {}

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
        subjects = self.subjects
        if subjects and subjects["subject"]["network"]:
            self._fixed["model"] = f"{self._fixed['model'].split(' (')[0]} ({subjects['subject']['kind']})"
        return {
            **self._fixed,
            **subjects,
            "updated": time.time(),
            "about": {name: _about(technique) for technique, name in self._names.items()},
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


def subject_text(subjects: Mapping[str, Any]) -> str:
    """Return what pictures are about in Markdown, from `RunMetadata.subjects`."""
    others: Mapping[str, Mapping[str, Any]] = subjects.get("subjects", {})
    parts = [("", subjects["subject"]), *others.items()]
    return "\n\n".join(
        "\n".join(
            [
                *[f"**{name}**\n"] * bool(name),
                *(f"* **{term}**: {text}{f' ({remark})' * bool(remark)}" for term, text, remark in subject_facts(one)),
                *[f"* **Note**: {one['problem']}"] * bool(one["problem"]),
            ]
        )
        for name, one in parts
    )


def _about_model(module: nn.Module) -> dict[str, Any]:
    model = unwrapped(module)
    parts = [child for child in model.children() if has_forward(child)]
    name = type(model).__name__
    if parts:
        name += f" ({type(unwrapped(max(parts, key=_size))).__name__})"
    return {
        "model": name,
        "parameters": _size(module),
        "started": time.time(),
        "versions": {"torch": torch.__version__},
    }


def _about_pictures(ready: Ready, features: dict[tuple[int, int], FeatureInfo | None]) -> dict[str, Any]:
    """Return the target, what the colours go by, and the layers of which maps are made, with the sizes of the maps.

    Args:
        ready: A technique with its network and samples.
        features: What is known of the layers of each network with each samples; it is looked up once.
    """
    if ready.samples is None or ready.model is None:
        return {"targets": [], "layers": {}}
    about: dict[str, Any] = {"targets": [str(ready.technique.targets)], "pixels": ready.samples.pixel_source}
    if ready.samples.bands is not None:
        about["bands"] = list(ready.samples.bands)
    layers: dict[str, list[int]] = {}
    network = "" if ready.subject is None else ready.subject.network
    # Those of class activation maps; other techniques name their layers in their pictures.
    if not hasattr(ready.technique, "reads_gradient"):
        return {**about, "layers": {}}
    key = id(ready.model), id(ready.samples)
    if key not in features:
        features[key] = known_feature_info(ready.model, ready.samples.images)
    found = features[key]
    if found is None:
        return {**about, "layers": {}}
    for choice in getattr(ready.technique, "layers", ()):
        with suppress(LayerError):
            name = found.default_layer() if choice is None else find_layer(ready.model, choice)[0]
            size = list(found.layout(name).size)
            layers[f"{network}.{name}" if network else name] = size
    return {**about, "layers": layers}


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _about(technique: Technique) -> str:
    """Return what a technique shows, and what it may be read for, as its docstring says."""
    paragraphs = [" ".join(one.split()) for one in (type(technique).__doc__ or "").split("\n\n")]
    shows = paragraphs[0].split(". See ")[0].rstrip(".")
    read = [one for one in paragraphs[1:] if one.startswith("Read it")]
    return " ".join([f"{shows}." if shows else "", *read]).strip()
