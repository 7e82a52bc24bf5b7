"""The keyword arguments that the attribution callbacks share."""

from __future__ import annotations

from collections.abc import Sequence

from vis_callbacks.attribution.callback import Display
from vis_callbacks.callback import SharedOptions


class AttributionOptions(SharedOptions, total=False):
    """Those of every callback and those of a map's display; they are explained at `AttributionCallback`."""

    display: Display | Sequence[Display] | None
    alpha: float
