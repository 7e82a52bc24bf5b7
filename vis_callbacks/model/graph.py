"""What a graph of autograd tells about a model: which tensors all that reaches the logits goes through."""

from typing import Any

from torch import Tensor
from torch.autograd.graph import get_gradient_edge

_PRIME = 2**61 - 1


def nodes_on_every_path(output: Tensor, inputs: Tensor) -> set[Any]:
    """Return the nodes of a graph through which every path from a tensor back to the inputs goes.

    A node is on all paths if as many go through it as there are. Their numbers are huge, so they are counted modulo a
    prime.

    Args:
        output: The end of the graph.
        inputs: A leaf that requires gradients.

    Example:
        >>> import torch
        >>> x = torch.ones(1, requires_grad=True)
        >>> y = x * 2
        >>> branch = y.exp()
        >>> nodes = nodes_on_every_path((branch + y).sum(), x)
        >>> y.grad_fn in nodes, branch.grad_fn in nodes
        (True, False)
    """
    root: Any = output.grad_fn
    order = _back_to_front(root)
    to_inputs = {get_gradient_edge(inputs).node: 1}
    for node in order:
        to_inputs.setdefault(node, sum(to_inputs.get(one, 0) for one in _before(node)) % _PRIME)
    to_output = dict.fromkeys(order, 0)
    to_output[root] = 1
    for node in reversed(order):
        for one in _before(node):
            to_output[one] = (to_output[one] + to_output[node]) % _PRIME
    paths = to_inputs.get(root, 0)
    return {node for node in order if paths and to_inputs[node] * to_output[node] % _PRIME == paths}


def _before(node: Any) -> list[Any]:
    return [before for before, _ in node.next_functions if before is not None]


def _back_to_front(root: Any) -> list[Any]:
    """Return the nodes of a graph, each behind all those that it was made of."""
    order: dict[Any, None] = {}
    stack = [root] if root is not None else []
    while stack:
        node = stack[-1]
        missing = [one for one in _before(node) if one not in order]
        stack.extend(missing)
        if not missing:
            order[stack.pop()] = None
    return list(order)
