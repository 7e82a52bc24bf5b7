"""What a loss is computed from, read from its autograd graph."""

from collections import deque
from typing import Any

from torch import Tensor

from vis_callbacks.diagnostics.facts import LossFacts

_MOST = 200
"""Nodes that are looked at, from the loss on."""

_PASSING = ("View", "UnsafeView", "ReshapeAlias", "ToCopy", "Squeeze", "Unsqueeze", "Alias", "Clone", "Index", "Slice",
            "Select", "Transpose", "T", "Permute")  # fmt: skip
"""Operations that change no value."""

_TWICE = {"LogSoftmax": {"Softmax": "softmax"}, "BinaryCrossEntropyWithLogits": {"Sigmoid": "sigmoid"}}
_NO_LOGARITHM = {"Softmax": "probabilities", "Addmm": "logits", "Mm": "logits", "Convolution": "logits"}
_LIKELIHOOD = {"NllLoss": _NO_LOGARITHM, "NllLoss2D": _NO_LOGARITHM}
"""What a function is given, by its name and by that of the operation that has computed it."""


def loss_facts(loss: Tensor) -> LossFacts:
    """Return which functions the loss takes, and of what.

    Example:
        >>> import torch
        >>> logits = torch.zeros(2, 3, requires_grad=True)
        >>> loss_facts(torch.nn.functional.cross_entropy(logits.softmax(dim=1), torch.tensor([0, 1]))).twice
        'softmax'
    """
    waiting: deque[Any] = deque([loss.grad_fn])
    seen: set[Any] = set()
    twice = likelihood_of = ""
    while waiting and len(seen) < _MOST:
        node = waiting.popleft()
        if node is None or node in seen:
            continue
        seen.add(node)
        name = _name(node)
        if name in _TWICE:
            twice = twice or _TWICE[name].get(_origin(node), "")
        elif name in _LIKELIHOOD:
            likelihood_of = likelihood_of or _LIKELIHOOD[name].get(_origin(node), "")
        waiting.extend(one for one, _ in node.next_functions)
    return LossFacts(twice, likelihood_of)


def _origin(node: Any) -> str:
    """Return the name of what has computed the first values that a node gets."""
    while node.next_functions:
        node = node.next_functions[0][0]
        if node is None or _name(node) not in _PASSING:
            break
    return "" if node is None else _name(node)


def _name(node: Any) -> str:
    name: str = node.name().partition("Backward")[0]
    return name
