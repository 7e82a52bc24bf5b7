"""Gradient ascent on an image: the loop that all synthesis techniques share."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.graph import get_gradient_edge
from tqdm import tqdm

from vis_callbacks.data.normalization import Normalization
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.model import Meaning, check_differentiable, probabilities
from vis_callbacks.synthesis.optimization.objectives import Objective, View
from vis_callbacks.synthesis.optimization.parameterizations import Parameterization
from vis_callbacks.synthesis.optimization.readout import read_layers
from vis_callbacks.synthesis.optimization.regularizers import StepHook
from vis_callbacks.synthesis.optimization.skip_gradient import weaken_branches
from vis_callbacks.synthesis.optimization.transforms import Step, Transform

OptimizerFactory = Callable[[list[Tensor]], torch.optim.Optimizer]
"""From the parameters of an image to an optimizer."""

SchedulerFactory = Callable[[torch.optim.Optimizer, int], torch.optim.lr_scheduler.LRScheduler]
"""From an optimizer and the number of steps to a learning rate schedule."""

DELAY = 3.0
"""Seconds before the progress bar appears."""


@dataclass(frozen=True)
class Goal:
    """When to stop early: at a class probability.

    Attributes:
        targets: The class of each image, ``(N,)`` long.
        probability: The class's probability has to exceed this, in [0, 1].
        confirm: A second check, made only once some probability is reached: from pixels ``(N, C, H, W)`` to ``(N,)``
            bool. None: no second check.
        meaning: What the logits mean.
    """

    targets: Tensor
    probability: float
    confirm: Callable[[Tensor], Tensor] | None = None
    meaning: Meaning = "classes"

    def reached(self, view: View) -> Tensor:
        """Return which images reach the goal, ``(N,)`` bool."""
        found = probabilities(view.logits.detach(), self.meaning)
        reached = found.gather(1, self.targets.to(found.device)[:, None])[:, 0] > self.probability
        if self.confirm is not None and bool(reached.any()):
            reached = reached & self.confirm(view.pixels.detach())
        return reached


@dataclass(frozen=True)
class Ascent:
    """The result of an ascent.

    Attributes:
        pixels: The images ``(N, C, H, W)`` in [0, 1].
        steps: Steps taken by each image, ``(N,)`` long.
    """

    pixels: Tensor
    steps: Tensor


@dataclass(frozen=True)
class Method:
    """How to ascend: everything but the model, the image and the objective.

    Attributes:
        steps: Steps of the optimizer.
        optimizer: Creates the optimizer of the image's parameters.
        scheduler: Creates the learning rate schedule. None: a constant rate.
        transforms: Applied to the pixels in order, before normalisation.
        step_hooks: Run before and after each step of the optimizer.
        branch_gradient: Factor of the gradients of residual branches, see `weaken_branches`.
        parameter_decay: How far parameters decay over all steps: before each one they are multiplied by
            1 - parameter_decay / steps * (learning rate / the optimizer's own learning rate).
    """

    steps: int
    optimizer: OptimizerFactory
    scheduler: SchedulerFactory | None = None
    transforms: Sequence[Transform] = ()
    step_hooks: Sequence[StepHook] = ()
    branch_gradient: float = 1.0
    parameter_decay: float = 0.0


def ascend(
    model: nn.Module,
    image: Parameterization,
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
    """Maximise an objective by gradient ascent on images. Call inside `undisturbed`.

    Args:
        model: From images in its own input space to logits.
        image: The images; their parameters are changed in place.
        objective: What is maximised, summed over the images.
        method: Optimizer, transforms and the like.
        normalization: From pixels to the model's input space.
        generator: Source of the transforms' randomness.
        any_size: Whether the model accepts images of other sizes.
        goal: An image that reaches it is returned as it was at that step. None: all steps are taken.
        what: Label of the progress bar.
        progress: Whether to show a progress bar on stderr once it takes longer than a few seconds.

    Raises:
        ConfigurationError: If the number of steps is negative.
    """
    if method.steps < 0:
        raise ConfigurationError(f"steps={method.steps}: expected 0 or more")
    optimizer = method.optimizer(image.parameters)
    # Before the scheduler, which may begin with a warm-up.
    rates = [group["lr"] for group in optimizer.param_groups]
    scheduler = method.scheduler(optimizer, method.steps) if method.scheduler else None
    stopped = _StoppedEarly(image)
    bar = _progress_bar(what, method.steps, shown=progress)
    with bar, read_layers(model, objective, logits=goal is not None) as run:

        def view_at(index: int) -> View:
            pixels = image.pixels()
            step = Step(generator, index / method.steps, any_size)
            transformed = pixels
            for transform in method.transforms:
                transformed = transform(transformed, step)
            # Convolutions are faster with channels last, whatever the layout of their weights.
            inputs = normalization.to_model(transformed).contiguous(memory_format=torch.channels_last)
            # Before the model runs, as it may change its input in place.
            start = get_gradient_edge(inputs).node
            found = run(inputs)
            view = View(pixels, normalization, *found)
            if method.branch_gradient != 1:
                weaken_branches(found.tensors(), start, method.branch_gradient)
            if objective.logits and not index:
                check_differentiable(model, inputs, view.logits)
            return view

        def decay(share: float) -> None:
            with torch.no_grad():
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    for parameter in group["params"]:
                        parameter.mul_(1 - share * group["lr"] / rate)

        for index in range(method.steps):
            if method.parameter_decay:
                decay(method.parameter_decay / method.steps)

            def closure(index: int = index) -> float:
                optimizer.zero_grad()
                view = view_at(index)
                if goal is not None:
                    stopped.add(goal.reached(view), view.pixels, index)
                loss = -objective.score(view).sum()
                del view
                for parameter, gradient in zip(
                    image.parameters, torch.autograd.grad(loss, image.parameters), strict=True
                ):
                    parameter.grad = gradient
                for hook in method.step_hooks:
                    hook.before_step(image)
                return float(loss.detach())

            optimizer.step(closure)
            if stopped.all():
                break
            if scheduler is not None:
                scheduler.step()
            for hook in method.step_hooks:
                hook.after_step(image, index + 1)
            image.project()
            bar.update()
    return stopped.result(image, method.steps)


def _progress_bar(what: str, steps: int, *, shown: bool) -> "tqdm[Any]":
    """Create a bar that only the first of several processes shows."""
    first = not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0
    disable = not (shown and first)
    # A log file is updated less often than a terminal.
    interval = 0.1 if sys.stderr.isatty() else DELAY
    return tqdm(desc=what, total=steps, unit="step", delay=DELAY, mininterval=interval, leave=False, disable=disable)


class _StoppedEarly:
    """The images that reached the goal, as they were at that step."""

    def __init__(self, image: Parameterization) -> None:
        first = image.pixels().detach()
        self._done = torch.zeros(len(first), dtype=torch.bool, device=first.device)
        self._steps = torch.zeros(len(first), dtype=torch.long, device=first.device)
        self._pixels = first.clone()

    def add(self, reached: Tensor, pixels: Tensor, step: int) -> None:
        new = reached & ~self._done
        self._pixels[new] = pixels.detach()[new]
        self._steps[new] = step
        self._done |= new

    def all(self) -> bool:
        return bool(self._done.all())

    def result(self, image: Parameterization, steps: int) -> Ascent:
        last = image.pixels().detach()
        done = self._done.view(-1, 1, 1, 1)
        return Ascent(torch.where(done, self._pixels, last), torch.where(self._done, self._steps, steps))
