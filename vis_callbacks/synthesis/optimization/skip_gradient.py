"""Skip gradients: a backward pass in which residual branches count for less than the skips beside them."""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial, reduce
from operator import or_
from typing import Any, NamedTuple

import torch
from torch import Tensor

_IN_PLACE_ON_A_VIEW = "torch::autograd::CopySlices"

_ADDITIONS = {"AddBackward0", "AddcmulBackward0", "AddmmBackward0", "BaddbmmBackward0", _IN_PLACE_ON_A_VIEW}
"""Nodes that add what the other inputs make to their first one. One in place on a view may do something else."""

_PRODUCTS = re.compile(r"^(Add|Badd|B)?b?[Mm]mBackward")

_LAYERS = re.compile(rf"Conv(?!ert)|^Linear|{_PRODUCTS.pattern}|(Batch|Layer|Group|Rms)Norm")
"""Names of the nodes of convolutions, matrix products and normalisations, and of functions that stand for them."""


class Residual(NamedTuple):
    """A residual connection.

    Attributes:
        addition: The node of the addition.
        branch: Which of its inputs belong to the branch; the others are the skip.
        projected: Whether the skip has layers of its own.
    """

    addition: Any
    branch: tuple[bool, ...]
    projected: bool

    def weaken(self, factor: float) -> None:
        """Multiply the gradient that enters the branch in the coming backward."""
        weaken = _weaken_on_a_view if self.addition.name() == _IN_PLACE_ON_A_VIEW else _weaken
        # At the addition, not at the branch's last node: what else reads the branch gets the whole gradient.
        self.addition.register_hook(partial(weaken, self.branch, factor))


def weaken_branches(outputs: Iterable[Tensor], inputs: Any, factor: float) -> None:
    """Multiply the gradients that enter residual branches in the coming backward; those of the skips stay whole.

    A gradient that has gone through many branches is then nearly gone. What is left comes through few of them, and
    depends less on the particular network (Wu et al., "Skip connections matter", arXiv 2002.05990). Nothing happens in
    models without residual connections, and in graphs that show none, as compiled ones.

    Branches beside a projected skip stay whole: on a small network with three of these in four, images got worse
    where they were weakened too.

    Args:
        outputs: What the model returned, and what was read of its layers.
        inputs: The node of the model's input, taken before the forward pass.
        factor: Of each branch's gradient, where the branch is added to its skip.

    Example:
        >>> from torch.autograd.graph import get_gradient_edge
        >>> x = torch.ones(1, 2, requires_grad=True)
        >>> y = x + 6 * torch.nn.functional.linear(x, torch.eye(2))
        >>> weaken_branches([y], get_gradient_edge(x).node, 0.5)
        >>> torch.autograd.grad(y.sum(), x)[0]
        tensor([[4., 4.]])
    """
    for connection in residual_connections(outputs, inputs):
        if not connection.projected:
            connection.weaken(factor)


def residual_connections(outputs: Iterable[Tensor], inputs: Any) -> Iterator[Residual]:
    """Yield the residual connections of a graph.

    An addition is one if the ways to its two sides part at some node, and

    * one side is computed from the other, by layers: the other is the skip; or
    * neither is, as where the skip is projected or pooled: the skip is the side with the fewer layers on its shortest
      way, if these are at most half as many. Where they are more, as in parallel branches of like depth, nothing tells
      which is the skip, and the addition is no residual connection.

    Layers are convolutions, matrix products and normalisations. Without them, the x + x³ of an activation and rotary
    embeddings, which are sums too, would be taken for residual connections.

    Args:
        outputs: Where the graph ends.
        inputs: The node where it begins.
    """
    graph = _Graph(outputs, inputs)
    for node in graph.nodes:
        if node.name() in _ADDITIONS:
            first, *rest = [one if one in graph.reached else None for one, _ in node.next_functions]
            if first is not None and any(one is not None for one in rest):
                found = graph.branch([first], [one for one in rest if one is not None], _is_product(node))
                if found is not None:
                    side, projected = found
                    yield Residual(node, (side == 0, *(side == 1 for _ in rest)), projected)


def _is_product(node: Any) -> bool:
    return bool(_PRODUCTS.search(node.name()))


class _Graph:
    """The nodes between the inputs and the outputs of a model.

    Attributes:
        nodes: Each behind those that it is computed from.
        reached: Of each node, the set of itself and the nodes that it is computed from, as the bits of a number.
    """

    def __init__(self, outputs: Iterable[Tensor], inputs: Any) -> None:
        self._before = _nodes_between(outputs, inputs)
        self.nodes = list(self._before)
        self.reached: dict[Any, int] = {}
        self._layers = 0
        for index, node in enumerate(self.nodes):
            bit = 1 << index
            self.reached[node] = reduce(or_, map(self.reached.__getitem__, self._before[node]), bit)
            if _LAYERS.search(node.name()):
                self._layers |= bit

    def branch(self, first: list[Any], second: list[Any], multiplied: bool) -> tuple[int, bool] | None:
        """Return which of two sides of an addition is a residual branch, if any, and whether the skip is projected.

        Args:
            first: The nodes of the first side.
            second: Those of the second.
            multiplied: Whether the addition itself multiplies the second by weights.
        """
        one, other = (reduce(or_, map(self.reached.__getitem__, side)) for side in (first, second))
        alone = one & ~other, other & ~one
        if multiplied or (alone[0] and alone[1]):
            depths = self._least_layers(first, alone[0]), self._least_layers(second, alone[1]) + multiplied
            side = int(depths[1] > depths[0])
            return (side, depths[1 - side] > 0) if 2 * depths[1 - side] <= depths[side] > 0 else None
        side = int(alone[1] > 0)
        return (side, False) if alone[side] & self._layers else None

    def _least_layers(self, side: Sequence[Any], alone: int) -> int:
        """Return the number of layers on the shortest way to a side, among nodes that belong to it alone."""
        least: dict[Any, int] = {}
        while alone:
            bit = alone & -alone
            node = self.nodes[bit.bit_length() - 1]
            least[node] = bool(bit & self._layers) + min(least.get(one, 0) for one in self._before[node])
            alone ^= bit
        return min(least.get(node, 0) for node in side)


def _nodes_between(outputs: Iterable[Tensor], inputs: Any) -> dict[Any, list[Any]]:
    """Return the nodes from inputs to outputs, each behind those that it is computed from, and with them."""
    between: dict[Any, list[Any]] = {inputs: []}
    # All nodes are kept until the end: one that was given up would come back as another object.
    seen: dict[Any, list[Any]] = {inputs: []}
    stack = [output.grad_fn for output in outputs if output.grad_fn is not None]
    while stack:
        node: Any = stack[-1]
        if node not in seen:
            seen[node] = [one for one, _ in node.next_functions if one is not None]
            stack.extend(one for one in seen[node] if one not in seen)
            continue
        stack.pop()
        before = [one for one in seen[node] if one in between]
        if before:
            between.setdefault(node, before)
    return between


def _weaken(branch: tuple[bool, ...], factor: float, gradients: tuple[Any, ...], _: Any) -> tuple[Any, ...]:
    return tuple(
        gradient * factor if weaker and gradient is not None else gradient
        for gradient, weaker in zip(gradients, branch, strict=True)
    )


def _weaken_on_a_view(
    branch: tuple[bool, ...], factor: float, gradients: tuple[Any, ...], given: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Weaken the branch if what was done in place was an addition: only then the gradient passes as it came."""
    whole, *rest = gradients
    if whole is None or (branch[0] and not any(one is not None and one.numel() == whole.numel() for one in rest)):
        # Of a view of a part, the rest belongs to no branch.
        return gradients
    factors = torch.where((whole == given[0]).all(), factor, 1.0).to(whole.dtype)
    return tuple(
        gradient * factors if weaker and gradient is not None else gradient
        for gradient, weaker in zip(gradients, branch, strict=True)
    )
