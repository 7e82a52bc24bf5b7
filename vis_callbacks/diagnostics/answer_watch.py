"""The answers that the network gives in the run's own steps, without a pass of their own."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vis_callbacks.data.batches import BatchToImages, read_batch
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.model.calls import is_compiled
from vis_callbacks.model.classifier import unwrapped
from vis_callbacks.model.looks import Look
from vis_callbacks.model.outputs import candidates_in, logits_among
from vis_callbacks.model.subject import Subject


@dataclass(frozen=True)
class Labelled:
    """A batch of images of which each has one class.

    Attributes:
        images: ``(N, C, H, W)`` float.
        labels: ``(N,)`` long; -1 where unknown.
    """

    images: Tensor
    labels: Tensor


class AnswerWatch:
    """Looks at a batch and at what the network gives for it.

    Only a network that is called once in a step, with one class for each image, has answers here.

    Args:
        reader: How to read a batch. None: images and labels are found.

    Attributes:
        network: The module whose outputs are the logits. None: it is not known yet, or its outputs are no classes.
        classes: How many logits there are; 0 while that is not known.
    """

    def __init__(self, reader: BatchToImages | None) -> None:
        self._reader = reader
        self.network: nn.Module | None = None
        self.classes = 0
        self._blind = False
        self._stage = ""
        self._batch: Labelled | None = None
        self._look: Look | None = None

    def start(self, stage: str, module: nn.Module, batch: Any, subject: Subject | None) -> Labelled | None:
        """Look at a batch before its step.

        Returns:
            The batch, if each image has one class.
        """
        self.stop()
        if self.network is None and subject is not None and not subject.problem and subject.meaning == "classes":
            self.network, self.classes = unwrapped(module.get_submodule(subject.network)), subject.class_count or 0
            self._blind = is_compiled(module) or not self.classes
        try:
            found = read_batch(self._reader, batch, self.classes or None)
        except ConfigurationError:
            # The callbacks that show images say so.
            return None
        one_class = found.labels is not None and found.truths is None and found.values is None
        if found.labels is None or not one_class or not found.images.is_floating_point():
            return None
        self._stage, self._batch = stage, Labelled(found.images, found.labels)
        if self.network is not None and not self._blind:
            self._look = Look(self.network, outputs=True)
        return self._batch

    def end(self, stage: str) -> tuple[Labelled, Tensor] | None:
        """Return the batch and its logits ``(N, K)``, after the step; None where they are not known."""
        stage_before, batch, look, network = self._stage, self._batch, self._look, self.network
        self.stop()
        if batch is None or look is None or network is None or stage_before != stage or len(look.given) != 1:
            return None
        found = candidates_in(look.given[0], len(batch.labels))
        place = logits_among(network, found)
        if place is None or found[place].ndim != 2 or found[place].shape[1] != self.classes:
            return None
        return batch, found[place].detach()

    def stop(self) -> None:
        """Stop looking. Idempotent."""
        if self._look is not None:
            self._look.stop()
        self._look, self._batch = None, None
