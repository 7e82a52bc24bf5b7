"""Regularizers: penalties to subtract from an objective, and hooks around each step of the optimizer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vis_callbacks.data.blur import gaussian_blur
from vis_callbacks.synthesis.optimization.objectives import Objective, View
from vis_callbacks.synthesis.optimization.parameterizations import Parameterization


def l1() -> Objective:
    """Σ|I|, the sum of magnitudes of the image in model space."""
    return Objective(lambda view: view.image.abs().sum(dim=(1, 2, 3)))


def l2() -> Objective:
    """‖I‖², the sum of squares of the image in model space; 0 for the mean image."""
    return Objective(lambda view: view.image.square().sum(dim=(1, 2, 3)))


def alpha_norm(alpha: float = 6.0) -> Objective:
    """Mean of |I|^alpha in model space: a high power penalises only values outside the usual range.

    Args:
        alpha: The power (Mahendran and Vedaldi, arXiv 1412.0035, use 6).
    """
    return Objective(lambda view: view.image.abs().pow(alpha).mean(dim=(1, 2, 3)))


def total_variation() -> Objective:
    """Mean absolute difference of neighbouring pixels, in pixel units."""

    def score(view: View) -> Tensor:
        across, down = view.pixels.diff(dim=-1), view.pixels.diff(dim=-2)
        count = max(across[0].numel() + down[0].numel(), 1)
        return (across.abs().sum(dim=(1, 2, 3)) + down.abs().sum(dim=(1, 2, 3))) / count

    return Objective(score)


class StepHook:
    """Changes gradients before or parameters after each step of the optimizer."""

    def before_step(self, image: Parameterization) -> None:
        """Change the gradients in place."""

    def after_step(self, image: Parameterization, step: int) -> None:
        """Change the parameters in place, after step number `step`, from 1."""


@dataclass(frozen=True)
class GradientClipping(StepHook):
    """Clip the L2 norm of each image's gradient.

    Attributes:
        norm: Largest norm.
    """

    norm: float = 0.1

    def before_step(self, image: Parameterization) -> None:
        """Clip the gradients."""
        for parameter in image.parameters:
            if parameter.grad is not None:
                parameter.grad.copy_(parameter.grad.renorm(2, 0, self.norm))


@dataclass(frozen=True)
class GradientScaling(StepHook):
    """Divide each image's gradient by its mean magnitude, so that one learning rate suits all images and layers."""

    def before_step(self, image: Parameterization) -> None:
        """Scale the gradients."""
        for parameter in image.parameters:
            if parameter.grad is not None:
                mean = parameter.grad.abs().flatten(1).mean(dim=1).clamp_min(1e-12)
                parameter.grad.div_(mean.view(-1, *[1] * (parameter.ndim - 1)))


@dataclass(frozen=True)
class Blur(StepHook):
    """Blur the parameters every few steps, for parameterizations by pixels.

    Attributes:
        every: Steps from one blur to the next.
        sigma: Standard deviation of the Gaussian, in pixels.
    """

    every: int = 4
    sigma: float = 1.0

    def after_step(self, image: Parameterization, step: int) -> None:
        """Blur every `every` steps."""
        if step % self.every == 0:
            with torch.no_grad():
                for parameter in image.parameters:
                    parameter.copy_(gaussian_blur(parameter, self.sigma))
