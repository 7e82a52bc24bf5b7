"""The callback that says what is wrong with a training."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from typing_extensions import Unpack

from vis_callbacks import checks as options_of
from vis_callbacks._lightning import LightningModule, Trainer, logger_of
from vis_callbacks.callback import SharedOptions, VisualizationCallback
from vis_callbacks.data.samples import Samples
from vis_callbacks.diagnostics.check import Check
from vis_callbacks.diagnostics.finding import Finding, Verdict
from vis_callbacks.diagnostics.measure import Measured, measure
from vis_callbacks.diagnostics.registry import CHECKS
from vis_callbacks.diagnostics.watch import TrainingWatch
from vis_callbacks.errors import ConfigurationError, nearest
from vis_callbacks.event import Event, Moment
from vis_callbacks.model.subject import Subject
from vis_callbacks.panel import Panel

_PASSES = 160
_OF_ALL_DATA = frozenset({"missing-class"})
"""Checks that one of several processes cannot judge: it sees a part of the data, perhaps without some classes."""


class Diagnostics(VisualizationCallback):
    """Says what is wrong with a training, in a sentence, and shows the picture that proves it.

    It watches the batches, outputs and gradients of the training as they pass, and judges them after each validation. A
    finding is said once in the console and stands in TensorBoard and at the top of the report. Checks that do not fit a
    training (several labels, mixed images, few steps) stay silent.

    Args:
        checks: Names of the checks, and checks of one's own, see `Check`; None: all that there are.
        options: Shared by all callbacks, see `VisualizationCallback`.

    Attributes:
        findings: What stands out, a list of `Finding`, alarms first.

    Raises:
        ConfigurationError: If a check is unknown, or named twice.

    Example:
        >>> Diagnostics(checks=["leakage", "scale"]).findings
        []
    """

    def __init__(self, checks: Sequence[str | Check] | None = None, **options: Unpack[SharedOptions]) -> None:
        super().__init__(**options)
        chosen = options_of.several("checks", list(CHECKS) if checks is None else checks, _check, "names, or checks")
        names = [check.name for check in chosen]
        if len(set(names)) < len(names):
            raise options_of.refused("checks", names, "each name once")
        # In the order in which one explains another; one's own come last.
        order = [*CHECKS, *names]
        self.checks: list[Check] = sorted(chosen, key=lambda check: order.index(check.name))
        self._found: dict[str, Finding] = {}
        self._seen: dict[str, int] = {}
        self._rows: dict[str, list[str]] = {}
        self._causes: set[str] = set()
        self._measured: Measured | None = None
        self._watch: TrainingWatch | None = None
        self._module: nn.Module | None = None
        self._logger: logging.Logger | None = None
        self._alone = True

    @property
    def findings(self) -> list[Finding]:
        """What stands out, alarms first."""
        return sorted(self._found.values(), key=lambda one: (one.severity != "alarm", one.first_epoch))

    def findings_document(self, name: str) -> dict[str, Any]:
        """Return what stands out as plain values, for the picture store; `name` is the first part of the tags."""
        found = [
            {**one.as_dict(), "rows": [f"{name}/{row}" for row in self._rows.get(one.check, ())]}
            for one in self.findings
        ]
        return {"checked": [check.name for check in self.checks], "findings": found}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Join the run."""
        super().setup(trainer, pl_module, stage)
        self._logger = logger_of(trainer)
        self._alone = trainer.world_size == 1

    # What the run tells of the training.

    def training_starts(self, module: nn.Module, optimized: frozenset[int]) -> None:
        """Remember the weights."""
        self._watch, self._module = TrainingWatch(self.sample_request.batch_to_images), module
        self._watch.start(module, optimized)

    def batch_starts(
        self, stage: str, epoch: int, part: int, module: nn.Module, batch: Any, subject: Subject | None
    ) -> None:
        """Look at a batch."""
        if self._watch is not None and stage in ("train", "validation"):
            self._watch.batch_start(stage, part, module, batch, subject, measured=_is_due(epoch))

    def batch_ends(self, stage: str, module: nn.Module, outputs: Any, optimized: Callable[[], frozenset[int]]) -> None:
        """Learn from a step."""
        if self._watch is not None:
            if self._watch.steps == 0 and stage == "train":
                self._watch.trainable = {name: one.requires_grad for name, one in module.named_parameters()}
            self._watch.batch_end(stage, module, outputs, optimized)

    def loss_computed(self, loss: Tensor) -> None:
        """Look at the loss of a step, before its backward."""
        if self._watch is not None:
            self._watch.loss_computed(loss)

    def training_ends(self, epoch: int) -> None:
        """Say what is still true."""
        still = [one for one in self.findings if one.severity == "alarm" and one.last_epoch >= epoch]
        if still and self._logger is not None:
            listed = "\n".join(f"  {one.check}: {one.sentence}" for one in still)
            self._logger.warning("What stands out at the end of the training:\n%s", listed)

    def stop_watching(self) -> None:
        """Take the hook from the network."""
        if self._watch is not None:
            self._watch.stop()

    # What makes the pictures.

    def passes(self, moment: Moment, samples: Samples) -> int:
        """Return about how many images go through the network."""
        return _PASSES if moment.epoch and _is_due(moment.epoch) else 0

    def visualize(self, event: Event) -> Iterable[Panel]:
        """Judge the numbers, and show what proves each finding."""
        watch, module = self._watch, self._module
        if watch is None or module is None or not event.moment.epoch or event.moment.stage != "fit":
            return []
        watch.settle()
        if watch.train is not None and watch.train.keys and not watch.known:
            watch.known = list(watch.train.keys)
        epoch, model = event.moment.epoch, None if event.subject.problem else event.model
        measured = measure(watch, module, model, event.samples, epoch, self._measured, due=_is_due(epoch))
        self._measured = measured
        panels: list[Panel] = []
        for check in self.checks:
            if self._alone or check.name not in _OF_ALL_DATA:
                try:
                    panels += self._judge(check, measured, epoch)
                except Exception as error:
                    # One that fails, of the user's own perhaps, takes no other with it.
                    if self.on_error == "raise" or self._run is None:
                        raise
                    who = f"The check {check.name} of {self.name}"
                    self._run.warnings.warn(
                        who, f"failed in epoch {epoch}", error, "mend it, or leave it out of checks="
                    )
        self._forget_consequences()
        return panels

    def _judge(self, check: Check, measured: Measured, epoch: int) -> list[Panel]:
        verdict: Verdict | None = check.judge(measured.facts)
        if verdict is None:
            # What has healed explains nothing any more.
            self._seen[check.name] = 0
            self._causes.discard(check.name)
            return []
        self._seen[check.name] = self._seen.get(check.name, 0) + 1
        if self._seen[check.name] < check.patience or self._causes & set(check.silenced_by):
            return []
        if verdict.severity == "alarm":
            self._causes.add(check.name)
        else:
            self._causes.discard(check.name)
        known = self._found.get(check.name)
        first = epoch if known is None else known.first_epoch
        evidence = check.evidence(measured.exhibits, measured.facts, verdict)
        shown = tuple(replace(panel, name=f"{check.name}/{panel.name}") for panel in evidence)
        self._rows[check.name] = [panel.name for panel in shown]
        finding = Finding(check.name, verdict.severity, verdict.sentence, first, epoch, tuple(evidence))
        self._found[check.name] = finding
        if (known is None or known.severity != verdict.severity) and self._logger is not None:
            say = self._logger.warning if verdict.severity == "alarm" else self._logger.info
            say("Epoch %d, %s %s: %s", epoch, verdict.severity, check.name, verdict.sentence)
        return list(shown)

    def _forget_consequences(self) -> None:
        """Take back what another finding explains."""
        for check in self.checks:
            if check.name in self._found and self._causes & set(check.silenced_by):
                del self._found[check.name]

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without what belongs to one training in one process."""
        return {**super().__getstate__(), "_watch": None, "_module": None, "_measured": None, "_logger": None}

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with the findings."""
        found = {name: one.as_dict() for name, one in self._found.items()}
        kept = {"findings": found, "rows": self._rows, "seen": dict(self._seen), "causes": sorted(self._causes)}
        return {**super().state_dict(), **kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the findings of a checkpoint."""
        super().load_state_dict(state_dict)
        self._found = {name: Finding(**one) for name, one in state_dict["findings"].items()}
        self._rows, self._seen = dict(state_dict["rows"]), dict(state_dict["seen"])
        self._causes = set(state_dict["causes"])


def _check(name: str, value: Any) -> Check:
    if isinstance(value, Check):
        return value
    wanted = options_of.text(name, value, "a check's name")
    if wanted not in CHECKS:
        raise ConfigurationError(f"checks: no check {wanted!r}; {nearest(wanted, CHECKS, most=len(CHECKS))}")
    return CHECKS[wanted]


def _is_due(epoch: int) -> bool:
    """Whether images are measured and passes run: at epochs 1, 2, 4, 8, ..."""
    return epoch & (epoch - 1) == 0
