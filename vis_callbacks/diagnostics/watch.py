"""Watches the batches and steps of a training, without any pass of its own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from vis_callbacks.data.batches import BatchToImages
from vis_callbacks.diagnostics.answer_watch import AnswerWatch
from vis_callbacks.diagnostics.facts import FirstStep, LayerMode, LossFacts, PlaceFacts
from vis_callbacks.diagnostics.layer_modes import layer_modes
from vis_callbacks.diagnostics.ledger import Ledger
from vis_callbacks.diagnostics.loss_graph import loss_facts
from vis_callbacks.diagnostics.weights import WeightsWatch
from vis_callbacks.model.nested import tensors_in
from vis_callbacks.model.subject import Subject

_FIRST = 6  # steps whose loss is compared with the outputs
_LOOKS = 50  # steps between looks at gradients, after the first three
_TRIED = 300  # small copies of images that a rule was tried on: half as many as marks are looked for in


class TrainingWatch:
    """Gathers numbers from what passes by: batches, outputs of the network, losses, gradients.

    Args:
        reader: How to read a batch. None: images and labels are found.

    Attributes:
        train: What passed by in the last epoch of training.
        validation: What passed by in the last validation.
        weights: The weights at the start. None: before the training.
        first_steps: How the loss of the first steps comes from the outputs.
        losses: Which functions the losses of the first steps take.
        first_outputs: The outputs of the first step.
        known: Keys of the training images of the first epoch.
        places: What places of the training images tell by themselves; they are looked at anew until enough were.
        near: How many validation images are near copies of training images, and how many were compared.
        modes: The BatchNorm and Dropout layers as the first step of an epoch of each stage left them.
        steps: Batches of training so far.
    """

    def __init__(self, reader: BatchToImages | None) -> None:
        self._answers = AnswerWatch(reader)
        self.train: Ledger | None = None
        self.validation: Ledger | None = None
        self.weights: WeightsWatch | None = None
        self.first_steps: list[FirstStep] = []
        self.losses: list[LossFacts] = []
        self.first_outputs: Tensor | None = None
        self.known: list[Tensor] = []
        self.near: tuple[int, int] | None = None
        self.places: tuple[PlaceFacts, PlaceFacts, Tensor] | None = None
        self.trainable: Mapping[str, bool] = {}
        self.modes: dict[str, Sequence[LayerMode]] = {}
        self.steps = 0
        self._part = {"train": -1, "validation": -1}

    def start(self, module: nn.Module, optimized: frozenset[int]) -> None:
        """Remember the weights at the start of the training."""
        self.weights = WeightsWatch(module, optimized)

    def batch_start(
        self, stage: str, part: int, module: nn.Module, batch: Any, subject: Subject | None, *, measured: bool
    ) -> None:
        """Look at a batch, and at what the network gives for it until `batch_end`.

        Args:
            stage: ``"train"`` or ``"validation"``.
            part: Number of the pass through the data; with a new one what was seen before is forgotten.
            module: The user's module.
            batch: The batch, on the training device.
            subject: What is known of the network.
            measured: Whether its images are measured in this epoch.
        """
        if self._part[stage] != part:
            self._part[stage] = part
            setattr(self, stage, None)
            self.modes.pop(stage, None)
        found = self._answers.start(stage, module, batch, subject)
        if found is None:
            return
        classes, labels = self._answers.classes, found.labels
        ledger: Ledger | None = getattr(self, stage)
        if ledger is None or ledger.classes < classes:
            known = max(classes, int(labels.max()) + 1 if len(labels) else 0)
            ledger = self._ledger(stage, known, measured=measured)
            setattr(self, stage, ledger)
        if not classes:
            ledger.classes = max(ledger.classes, int(labels.max()) + 1)
        ledger.add_images(found.images, labels)

    def batch_end(self, stage: str, module: nn.Module, outputs: Any, optimized: Callable[[], frozenset[int]]) -> None:
        """Learn from what the step did with the batch.

        Args:
            stage: ``"train"`` or ``"validation"``.
            module: The user's module.
            outputs: What the step returned.
            optimized: Returns the identities of the parameters that an optimizer has.
        """
        found = self._answers.end(stage)
        if stage not in self.modes:
            # After the step, which may have changed them.
            self.modes[stage] = layer_modes(module)
        if stage == "train":
            if self.weights is not None and (self.steps < 3 or self.steps % _LOOKS == 0):
                self.weights.look(module, optimized())
            self.steps += 1
        if found is None:
            return
        batch, logits = found
        ledger: Ledger = getattr(self, stage)
        ledger.add_answers(logits, batch.labels, batch.images)
        if stage == "train" and len(self.first_steps) < _FIRST:
            self._compare(logits.float(), batch.labels, outputs)

    def loss_computed(self, loss: Tensor) -> None:
        """Look at the loss of a step, before its backward."""
        if len(self.losses) < _FIRST:
            self.losses.append(loss_facts(loss))

    def settle(self) -> None:
        """Look at what was put aside, before anything is read. Idempotent."""
        for ledger in (self.train, self.validation):
            if ledger is not None:
                ledger.settle()

    def stop(self) -> None:
        """Stop looking at what the network gives. Idempotent."""
        self._answers.stop()

    def _ledger(self, stage: str, classes: int, *, measured: bool) -> Ledger:
        if stage == "validation":
            return Ledger(classes, measured, small=self.near is None, marks_wanted=False)
        places = self.places is None or self.places[0].tried < _TRIED
        return Ledger(classes, measured, keys_wanted=places or not self.known, small=places, marks_wanted=places)

    def _compare(self, logits: Tensor, labels: Tensor, outputs: Any) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else next(iter(tensors_in(outputs)), None)
        if (
            not isinstance(loss, Tensor)
            or loss.numel() != 1
            or not bool(((labels >= 0) & (labels < logits.shape[1])).all())
        ):
            return
        if self.first_outputs is None:
            self.first_outputs = logits.cpu()
        value = float(loss)
        inside = bool((logits >= 0).all() and (logits <= 1).all())
        sums = bool(((logits.sum(dim=1) - 1).abs() < 1e-3).all())
        size = max(abs(value), 1e-6)
        apart, smoothing = [], []
        for one in (logits, logits.softmax(dim=1)):
            plain = float(F.cross_entropy(one, labels))
            uniform = float(-one.log_softmax(dim=1).mean())
            apart.append(abs(value - plain) / size)
            smoothing.append((value - plain) / (uniform - plain) if uniform != plain else 0.0)
        self.first_steps.append(FirstStep(inside and sums, *apart, *smoothing))
