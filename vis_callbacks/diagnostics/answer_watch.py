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

    Only a network that is called once in a step, with one class for each image, has answers here. The step may give it
    other images than those of the batch.

    Args:
        reader: How to read a batch. None: images and labels are found.

    Attributes:
        classes: How many logits there are; 0 while that is not known.
    """

    def __init__(self, reader: BatchToImages | None) -> None:
        self._reader = reader
        self.classes = 0
        # The modules whose outputs may be the logits; none while that is not known.
        self._networks: list[nn.Module] = []
        self._blind = False
        self._stage = ""
        self._batch: Labelled | None = None
        self._looks: list[Look] = []

    def start(self, stage: str, module: nn.Module, batch: Any, subject: Subject | None) -> Labelled | None:
        """Look at a batch before its step.

        Returns:
            The batch, if each image has one class.
        """
        self.stop()
        if not self._networks and subject is not None and _gives_classes(subject):
            self._networks, self.classes = _networks(module, subject), subject.class_count or 0
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
        if not self._blind:
            self._looks = [Look(network, outputs=True) for network in self._networks]
        return self._batch

    def end(self, stage: str) -> tuple[Labelled, Tensor] | None:
        """Return the batch and its logits ``(N, K)``, after the step; None where they are not known."""
        stage_before, batch, looks = self._stage, self._batch, self._looks
        self.stop()
        if batch is None or stage_before != stage:
            return None
        fitting: list[tuple[nn.Module, Tensor]] = []
        for network, look in zip(self._networks, looks, strict=False):
            found = candidates_in(look.given[0], len(batch.labels)) if len(look.given) == 1 else []
            place = logits_among(network, found)
            if place is not None and found[place].ndim == 2 and found[place].shape[1] == self.classes:
                fitting.append((network, found[place].detach()))
        if not fitting or (len(fitting) > 1 and fitting[0][0] is not self._networks[0]):
            # Of several parts, such as a teacher and a student, none says more than the others.
            return None
        self._networks = [fitting[0][0]]
        return batch, fitting[0][1]

    def stop(self) -> None:
        """Stop looking. Idempotent."""
        for look in self._looks:
            look.stop()
        self._looks, self._batch = [], None


def _gives_classes(subject: Subject) -> bool:
    return subject.meaning == "classes" and subject.width is not None and not (subject.problem and subject.runs)


def _networks(module: nn.Module, subject: Subject) -> list[nn.Module]:
    """Return the network; for a function of the user's what it may call in the module, the whole first."""
    part = unwrapped(module.get_submodule(subject.network))
    return [part, *map(unwrapped, part.children())] if subject.forward and not subject.network else [part]
