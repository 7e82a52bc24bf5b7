"""Gradients for dead units: where a ReLU is 0 for a whole image, its own gradient is zero."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from vis_callbacks.model.torch_functions import CLIPPED, RELUS, Function, FunctionMode, is_in_place


class RedirectedGradients(FunctionMode):
    """While active, a gradient that a ReLU would stop for a whole image passes where it raises dead units.

    Where any part of an image's gradient passes, nothing changes (Olah et al., "Feature visualization", 2017). ReLU
    and ReLU6 are found in any spelling.

    Example:
        >>> from torch.nn import functional as F
        >>> x = torch.full((1, 4), -1.0, requires_grad=True)
        >>> with RedirectedGradients():
        ...     loss = -F.relu(x).sum()
        >>> torch.autograd.grad(loss, x)[0]
        tensor([[-1., -1., -1., -1.]])
    """

    def __init__(self) -> None:
        super().__init__({function: partial(_redirected, function) for function in RELUS | CLIPPED}, spellings=True)


def _redirected(function: Function, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    with torch.no_grad():
        # Not in place yet: the backward compares inputs and outputs.
        outputs = function(input.detach().clone(), *args, **kwargs)
    outputs = _Redirected.apply(input, outputs)
    return input.copy_(outputs) if is_in_place(function, **kwargs) else outputs


class _Redirected(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, outputs: Tensor) -> Tensor:
        ctx.save_for_backward(outputs > inputs, outputs < inputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        below, above = ctx.saved_tensors
        plain = gradients[0].masked_fill(below | above, 0)
        lost = (plain == 0).flatten(1).all(dim=1).view(-1, *[1] * (plain.ndim - 1))
        # The loss is minimised: a negative gradient raises a dead unit, a positive one lowers a saturated one.
        raising = (below & (gradients[0] < 0)) | (above & (gradients[0] > 0))
        return torch.where(lost & raising, gradients[0], plain), None
