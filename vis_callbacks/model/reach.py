"""Which maps of a pass the logit depends on, seen in its backward, and the gradients of those that may be shown."""

from collections.abc import Iterable

from torch import Tensor

from vis_callbacks.model.layout import Layout

_FEW_CHANNELS = 4


class Reach:
    """Watches the gradients of maps, and keeps those of the deepest map and of the best that was met so far.

    Attributes:
        found: By number of the output, the deepest first: whether its map has a gradient at two places or more.
    """

    def __init__(self) -> None:
        self.found: dict[int, bool] = {}
        # By source: how good a default it is, 0 is the best; and gradients, by number of the output.
        self._ranks: dict[int, int] = {}
        self._kept: dict[int, dict[int, Tensor]] = {}

    def keep(self, sources: Iterable[int]) -> None:
        """Keep gradients in the backward that follows; the sources of maps come in order, the best default first."""
        for rank, source in enumerate(sources):
            self._ranks.setdefault(source, rank)

    def gradient(self, source: int, number: int) -> Tensor | None:
        """Return the gradient of an output, if it was kept."""
        return self._kept.get(source, {}).get(number)

    def watch(self, number: int, source: int, layout: Layout, tensor: Tensor) -> None:
        """Find out in the backward whether the logit depends on an output.

        Args:
            number: Number of the output.
            source: Number of the one that another layer made and this one returns beside others.
            layout: Where its places are.
            tensor: The output.
        """
        found, ranks, kept = self.found, self._ranks, self._kept

        # The hook holds nothing of the pass: a tensor that its own hook holds is a cycle that Python cannot free.
        def hook(gradient: Tensor | None) -> None:
            if gradient is None:
                # A quantised layer follows.
                return
            # The deepest layers come first.
            first = layout.to_map(gradient)[0]
            # Of many channels a few say it, as a rule.
            found[number] = _reaches_places(first[:_FEW_CHANNELS]) or _reaches_places(first)
            if found[number] and source in ranks:
                kept.setdefault(source, {})[number] = gradient
                needed = next(iter(kept)), min(kept, key=ranks.__getitem__)
                for other in kept.keys() - needed:
                    del kept[other]

        tensor.register_hook(hook)  # type: ignore[no-untyped-call]


def _reaches_places(gradient: Tensor) -> bool:
    """Return whether a gradient ``(C, H, W)`` is not zero at two places or more."""
    return int(gradient.count_nonzero(dim=0).count_nonzero()) > 1
