"""Integrated gradients: the gradient averaged along the path from a baseline to the image."""

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from vis_callbacks import checks
from vis_callbacks.attribution.callback import AttributionCallback, AttributionOptions
from vis_callbacks.data.samples import Samples
from vis_callbacks.event import Event, Moment
from vis_callbacks.model import (
    Targets,
    add_by_row,
    baseline_for,
    fixed_targets,
    gradients_of,
    guarded,
    in_chunks,
    pixels_of,
)


@guarded
def integrated_gradients(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    baseline: Tensor | float | None = None,
    steps: int = 32,
    *,
    chunk_size: int | None = None,
) -> Tensor:
    """Multiply the difference from a baseline by the mean gradient of the target logit along the path.

    The values of an image sum to the logit at the image minus the logit at the baseline, up to the error of the
    integration, which is Gauss and Legendre's. On a deep network the logit is jagged along the path: 32 steps show the
    picture; for the sum to agree within a few percent, a hundred and more may be needed.

    Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", 2017, arXiv:1703.01365.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space.
        targets: Classes ``(N,)``, pairs ``(N, 2)`` for the first's logit minus the second's, one class for all, or
            None for the predicted ones.
        baseline: Start of the path, in the model's input space: a number, or a tensor that broadcasts to the images.
            None: zero, for most models the mean colour.
        steps: Points on the path.
        chunk_size: Images in one pass; None: chosen by their size. It has no effect on the result.

    Returns:
        ``(N, C, H, W)`` float32, signed, in logits.

    Raises:
        ConfigurationError: If the images, targets or baseline do not fit, or there are no steps.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
        >>> images = torch.rand(2, 3, 2, 2)
        >>> rise = model(images)[:, 4] - model(torch.zeros_like(images))[:, 4]
        >>> torch.allclose(integrated_gradients(model, images, 4).sum((1, 2, 3)), rise, atol=1e-5)
        True
    """
    steps = checks.whole("steps", steps)
    chosen = fixed_targets(model, images, targets)
    start = baseline_for(images, baseline)
    difference = images.float() - start
    total = torch.zeros_like(difference)
    nodes, weights = (torch.as_tensor(one).to(difference) for one in np.polynomial.legendre.leggauss(steps))

    def gradients(items: Tensor) -> Tensor:
        rows, places = items // steps, items % steps
        # From [-1, 1], where the nodes are, to the path; the weights sum to 2.
        at, weight = ((1 + nodes[places]) / 2)[:, None, None, None], (weights[places] / 2)[:, None, None, None]
        return weight * gradients_of(model, start[rows] + at * difference[rows], chosen[rows])

    for items, found in in_chunks(
        gradients, len(images) * steps, pixels=pixels_of(images), device=images.device, chunk_size=chunk_size
    ):
        add_by_row(total, items // steps, found)
    return difference * total


class IntegratedGradients(AttributionCallback):
    """Shows integrated gradients from a baseline of zero in model space. See `integrated_gradients`.

    Read it for shares that add up to the score; on photographs they do not tell one class from another.

    Args:
        steps: Points on the path.
        options: See `AttributionCallback`.

    Raises:
        ConfigurationError: If there are no steps.
    """

    function = staticmethod(integrated_gradients)
    split = "samples"

    def __init__(self, *, steps: int = 32, **options: Unpack[AttributionOptions]) -> None:
        super().__init__(**options)
        self.steps = checks.whole("steps", steps)

    def passes(self, moment: Moment, samples: Samples) -> int:
        """One per step."""
        return self.steps * len(samples)

    def attribute(self, event: Event) -> Tensor:
        """Return ``(N, C, H, W)``, signed."""
        return integrated_gradients(event.model, event.samples.images, event.trace.targets, steps=self.steps)
