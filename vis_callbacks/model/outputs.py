"""What a model returned: which of its tensors are the logits, and what they went through."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vis_callbacks.errors import ConfigurationError
from vis_callbacks.model.nested import shapes_in, tensors_in
from vis_callbacks.model.see_through import SeeThrough, Through

_SHAPES = (
    "aten::squeeze",
    "aten::view",
    "aten::reshape",
    "aten::flatten",
    "aten::to",
    "aten::contiguous",
    "aten::float",
)
"""What may stand between the sigmoid and the end of scripted code."""


@dataclass(frozen=True)
class Outputs:
    """The logits of a model.

    Attributes:
        logits: ``(N, K)`` float32.
        through: What the model itself applies to them.
        lifted: Whether the model disabled gradients somewhere, which had no effect.
        cut: The last place where the forward loses a gradient, see `SeeThrough`.
    """

    logits: Tensor
    through: Through = ""
    lifted: bool = False
    cut: str = ""


def declared_width(model: nn.Module) -> int | None:
    """Return how many classes a model says that it has; 0 or less means that it has no head."""
    holders = [model, getattr(model, "config", None), getattr(model, "hparams", None)]
    for name in ("output_width", "num_classes", "num_labels", "n_classes", "num_class"):
        for holder in holders:
            found = holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)
            if isinstance(found, int) and not isinstance(found, bool) and found > 0:
                return found
    return None


def candidates_in(output: Any, count: int) -> list[Tensor]:
    """Return the tensors of an output that may be the logits of `count` images: ``(N, K)`` and ``(N,)``, in order.

    What is called ``logits`` counts alone.
    """
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    tensors = list(tensors_in(output if isinstance(output, Tensor) or named is None else named))
    if count == 1 and isinstance(output, Tensor) and output.ndim == 1 and len(output) > 1:
        # A squeeze took the axis of the batch away.
        return tensors
    found = [one for one in tensors if one.ndim in (1, 2) and len(one) == count and one.is_floating_point()]
    return [one for place, one in enumerate(found) if all(one is not other for other in found[:place])]


def logits_among(model: nn.Module, candidates: Sequence[Tensor]) -> int | None:
    """Return which of the candidates are the logits; None if several may be.

    It is the one whose width is the number of classes that the model states; else not a single column next to others;
    else the one that is computed from all others.
    """
    left = list(range(len(candidates)))
    width = declared_width(model) if len(left) > 1 else None
    for fits in (
        lambda one, _: _width(one) == width,
        # Next to logits, a single column is a loss or a confidence.
        lambda one, _: _width(one) > 1,
        # Features may be returned without their graph.
        lambda one, _: one.requires_grad,
        lambda one, others: all(other is one or _is_computed_from(one, other) for other in others),
    ):
        if len(left) > 1:
            others = [candidates[at] for at in left]
            left = [at for at in left if fits(candidates[at], others)] or left
    return left[0] if len(left) == 1 else None


def outputs_from(model: nn.Module, count: int, found: Tensor, mode: SeeThrough | None = None) -> Outputs:
    """Return the outputs of a model for `count` images, of which one candidate are the logits, or hide them."""
    logits, through = _seen_through(model, found, mode)
    if logits.ndim == 1:
        logits = logits.unsqueeze(1 if len(logits) == count else 0)
    if mode is None:
        return Outputs(logits.float(), through)
    return Outputs(logits.float(), through, mode.lifted, mode.cut)


def unclear(model: nn.Module, count: int, output: Any, candidates: Sequence[Tensor]) -> ConfigurationError:
    """Return the error for an output without logits, or with several tensors that may be them."""
    name = type(model).__name__
    if not candidates:
        return ConfigurationError(
            f"no logits in the output of {name}: found {shapes_in(output)}, expected a floating tensor "
            f"({count}, classes), or a tuple, dict or object that holds one as `logits`"
        )
    widths = ", ".join(str(_width(one)) for one in candidates[:5])
    return ConfigurationError(
        f"{name} returns {len(candidates)} tensors that may be the logits, of {widths} columns: give forward=, a "
        "function (module, images) -> logits, or return one of them under the name `logits`"
    )


def _is_computed_from(later: Tensor, earlier: Tensor) -> bool:
    """Whether the graph of a tensor leads to another one."""
    wanted, todo = earlier.grad_fn, [later.grad_fn]
    seen: set[Any] = set()
    while todo and wanted is not None:
        node = todo.pop()
        if node is wanted:
            return later.grad_fn is not wanted
        if node is not None and node not in seen:
            seen.add(node)
            todo.extend(before for before, _ in node.next_functions)
    return False


def _width(tensor: Tensor) -> int:
    return 1 if tensor.ndim == 1 else tensor.shape[1]


def _seen_through(model: nn.Module, found: Tensor, mode: SeeThrough | None) -> tuple[Tensor, Through]:
    if mode is None:
        return found, ""
    origin = mode.origin(found)
    if origin is not None:
        return origin.logits, origin.through
    if mode.is_linear(found):
        return found, ""
    values = found.detach()
    least, most = values.aminmax()
    if not 0 <= float(least) <= float(most) <= 1:
        return found, ""
    last = _last_operations(model)
    if _are_distributions(values, certain="aten::softmax" in last):
        return found.float().clamp_min(torch.finfo(torch.float32).tiny).log(), "softmax"
    if "aten::sigmoid" in last:
        return torch.logit(found.float(), eps=torch.finfo(torch.float32).eps), "sigmoid"
    return found, ""


def _are_distributions(values: Tensor, *, certain: bool) -> bool:
    """Whether rows sum to 1, up to what rounding leaves; zeros and ones alone prove nothing."""
    if values.ndim != 2 or values.shape[1] < 2:
        return False
    sums = values.float().sum(dim=1)
    near = bool(((sums - 1).abs() < max(1e-4, torch.finfo(values.dtype).eps * 4)).all())
    return near and (certain or bool(((values > 0) & (values < 1)).any()))


def _last_operations(model: nn.Module) -> set[str]:
    """Return what scripted code, into which nobody can see while it runs, computes last."""
    if isinstance(model, torch.jit.ScriptModule):
        return {_last_operation(model)}
    return {operation for child in model.children() for operation in _last_operations(child)}


def _last_operation(module: torch.jit.ScriptModule) -> str:
    try:
        graph = module.inlined_graph
        (output,) = graph.outputs()
        node = output.node()
        while node.kind() in _SHAPES:
            node = next(node.inputs()).node()
        return str(node.kind())
    except (RuntimeError, AttributeError, ValueError, StopIteration):
        return ""
