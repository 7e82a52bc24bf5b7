"""The one loop behind every synthesised image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vis_callbacks.data.normalization import Normalization
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.model.classifier import probabilities
from vis_callbacks.synthesis.optimization.objectives import Objective, View
from vis_callbacks.synthesis.optimization.parameterizations import Image
from vis_callbacks.synthesis.optimization.readout import watching
from vis_callbacks.synthesis.optimization.regularizers import Edit
from vis_callbacks.synthesis.optimization.transforms import Moment, Transform
from vis_callbacks.synthesis.progress import Progress

OptimizerFactory = Callable[[list[Tensor]], torch.optim.Optimizer]
"""From the parameters of an image to their optimizer."""

SchedulerFactory = Callable[[torch.optim.Optimizer, int], torch.optim.lr_scheduler.LRScheduler]
"""From an optimizer and the number of steps to a schedule of its learning rate."""


@dataclass(frozen=True)
class Goal:
    """When an image is good enough to stop.

    Attributes:
        targets: The class of each image, ``(N,)`` long.
        probability: What its probability has to exceed, in [0, 1].
        holds: A second opinion, asked once the probability does: from pixels ``(N, C, H, W)`` to ``(N,)`` bool.
    """

    targets: Tensor
    probability: float
    holds: Callable[[Tensor], Tensor] | None = None

    def reached(self, view: View) -> Tensor:
        """Return which images are good enough, ``(N,)`` bool."""
        found = probabilities(view.logits.detach())
        reached = found.gather(1, self.targets.to(found.device)[:, None])[:, 0] > self.probability
        if self.holds is not None and bool(reached.any()):
            reached = reached & self.holds(view.pixels.detach())
        return reached


@dataclass(frozen=True)
class Ascent:
    """What the loop leaves behind.

    Attributes:
        pixels: The images ``(N, C, H, W)`` in [0, 1].
        steps: Steps that each image took, ``(N,)`` long.
    """

    pixels: Tensor
    steps: Tensor


@dataclass(frozen=True)
class Method:
    """How to climb: everything about an ascent but the model, the image and the objective.

    Attributes:
        steps: Steps of the optimizer.
        optimizer: Makes the optimizer of the image's parameters.
        scheduler: Makes the schedule of its learning rate. None: constant.
        transforms: Applied to the pixels in turn, before normalisation.
        edits: Changes between gradient and step.
    """

    steps: int
    optimizer: OptimizerFactory
    scheduler: SchedulerFactory | None = None
    transforms: Sequence[Transform] = ()
    edits: Sequence[Edit] = ()


def ascend(
    model: nn.Module,
    image: Image,
    objective: Objective,
    method: Method,
    *,
    normalization: Normalization,
    generator: torch.Generator,
    any_size: bool = True,
    goal: Goal | None = None,
    what: str = "image",
    progress: bool = True,
) -> Ascent:
    """Change images step by step so that an objective rises. To be called inside `undisturbed`.

    Args:
        model: From images in its own input space to logits.
        image: Where to start; its parameters are changed in place.
        objective: What is maximised; images do not influence each other unless it makes them.
        method: How.
        normalization: From pixels to the model's input space.
        generator: Source of the transforms' randomness.
        any_size: Whether the model takes images of other sizes.
        goal: When an image is good enough: it is returned as it was then. None: all steps are taken.
        what: Name of the work, for the progress line.
        progress: Whether to show progress on stderr when it takes longer than a few seconds.

    Raises:
        ConfigurationError: If the number of steps is negative.
    """
    if method.steps < 0:
        raise ConfigurationError(f"steps={method.steps}: expected 0 or more")
    optimizer = method.optimizer(image.parameters)
    scheduler = method.scheduler(optimizer, method.steps) if method.scheduler else None
    line = Progress(what, method.steps, shown=progress)
    kept = _Kept(image)
    with watching(model, objective, logits=goal is not None) as run:

        def look(step: int) -> View:
            pixels = image.pixels()
            moment = Moment(generator, step / method.steps, any_size)
            seen = pixels
            for transform in method.transforms:
                seen = transform(seen, moment)
            # Convolutions are faster with the channels last, whatever the layout of their weights.
            inputs = normalization.to_model(seen).contiguous(memory_format=torch.channels_last)
            return View(pixels, normalization, *run(inputs))

        for step in range(method.steps):

            def closure(step: int = step) -> float:
                optimizer.zero_grad()
                view = look(step)
                if goal is not None:
                    kept.keep(goal.reached(view), view.pixels, step)
                loss = -objective.score(view).sum()
                del view
                for parameter, gradient in zip(
                    image.parameters, torch.autograd.grad(loss, image.parameters), strict=True
                ):
                    parameter.grad = gradient
                for edit in method.edits:
                    edit.before_step(image)
                return float(loss.detach())

            optimizer.step(closure)
            if kept.all():
                break
            if scheduler is not None:
                scheduler.step()
            for edit in method.edits:
                edit.after_step(image, step + 1)
            image.project()
            line.update(step + 1)
    line.close()
    return kept.result(image, method.steps)


class _Kept:
    """Images that were good enough before the last step, as they were then."""

    def __init__(self, image: Image) -> None:
        first = image.pixels().detach()
        self._done = torch.zeros(len(first), dtype=torch.bool, device=first.device)
        self._steps = torch.zeros(len(first), dtype=torch.long, device=first.device)
        self._pixels = first.clone()

    def keep(self, reached: Tensor, pixels: Tensor, step: int) -> None:
        new = reached & ~self._done
        self._pixels[new] = pixels.detach()[new]
        self._steps[new] = step
        self._done |= new

    def all(self) -> bool:
        return bool(self._done.all())

    def result(self, image: Image, steps: int) -> Ascent:
        last = image.pixels().detach()
        kept = self._done.view(-1, 1, 1, 1)
        return Ascent(torch.where(kept, self._pixels, last), torch.where(self._done, self._steps, steps))
