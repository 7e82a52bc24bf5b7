"""A way up for units that are dead: a ReLU that is 0 everywhere has no gradient to climb."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_RELUS = {F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}
_CLIPPED = {F.relu6, F.hardtanh}


class RedirectedGradients(TorchFunctionMode):
    """While active, gradients that would die at a ReLU for a whole image pass where they raise dead units.

    Where any gradient of an image gets through, nothing is changed (Olah et al., "Feature visualization", 2017). ReLU
    and ReLU6 are found as modules and functions.

    Example:
        >>> x = torch.full((1, 4), -1.0, requires_grad=True)
        >>> with RedirectedGradients():
        ...     loss = -F.relu(x).sum()
        >>> torch.autograd.grad(loss, x)[0]
        tensor([[-1., -1., -1., -1.]])
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a function of torch; a ReLU with another backward."""
        del types
        kwargs = dict(kwargs or {})
        if func not in _RELUS | _CLIPPED:
            return func(*args, **kwargs)
        inputs = args[0] if args else kwargs["input"]
        with torch.no_grad():
            # Not in place yet: the backward needs to know where the inputs were.
            outputs = func(inputs.detach().clone(), *args[1:], **{k: v for k, v in kwargs.items() if k != "input"})
        outputs = _Redirected.apply(inputs, outputs)
        in_place = func in (torch.relu_, Tensor.relu_) or kwargs.get("inplace") or True in args[1:]
        return inputs.copy_(outputs) if in_place else outputs


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
        # The loss is what falls: a negative gradient wants more of a dead unit, a positive one less of a full one.
        raising = (below & (gradients[0] < 0)) | (above & (gradients[0] > 0))
        return torch.where(lost & raising, gradients[0], plain), None
