"""Where on the image the queries and keys of an attention are, and what flows through all of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vis_callbacks.errors import ConfigurationError
from vis_callbacks.model.attention import AttentionCall
from vis_callbacks.model.feature_info import FeatureInfo
from vis_callbacks.model.layout import Layout
from vis_callbacks.model.subject import Network, kind_of

_MOST_CLASS_TOKENS = 16


@dataclass(frozen=True)
class OnImage:
    """Amounts on the image's tokens, and on the others: class, distillation and register tokens.

    Attributes:
        others: ``(N, p)``.
        grid: ``(N, h, w)``; without positions where there are only other tokens.
    """

    others: Tensor
    grid: Tensor

    def at(self, tokens: "Tokens") -> "OnImage":
        """Return the same amounts on other tokens; that of a position spreads evenly over its place."""
        grid = self.grid
        if tuple(grid.shape[1:]) != tokens.size and tokens.places and grid.numel():
            shrinks = grid[0].numel() / tokens.places
            grid = F.interpolate(grid[:, None], size=tokens.size, mode="area")[:, 0] * shrinks
        elif tuple(grid.shape[1:]) != tokens.size:
            grid = grid.new_zeros(len(grid), *tokens.size)
        return OnImage(F.pad(self.others, (0, tokens.others - self.others.shape[1])), grid)

    def plus(self, other: "OnImage") -> "OnImage":
        """Return the sum of amounts on the same tokens."""
        return OnImage(self.others + other.others, self.grid + other.grid)

    def times(self, factor: float) -> "OnImage":
        """Return the amounts times a factor."""
        return OnImage(self.others * factor, self.grid * factor)


@dataclass(frozen=True)
class Tokens:
    """Where tokens ``(N x windows, T)`` are.

    Attributes:
        size: ``(h, w)`` of their grid; (0, 0) where all stand for no place, such as a class token alone.
        prefix: Number of tokens before those of the grid.
        suffix: Number of tokens behind those of the grid.
        windows: Number of windows of an image.
        order: Index of each position, row by row, among the tokens of all windows; None for the same order.
    """

    size: tuple[int, int]
    prefix: int = 0
    suffix: int = 0
    windows: int = 1
    order: tuple[int, ...] | None = None

    @property
    def others(self) -> int:
        """Number of tokens that are not those of the grid."""
        return self.prefix + self.suffix

    @property
    def places(self) -> int:
        """Number of positions of the grid."""
        return self.size[0] * self.size[1]

    def read(self, values: Tensor) -> OnImage:
        """Return on the image what lies on the tokens ``(N x windows, T)``."""
        flat = values.reshape(-1, self.windows * values.shape[1])
        behind = flat.shape[1] - self.suffix
        others, rest = torch.cat([flat[:, : self.prefix], flat[:, behind:]], dim=1), flat[:, self.prefix : behind]
        if self.order is not None:
            rest = rest[:, torch.tensor(self.order, device=rest.device)]
        return OnImage(others, rest.reshape(len(flat), *self.size))

    def write(self, amounts: OnImage, length: int) -> Tensor:
        """Return on the tokens ``(N x windows, length)`` what lies on the image."""
        rest = amounts.grid.flatten(1)
        if self.order is not None:
            flat = rest.new_zeros(len(rest), self.windows * length - self.others)
            flat[:, torch.tensor(self.order, device=rest.device)] = rest
            rest = flat
        before, behind = amounts.others[:, : self.prefix], amounts.others[:, self.prefix :]
        return torch.cat([before, rest, behind], dim=1).view(-1, length)


@dataclass(frozen=True)
class PlacedCall:
    """An attention whose keys are places of the image.

    Attributes:
        call: The attention, of N x windows items.
        queries: Where its queries are.
        keys: Where its keys are.
        reads_class: Whether the logits read a token that is not one of the image's, and not the places.
    """

    call: AttentionCall
    queries: Tokens
    keys: Tokens
    reads_class: bool

    def asked(self, count: int, device: torch.device) -> OnImage:
        """Return how much each query counts: the class token alone, or where the logits read none, all places alike."""
        others = torch.zeros(count, self.queries.others, device=device)
        grid = torch.zeros(count, *self.queries.size, device=device)
        if self.reads_class:
            others[:, 0] = 1.0
        else:
            grid += 1 / self.queries.places
        return OnImage(others, grid)

    def whole(self) -> Tensor:
        """Return the weights ``(N, heads, T, S)`` between all tokens of an image, 0 between windows."""
        weights, count = self.call.weights(), self.queries.windows
        if count > 1:
            items, heads, length, keys = weights.shape
            apart = weights.view(-1, count, heads, length, keys)
            weights = weights.new_zeros(items // count, heads, count * length, count * keys)
            for window in range(count):
                rows, columns = (slice(window * one, (window + 1) * one) for one in (length, keys))
                weights[:, :, rows, columns] = apart[:, window]
        for axis, tokens in ((2, self.queries), (3, self.keys)):
            if tokens.order is not None:
                # Those of the padding around the image come last.
                places = set(tokens.order)
                order = [*tokens.order, *(one for one in range(weights.shape[axis]) if one not in places)]
                weights = weights.index_select(axis, torch.tensor(order, device=weights.device))
        return weights

    def looked_at(self, amounts: OnImage) -> Tensor:
        """Return how much the queries, each counted by its amount, look at each place: ``(N, heads, h, w)``."""
        counts = self.queries.write(amounts.at(self.queries), self.call.queries)
        found = sum(
            torch.einsum("bt,bhts->bhs", counts[:, rows], self.call.weights(rows)) for rows in self.call.in_rows()
        )
        assert isinstance(found, Tensor)
        return torch.stack([self.keys.read(head).grid for head in found.unbind(1)], dim=1)

    def through(self, amounts: OnImage, weights: Callable[[slice], Tensor]) -> OnImage:
        """Return where amounts on the queries come from, by weights ``(B, t, S)`` of some of the queries."""
        counts = self.queries.write(amounts, self.call.queries)
        parts = (torch.einsum("bt,bts->bs", counts[:, rows], weights(rows)) for rows in self.call.in_rows())
        return self.keys.read(torch.stack([*parts]).sum(dim=0))


def placed_calls(calls: Sequence[AttentionCall], found: FeatureInfo, count: int) -> list[PlacedCall]:
    """Return those of a pass's attentions that look at places of the image, not at channels, in order.

    Args:
        calls: The attentions of a pass.
        found: What is known of the model's layers.
        count: Number of images.
    """
    return [placed for call in calls if (placed := _placed(call, found, count)) is not None]


def with_heads(call: AttentionCall, items: int) -> AttentionCall:
    """Return an attention of `items` items, whose heads may so far lie along the first axis."""
    if call.items == items or call.items % items:
        return call

    def split(name: str, tensor: Tensor) -> Tensor:
        if name in ("mean", "relevance"):
            return tensor.view(items, -1, *tensor.shape[1:]).mean(dim=1)
        return tensor.reshape(items, -1, *tensor.shape[-2:])

    return replace(call, tensors={name: split(name, tensor) for name, tensor in call.tensors.items()})


def rolled_out(calls: Sequence[PlacedCall], start: OnImage) -> Tensor:
    """Follow amounts from the last attention's queries back to the image, as much by each residual as by the weights.

    Returns:
        ``(N, h, w)`` on the first attention's keys.
    """
    amounts = start
    for placed in reversed(calls):
        passed = placed.through(amounts.at(placed.queries), placed.call.mean_weights).times(0.5)
        kept = amounts.at(placed.keys)
        # Where class tokens alone ask, nothing happens to the places.
        places = kept.grid * (0.5 if placed.queries.places else 1.0)
        amounts = OnImage(0.5 * kept.others, places).plus(passed)
    return amounts.grid


def relevance_of(calls: Sequence[PlacedCall], start: OnImage) -> Tensor:
    """Follow relevance from the last attention's queries back to the image, added by each attention.

    Returns:
        ``(N, h, w)`` on the first attention's keys, without what was there at the start, which says nothing.
    """
    # What was there is followed apart: added to it, small relevance would be rounded away.
    gained = start.times(0.0)
    for placed in reversed(calls):
        asked = start.at(placed.queries).plus(gained.at(placed.queries))
        start, gained = start.at(placed.keys), gained.at(placed.keys)
        gained = gained.plus(placed.through(asked, placed.call.relevance))
    return gained.grid.clamp(min=0)


def _placed(call: AttentionCall, found: FeatureInfo, count: int) -> PlacedCall | None:
    near, others = _layouts_around(call.layer, found)
    own = found.queries.get(call.layer)
    if own is not None and call.items == count * own.windows:
        near = [own]
    queries = _tokens(call.queries, near)
    if queries is None:
        if not call.queries <= _MOST_CLASS_TOKENS or call.queries >= call.keys:
            return None
        queries = Tokens((0, 0), prefix=call.queries)
    same = call.keys == call.queries
    keys = queries if same else _tokens(call.keys, [*near, *others], windows=queries.windows)
    if keys is None or not keys.places or call.items % (count * queries.windows):
        return None
    call = with_heads(call, count * queries.windows)
    return PlacedCall(call, queries, keys, _reads_class(queries, found))


def _reads_class(queries: Tokens, found: FeatureInfo) -> bool:
    if not queries.places:
        return True
    # Places that no class token reads any more have no gradient behind the last attention.
    of_these = (queries.size, queries.prefix, queries.suffix)
    last = [
        layer
        for layer in found.layers
        if (known := layer.layout) is not None and (known.size, known.prefix, known.suffix) == of_these
    ]
    return bool(queries.others) and not (bool(last) and last[-1].reaches_logit)


def _layouts_around(name: str, found: FeatureInfo) -> tuple[list[Layout], list[Layout]]:
    """Return the layouts of a layer and of those around it, from inside to outside, and those of the others."""
    known = {layer.name: layer.layout for layer in found.layers if layer.layout is not None}
    around = list(_outwards(name))
    near = [known[one] for one in around if one in known]
    inside = [layout for one, layout in known.items() if not name or one.startswith(f"{name}.")]
    if name not in known:
        # What it returns is no map, but what it is made of may be.
        near = [*inside[::-1], *near]
    parent = around[1] if len(around) > 1 else ""
    beside = [layout for one, layout in known.items() if parent and one.startswith(f"{parent}.")]
    return near, [*inside, *beside, *known.values()]


def _outwards(name: str) -> Iterator[str]:
    while name:
        yield name
        name = name.rpartition(".")[0]


def _tokens(length: int, layouts: Sequence[Layout], windows: int | None = None) -> Tokens | None:
    for layout in layouts:
        tokens = Tokens(layout.size, layout.prefix, layout.suffix, layout.windows, layout.order)
        if layout.window is not None and layout.windows == 1 and layout.order:
            start = layout.order[0]
            if layout.order == tuple(range(start, length)):
                tokens = Tokens(layout.size, start)
        if windows in (None, tokens.windows) and _length(layout) == length:
            return tokens
    return None


def _length(layout: Layout) -> int:
    if layout.window is not None:
        return int(torch.Size(layout.window).numel())
    return layout.prefix + layout.size[0] * layout.size[1] + layout.suffix


def no_attention(model: nn.Module) -> ConfigurationError:
    """Return the error for a model that has no attention."""
    name = kind_of(model.module if isinstance(model, Network) else model)
    return ConfigurationError(f"{name} has no attention: it computes no softmax(q k^T); use GradCAM, which needs none")
