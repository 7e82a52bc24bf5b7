"""Skip gradients: a backward pass in which residual branches count for less than the skips beside them."""

import re
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

_ADDITIONS = {
    "AddBackward0": False,
    "AddcmulBackward0": False,
    "AddmmBackward0": True,
    "BaddbmmBackward0": True,
}
"""Nodes that add their first input to what the others make; whether the others are multiplied by weights."""

_LAYER = re.compile(r"Conv(?!ert)|^Linear|^(Add|Badd|B)?b?[Mm]mBackward|(Batch|Layer|Group|Rms)Norm")
"""Names of the nodes of convolutions, matrix products and normalisations, and of functions that stand for them."""


def weaken_branches(outputs: Iterable[Tensor], inputs: Any, factor: float) -> None:
    """Multiply the gradients that enter residual branches in the coming backward; those of the skips stay whole.

    The gradient of a branch falls exponentially with the branches that it goes through, so what is left comes from
    combinations of few of them, which other networks share (Wu et al., "Skip connections matter", arXiv 2002.05990).
    Nothing happens in models without residual connections, and in graphs that show none, as compiled ones.

    Args:
        outputs: What the model returned, and what was read of its layers.
        inputs: The node of the model's input, taken before the forward pass.
        factor: Of each branch's gradient, where the branch is added to its skip.

    Example:
        >>> import torch
        >>> x = torch.ones(1, 2, requires_grad=True)
        >>> y = x + 6 * torch.nn.functional.linear(x, torch.eye(2))
        >>> weaken_branches([y], torch.autograd.graph.get_gradient_edge(x).node, 0.5)
        >>> torch.autograd.grad(y.sum(), x)[0]
        tensor([[4., 4.]])
    """
    for connection in residual_connections(outputs, inputs):
        # At the addition, not at the branch's last node: what else reads the branch gets the whole gradient.
        connection.addition.register_hook(partial(_weakened, connection.branch, factor))


class Residual(NamedTuple):
    """A residual connection.

    Attributes:
        addition: The node of the addition.
        branch: Which of its inputs belong to the branch; the others are the skip.
    """

    addition: Any
    branch: tuple[bool, ...]


def residual_connections(outputs: Iterable[Tensor], inputs: Any) -> Iterator[Residual]:
    """Yield the residual connections of a graph.

    An addition is one if the paths to its two sides meet again, and

    * one side is computed from the other, by layers: the other is the skip; or
    * neither is, as where the skip is projected or pooled. Then the skip is the side that is reached through at most
      half as many layers as the other, each by its shortest way. Where neither is that short, as with parallel
      branches of like depth, nothing tells which is the skip: no residual connection.

    Layers are convolutions, matrix products and normalisations. Without that, the x + x³ of an activation or a rotary
    embedding, which is a sum too, would be taken for residual.

    Args:
        outputs: Where the graph ends.
        inputs: The node where it begins.
    """
    before = _graph(outputs, inputs)
    nodes = list(before)
    is_layer = {node: bool(_LAYER.search(node.name())) for node in nodes}
    # Sets of nodes, as the bits of a number: a node and all that it is computed from.
    reached = {inputs: 1}
    layers = 0
    for index, node in enumerate(nodes[1:], 1):
        bit = 1 << index
        reached[node] = bit
        for one in before[node]:
            reached[node] |= reached[one]
        layers |= bit * is_layer[node]

    def union(side: list[Any]) -> int:
        found = 0
        for node in side:
            found |= reached[node]
        return found

    def least_layers(side: list[Any], own: int) -> int:
        """Return the number of layers on the shortest way to a side, among nodes that belong to it alone."""
        least: dict[Any, int] = {}
        while own:
            node = nodes[(own & -own).bit_length() - 1]
            own &= own - 1
            least[node] = is_layer[node] + min(least.get(one, 0) for one in before[node])
        return min(least.get(node, 0) for node in side)

    for node in nodes[1:]:
        multiplied = _ADDITIONS.get(node.name())
        if multiplied is None:
            continue
        first, *rest = [one for one, _ in node.next_functions]
        sides = [first] if first in reached else [], [one for one in rest if one in reached]
        if not all(sides):
            continue
        one, other = map(union, sides)
        alone = one & ~other, other & ~one
        if not any(alone):
            continue
        if not all(alone):
            branch = 0 if alone[0] else 1
            found = bool(alone[branch] & layers) or (multiplied and branch == 1)
        else:
            depths = least_layers(sides[0], alone[0]), least_layers(sides[1], alone[1]) + multiplied
            branch = 0 if depths[0] > depths[1] else 1
            found = depths[branch] > 0 and 2 * depths[1 - branch] <= depths[branch]
        if found:
            yield Residual(node, (branch == 0, *(branch == 1 for _ in rest)))


def _graph(outputs: Iterable[Tensor], inputs: Any) -> dict[Any, list[Any]]:
    """Return the nodes between inputs and outputs, each behind those that it is computed from, and the latter."""
    # All nodes are kept until the end: one that was given up would come back as another object.
    seen: dict[Any, list[Any]] = {inputs: []}
    found: dict[Any, list[Any]] = {inputs: []}
    stack = [output.grad_fn for output in outputs if output.grad_fn is not None]
    while stack:
        node: Any = stack[-1]
        if node not in seen:
            seen[node] = [one for one, _ in node.next_functions if one is not None]
            stack.extend(one for one in seen[node] if one not in seen)
            continue
        stack.pop()
        if node not in found:
            leading = [one for one in seen[node] if one in found]
            if leading:
                found[node] = leading
    return found


def _weakened(
    branch: tuple[bool, ...], factor: float, gradients: tuple[Tensor | None, ...], _: Any
) -> tuple[Tensor | None, ...]:
    return tuple(
        gradient * factor if weaker and gradient is not None else gradient
        for gradient, weaker in zip(gradients, branch, strict=True)
    )
