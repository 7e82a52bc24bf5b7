"""BatchNorms in eval mode that keep nothing but a factor for the backward, which takes a third of a graph's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class FrozenNorms(TorchFunctionMode):
    """While active, a BatchNorm that uses its running statistics lets go of its input; what it gives is the same.

    torch keeps the input for the gradient of the statistics and weights, which nobody asks for where they are frozen.

    Example:
        >>> norm, x = torch.nn.BatchNorm2d(3).eval().requires_grad_(False), torch.rand(2, 3, 4, 4, requires_grad=True)
        >>> with FrozenNorms():
        ...     y = norm(x)
        >>> torch.equal(y, norm(x)), torch.autograd.grad(y.sum(), x)[0][0, 0, 0, 0]
        (True, tensor(1.0000))
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a function of torch; a frozen BatchNorm with a smaller backward."""
        del types
        if func is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


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
    trained = any(tensor is not None and tensor.requires_grad for tensor in (weight, bias))
    if training or trained or running_mean is None or running_var is None or not input.requires_grad:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    output: Tensor = _FrozenNorm.apply(input, running_mean, running_var, weight, bias, eps)
    return output


class _FrozenNorm(torch.autograd.Function):
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
