"""Attention of any model, read while it runs: fused, explicit or torch's own, without touching a module."""

import inspect
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from vis_callbacks.model.layers import hookable_layers
from vis_callbacks.model.torch_functions import PRODUCTS_OF_MATRICES, SOFTMAXES, Function, FunctionMode

_AT_ONCE = 2**24
"""Most weights that are computed at a time."""


@dataclass(frozen=True)
class AttentionReads:
    """What is read of the attention of a pass.

    Attributes:
        by_head: Layers whose heads are kept apart: full names, or None for the last.
        everywhere: Whether the mean over the heads is read of all layers.
        gradients: Whether the gradient at all weights is read.
    """

    by_head: tuple[str | None, ...] = ()
    everywhere: bool = False
    gradients: bool = False

    def __bool__(self) -> bool:
        return bool(self.by_head) or self.everywhere or self.gradients

    def __or__(self, other: "AttentionReads") -> "AttentionReads":
        """Return what is read by both."""
        by_head = tuple(dict.fromkeys((*self.by_head, *other.by_head)))
        return AttentionReads(by_head, self.everywhere or other.everywhere, self.gradients or other.gradients)


UNREAD = AttentionReads()
"""Nothing is read of the attention."""


@dataclass(frozen=True)
class AttentionCall:
    """One attention of a pass: softmax(q k^T) of B = N, or N x windows, items.

    The weights of fused attention, which nobody holds, are computed again where they are asked for, a part of the
    queries at a time.

    Attributes:
        layer: Full name of the module that computes it; "" for the model itself.
        queries: Number of queries T.
        keys: Number of keys S.
        tensors: What the weights are computed from, each with B first: ``weights`` ``(B, heads, T, S)``, or their
            ``mean`` ``(B, T, S)`` over the heads, or ``query``, ``key`` and perhaps ``mask``; ``relevance``
            ``(B, T, S)``, or ``value`` and the ``gradient`` of the output.
        scale: Factor of q k^T.
        causal: Whether a query looks at no later key.
    """

    layer: str
    queries: int
    keys: int
    tensors: dict[str, Tensor] = field(repr=False)
    scale: float = 1.0
    causal: bool = False

    @property
    def items(self) -> int:
        """B."""
        return len(next(iter(self.tensors.values())))

    @property
    def has_gradient(self) -> bool:
        """Whether the logit has a gradient at the weights."""
        return "relevance" in self.tensors or "gradient" in self.tensors

    def weights(self, rows: slice = slice(None)) -> Tensor:
        """Return the weights of some queries, ``(B, heads, t, S)`` float32."""
        if "weights" in self.tensors:
            return self.tensors["weights"][:, :, rows].float()
        query, key = self.tensors["query"][:, :, rows].float(), self.tensors["key"].float()
        scores = query @ self._for_heads(key, query).transpose(-2, -1) * self.scale
        mask = self.tensors.get("mask")
        if mask is not None:
            mask = mask[..., rows, :] if mask.shape[-2] > 1 else mask
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask.float()
        if self.causal:
            later = torch.ones(self.queries, self.keys, dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later[rows], -math.inf)
        # A query that sees no key looks at nothing.
        return scores.softmax(dim=-1).nan_to_num(0.0)

    def mean_weights(self, rows: slice = slice(None)) -> Tensor:
        """Return the mean over the heads of the weights of some queries, ``(B, t, S)`` float32."""
        return self.tensors["mean"][:, rows] if "mean" in self.tensors else self.weights(rows).mean(dim=1)

    def relevance(self, rows: slice = slice(None)) -> Tensor:
        """Return the mean over the heads of ReLU(gradient x weights) of some queries, ``(B, t, S)`` float32."""
        if "relevance" in self.tensors:
            return self.tensors["relevance"][:, rows]
        gradient, value = self.tensors["gradient"][:, :, rows].float(), self.tensors["value"].float()
        at_weights = gradient @ self._for_heads(value, gradient).transpose(-2, -1)
        return (at_weights * self.weights(rows)).relu().mean(dim=1)

    def in_rows(self) -> Iterator[slice]:
        """Yield the queries in parts whose weights are few enough to hold."""
        heads = next(iter(self.tensors.values())).shape[1] if "mean" not in self.tensors else 1
        step = max(1, _AT_ONCE // max(self.items * heads * self.keys, 1))
        for start in range(0, self.queries, step):
            yield slice(start, start + step)

    @staticmethod
    def _for_heads(tensor: Tensor, other: Tensor) -> Tensor:
        # Several heads of queries may share one of keys and values.
        return tensor.repeat_interleave(other.shape[1] // max(tensor.shape[1], 1), dim=1)


def joined_calls(parts: Sequence[Sequence[AttentionCall]]) -> tuple[AttentionCall, ...]:
    """Concatenate the attention of several batches."""
    joined = []
    for same in zip(*parts, strict=True):
        tensors = {
            name: one if len(same) == 1 else torch.cat([call.tensors[name] for call in same])
            for name, one in same[0].tensors.items()
            if all(name in call.tensors for call in same)
        }
        joined.append(replace(same[0], tensors=tensors))
    return tuple(joined)


class AttentionWatch(FunctionMode):
    """While a model runs, see each ``softmax(q k^T)`` that it computes, fused or not.

    ``scaled_dot_product_attention`` goes on as it is; the queries and keys are kept. A softmax is an attention if its
    input comes from a product of matrices. ``nn.MultiheadAttention`` computes its weights itself while this is active,
    as its fast paths are for nobody who looks. Gradients are caught when the graph is differentiated.

    Args:
        model: The model that will run.
        reads: What is read.
        ask: Called with the name of the layer and its queries ``(B, heads, T, d)``, in the graph, of each attention.

    Example:
        >>> model = nn.MultiheadAttention(8, 2, batch_first=True)
        >>> with AttentionWatch(model, AttentionReads((None,))) as watch:
        ...     _ = model(*[torch.rand(1, 5, 8)] * 3)
        >>> watch.calls()[0].weights().shape
        torch.Size([1, 2, 5, 5])
    """

    def __init__(
        self, model: nn.Module, reads: AttentionReads, ask: Callable[[str, Tensor], None] | None = None
    ) -> None:
        super().__init__({})
        self._reads = reads
        self._ask = ask
        self._names = {id(module): name for name, module in hookable_layers(model).items()}
        self._model = model
        self._calls: list[AttentionCall] = []
        self._begin: RemovableHandle | None = None
        # By identity: products of matrices that may become scores, and weights.
        self._scores: dict[int, _Noted] = {}
        self._weights: dict[int, _Noted] = {}

    def __enter__(self) -> "AttentionWatch":
        """Start; a model that runs again has the attention of its last run."""
        super().__enter__()  # type: ignore[no-untyped-call]
        if not isinstance(self._model, torch.jit.ScriptModule):
            self._begin = self._model.register_forward_pre_hook(lambda *_: self._calls.clear())
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        if self._begin is not None:
            self._begin.remove()
        # Nothing of the graph is held.
        self._scores.clear()
        self._weights.clear()

    def __torch_function__(
        self, func: Function, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function of torch."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._fused(func, args, kwargs)
        if func is F.multi_head_attention_forward:
            return self._multi_head(func, args, kwargs)
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and result.ndim > 2:
            self._follow(func, args, kwargs, result)
        return result

    def calls(self) -> tuple[AttentionCall, ...]:
        """Return what was seen, in order, without what is not read. Gradients are there once they were computed."""
        if not self._calls:
            return ()
        kept = []
        for call in self._calls:
            last = call is self._calls[-1]
            named = any(
                (last if name is None else call.layer == name or call.layer.startswith(f"{name}."))
                for name in self._reads.by_head
            )
            tensors = dict(call.tensors)
            if not named:
                if not (self._reads.everywhere or self._reads.gradients):
                    tensors = {}
                elif "weights" in tensors:
                    tensors["mean"] = tensors.pop("weights").float().mean(dim=1)
            if "gradient" not in tensors:
                tensors.pop("value", None)
            if not tensors:
                # Still known by name, for those who ask for another.
                tensors["none"] = torch.empty(call.items, 0)
            kept.append(replace(call, tensors=tensors))
        return tuple(kept)

    def _fused(self, func: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        result = func(*args, **kwargs)
        given = {**dict(zip(_FUSED, args, strict=False)), **kwargs}
        query, key, value, mask = (given.get(name) for name in ("query", "key", "value", "attn_mask"))
        assert isinstance(query, Tensor)
        assert isinstance(key, Tensor)
        assert isinstance(value, Tensor)
        scale = given.get("scale")
        place, heads = self._place()
        if self._ask is not None:
            self._ask(place, _by_item(query, heads))
        if not self._reads:
            return result
        tensors = {"query": _by_item(query, heads), "key": _by_item(key, heads)}
        if mask is not None:
            axes = torch.broadcast_shapes(mask.shape[:-2], query.shape[:-2])  # type: ignore[no-untyped-call]
            tensors["mask"] = _by_item(mask.expand(*axes, *mask.shape[-2:]), heads)
        call = AttentionCall(
            place,
            query.shape[-2],
            key.shape[-2],
            {name: one.detach() for name, one in tensors.items()},
            scale=query.shape[-1] ** -0.5 if scale is None else scale,
            causal=bool(given.get("is_causal", False)),
        )
        if self._reads.gradients and result.requires_grad:
            call.tensors["value"] = _by_item(value, heads).detach()
            result.register_hook(partial(_keep_gradient, call.tensors, heads))
        self._calls.append(call)
        return result

    def _multi_head(self, func: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        asked = inspect.signature(func).bind(*args, **kwargs)
        asked.apply_defaults()
        needed, averaged = asked.arguments["need_weights"], asked.arguments["average_attn_weights"]
        if not self._reads or (asked.arguments["is_causal"] and asked.arguments["attn_mask"] is None):
            return func(*args, **kwargs)
        asked.arguments.update(need_weights=True, average_attn_weights=False)
        output, weights = func(*asked.args, **asked.kwargs)
        batched = weights if weights.ndim == 4 else weights[None]
        self._remember(batched, weights.grad_fn)
        if not needed:
            return output, None
        return output, weights.mean(dim=-3) if averaged else weights

    def _follow(self, func: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Tensor) -> None:
        inputs = list(_tensors((*args, *kwargs.values())))
        if func in PRODUCTS_OF_MATRICES:
            if not any(_knows(self._weights, one) for one in inputs):
                # The operands in front of the last are the queries, unless the product is added to something.
                query = inputs[-2] if len(inputs) > 1 else None
                _note(self._scores, result, query if self._ask is not None else None)
            return
        if func in SOFTMAXES and "log" not in func.__name__:
            source = next(iter(inputs), None)
            if source is not None and _knows(self._scores, source):
                query = self._scores[id(source)].query
                _note(self._weights, result, None)
                self._see_softmax(result, kwargs.get("dim", args[1] if len(args) > 1 else None), query)
            return
        # Scaled, masked, biased, mixed over the heads, cast, or in another shape: still the same numbers' places.
        for known in (self._scores, self._weights):
            source = next((one for one in inputs if one.numel() == result.numel() and _knows(known, one)), None)
            if source is not None:
                _note(known, result, known[id(source)].query)

    def _see_softmax(self, weights: Tensor, dim: Any, query: Tensor | None) -> None:
        axis = dim % weights.ndim if isinstance(dim, int) else None
        if self._ask is not None and query is not None and query.ndim > 2 and axis == weights.ndim - 1:
            place, heads = self._place()
            self._ask(place, _by_item(query, heads))
        if not self._reads:
            return
        if axis == weights.ndim - 1:
            self._remember(weights, weights.grad_fn)
        elif axis == weights.ndim - 2:
            self._remember(weights.transpose(-2, -1), weights.grad_fn, transposed=True)

    def _remember(self, weights: Tensor, node: Any, *, transposed: bool = False) -> None:
        place, heads = self._place()
        kept = _by_item(weights, heads).detach()
        call = AttentionCall(place, kept.shape[-2], kept.shape[-1], {"weights": kept})
        # What torch returns is a view, past which the output is computed.
        while node is not None and "Softmax" not in node.name():
            node = node.next_functions[0][0] if node.next_functions else None
        if self._reads.gradients and node is not None:
            node.register_prehook(partial(_keep_relevance, call.tensors, kept, heads, transposed))
        self._calls.append(call)

    def _place(self) -> tuple[str, int | None]:
        """Return the innermost module that is running and more than a softmax: its name and its number of heads."""
        frame = sys._getframe(1)
        while frame is not None:
            code = frame.f_code
            first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
            if isinstance(first, nn.Module) and id(first) in self._names and not isinstance(first, _NO_PLACE):
                heads = (getattr(first, name, None) for name in _HEADS)
                return self._names[id(first)], next((one for one in heads if type(one) is int), None)
            if frame.f_back is None:
                break
            frame = frame.f_back
        return "", None


_FUSED = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
_HEADS = ("num_heads", "heads", "n_heads", "num_attention_heads", "nhead")
_NO_PLACE = (nn.Softmax, nn.Dropout, nn.Identity)


def _keep_gradient(tensors: dict[str, Tensor], heads: int | None, gradient: Tensor) -> None:
    tensors["gradient"] = _by_item(gradient, heads).detach()


def _keep_relevance(
    tensors: dict[str, Tensor],
    weights: Tensor,
    heads: int | None,
    transposed: bool,
    gradients: tuple[Tensor | None, ...],
) -> None:
    gradient = gradients[0]
    if gradient is not None:
        gradient = gradient.transpose(-2, -1) if transposed else gradient
        gradient = gradient.reshape(weights.shape) if gradient.ndim < 5 else _by_item(gradient, heads)
        tensors["relevance"] = (gradient.float() * weights.float()).relu().mean(dim=1)


def _by_item(tensor: Tensor, heads: int | None) -> Tensor:
    """Return a tensor ``(..., T, S)`` with items and heads before, ``(B, heads, T, S)``."""
    if tensor.ndim < 4:
        return tensor.reshape(-1, 1, *tensor.shape[-2:])
    if tensor.ndim == 4:
        return tensor
    # Of five axes, one is that of the windows: the one before the heads or the one behind them.
    axis = -3 if tensor.shape[-3] == heads and tensor.shape[1] != heads else 1
    return tensor.movedim(axis, -3).flatten(0, -4)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (one for one in value if isinstance(one, Tensor))


class _Noted(NamedTuple):
    """A tensor that is followed, and the queries that it was computed from, if they are asked for."""

    of: "ref[Tensor]"
    query: Tensor | None


def _note(known: dict[int, _Noted], tensor: Tensor, query: Tensor | None) -> None:
    key = id(tensor)
    known[key] = _Noted(ref(tensor, lambda _: known.pop(key, None)), query)


def _knows(known: Mapping[int, _Noted], tensor: Tensor) -> bool:
    found = known.get(id(tensor))
    return found is not None and found.of() is tensor
