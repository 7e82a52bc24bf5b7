"""Graphs that keep only what a gradient at the images needs, which is a fourth of what training keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, SupportsInt

import torch
from torch import Tensor
from torch.autograd.graph import disable_saved_tensors_hooks
from torch.nn import functional as F
from torch.nn.grad import conv1d_input, conv2d_input, conv3d_input
from torch.overrides import TorchFunctionMode


class LeanGraph(TorchFunctionMode):
    """While active, layers whose weights are frozen let go of their inputs; what they give is the same.

    torch keeps the input of a convolution or BatchNorm for the gradients of weights that nobody asks for here, and the
    output of a ReLU for its signs.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).requires_grad_(False)
        >>> images = torch.rand(2, 3, 8, 8, requires_grad=True)
        >>> with LeanGraph():
        ...     output = net(images)
        >>> torch.equal(output, net(images)), torch.autograd.grad(output.sum(), images)[0].shape
        (True, torch.Size([2, 3, 8, 8]))
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a function of torch; where it has a leaner backward, with that."""
        del types
        lean = _LEAN.get(func)
        return (func if lean is None or _is_packed() else lean)(*args, **(kwargs or {}))


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
    """Return a convolution, of which torch's is given with its gradient, that keeps nothing but its weights."""

    class Convolution(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> Tensor:
            ctx.save_for_backward(weight)
            ctx.shape, ctx.dtype, ctx.how = inputs.shape, inputs.dtype, how
            return plain(inputs, weight, bias, *how)

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
            (weight,) = ctx.saved_tensors
            # Under autocast the forward was in another precision than the weights.
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
        # A padding may be a word, and images may come without a batch.
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


def _is_packed() -> bool:
    """Whether hooks look after what graphs keep, as in checkpointing, which compares that with a plain second pass."""
    try:
        with disable_saved_tensors_hooks("only asked"):
            return False
    except RuntimeError:
        return True


def _is_lean(inputs: Tensor, *weights: Tensor | None) -> bool:
    return inputs.requires_grad and not any(weight is not None and weight.requires_grad for weight in weights)


_LEAN: Mapping[Callable[..., Any], Callable[..., Any]] = {
    F.batch_norm: _batch_norm,
    F.conv1d: _convolution(F.conv1d, conv1d_input),
    F.conv2d: _convolution(F.conv2d, conv2d_input),
    F.conv3d: _convolution(F.conv3d, conv3d_input),
    F.relu: _relu,
    torch.relu: _relu,
    Tensor.relu: _relu,
    F.relu_: _relu_,
    torch.relu_: _relu_,
    Tensor.relu_: _relu_,
}
