"""Graphs that keep only what gradients at the images need: about a fourth of what training keeps."""

from collections.abc import Callable
from typing import Any, SupportsInt

import torch
from torch import Tensor
from torch.autograd.graph import disable_saved_tensors_hooks
from torch.nn import functional as F
from torch.nn.grad import conv1d_input, conv2d_input, conv3d_input

from vis_callbacks.model.torch_functions import RELUS, Function, FunctionMode, is_in_place


class LeanGraph(FunctionMode):
    """While active, layers with frozen weights keep less for the backward; outputs and gradients are the same.

    torch keeps the input of a convolution or BatchNorm for gradients of weights, which are not needed here, and the
    output of a ReLU for its signs.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).requires_grad_(False)
        >>> images = torch.rand(2, 3, 8, 8, requires_grad=True)
        >>> with LeanGraph():
        ...     output = net(images)
        >>> torch.equal(output, net(images)), torch.autograd.grad(output.sum(), images)[0].shape
        (True, torch.Size([2, 3, 8, 8]))
    """

    def __init__(self) -> None:
        super().__init__(_LEAN)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or running_mean is None or running_var is None or not _is_lean(input, weight, bias):
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    output: Tensor = _BatchNorm.apply(input, running_mean, running_var, weight, bias, eps)
    return output


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        factor = (var + eps).rsqrt() if weight is None else weight * (var + eps).rsqrt()
        ctx.save_for_backward(factor.view(-1, *(1 for _ in inputs.shape[2:])))
        return F.batch_norm(inputs, mean, var, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (factor,) = ctx.saved_tensors
        return (gradient * factor).to(gradient.dtype), None, None, None, None, None


def _convolution(plain: Callable[..., Tensor], gradient_at_input: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a convolution that keeps nothing but its weights, made of torch's own and its gradient."""

    class Convolution(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> Tensor:
            ctx.save_for_backward(weight)
            ctx.shape, ctx.dtype, ctx.how = inputs.shape, inputs.dtype, how
            return plain(inputs, weight, bias, *how)

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
            (weight,) = ctx.saved_tensors
            # Under autocast the forward ran in another precision than that of the weights.
            found = gradient_at_input(ctx.shape, weight.to(gradient.dtype), gradient, *ctx.how)
            return found.to(ctx.dtype), None, None, None, None, None, None

    def convolution(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: SupportsInt = 1,
    ) -> Tensor:
        how = stride, padding, dilation, groups
        # The padding may be a string, and the input may have no batch axis.
        if isinstance(padding, str) or input.ndim != weight.ndim or not _is_lean(input, weight, bias):
            return plain(input, weight, bias, *how)
        output: Tensor = Convolution.apply(input, weight, bias, *how)
        return output

    return convolution


def _relu(input: Tensor, inplace: bool = False) -> Tensor:
    if not _is_lean(input):
        return F.relu(input, inplace)
    output: Tensor = _ReLU.apply(input, inplace)
    return output


def _relu_(input: Tensor) -> Tensor:
    return _relu(input, inplace=True)


class _ReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, inplace: bool) -> Tensor:
        if inplace:
            ctx.mark_dirty(inputs)
        output = F.relu(inputs, inplace)
        ctx.save_for_backward(output <= 0)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (closed,) = ctx.saved_tensors
        return gradient.masked_fill(closed, 0), None


def _has_saved_tensors_hooks() -> bool:
    """Whether hooks read what graphs keep, as in checkpointing, which compares it with what a second forward keeps."""
    try:
        with disable_saved_tensors_hooks("a test whether there are any"):
            return False
    except RuntimeError:
        return True


def _is_lean(inputs: Tensor, *weights: Tensor | None) -> bool:
    trained = any(weight is not None and weight.requires_grad for weight in weights)
    return inputs.requires_grad and not trained and not _has_saved_tensors_hooks()


_LEAN: dict[Function, Function] = {
    F.batch_norm: _batch_norm,
    F.conv1d: _convolution(F.conv1d, conv1d_input),
    F.conv2d: _convolution(F.conv2d, conv2d_input),
    F.conv3d: _convolution(F.conv3d, conv3d_input),
    **{relu: _relu_ if is_in_place(relu) else _relu for relu in RELUS},
}
