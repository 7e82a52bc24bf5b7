"""Activations: the outputs of a layer's channels for an image."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from vis_callbacks import checks
from vis_callbacks.callback import SharedOptions, VisualizationCallback
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.event import Event, Needs
from vis_callbacks.inspection.filters import columns_for, seeded_subset
from vis_callbacks.model import Layout, find_layer, find_layout, full_name, guarded, trace_in_chunks
from vis_callbacks.model.feature_info import AcrossDepth
from vis_callbacks.panel import Panel, Tile

Channels: TypeAlias = Literal["strongest", "random"] | Sequence[int]
"""Which channels are looked at: those of largest mean magnitude over the images, a random subset, or listed ones."""

ActivationScale = Literal["fixed", "layer", "channel"]
"""The end of the colour scale: that of the shown channels at the first event after training began (``fixed``), the
largest shown value for the image now (``layer``), or each channel's largest value (``channel``)."""

_QUANTILE = 0.99  # of a channel's values that are not 0, at which its own scale would end
_OF_CHANNELS = 0.75  # quantile of those ends: a few channels of very large values must not darken the others
_MOST_VALUES = 1_000_000  # of a channel, by which its scale is found

_KEPT = ("chosen", "limits", "settled")
"""State that stays the same during a fit, by layer."""


@guarded
def activations(model: nn.Module, images: Tensor, layer: str | None = None, *, chunk_size: int | None = None) -> Tensor:
    """Return the output of a layer for images, as maps.

    Yosinski et al., "Understanding Neural Networks Through Deep Visualization", 2015, arXiv:1506.06579.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space.
        layer: Name of a layer; None: the last whose map is fine enough.
        chunk_size: Images in one pass; None: chosen by their size. It has no effect on the result.

    Returns:
        ``(N, C, h, w)`` float32. Channels-last maps and tokens, without class and register tokens, are brought to this
        form.

    Raises:
        ConfigurationError: If the images are not ``(N, C, H, W)``.
        LayerError: If the layer is not found, did not run, or gives no map.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> activations(net, torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 8, 14, 14])
    """
    layout = find_layout(model, images, layer)
    # Without gradients the outputs of other layers are not kept.
    with torch.no_grad():
        seen = trace_in_chunks(model, images, activations=[layout], chunk_size=chunk_size)
    return layout.to_map(seen.activations[layout.layer])


def choose_channels(maps: Tensor, channels: Channels, most: int, *, seed: int = 0) -> list[int]:
    """Choose channels, by number.

    Args:
        maps: ``(N, C, h, w)``.
        channels: Which, see `Channels`. The strongest come first, others in order.
        most: Largest number of channels; listed ones are all kept.
        seed: Of the random subset.

    Raises:
        ConfigurationError: If a listed channel is none of the maps'.

    Example:
        >>> choose_channels(torch.tensor([0.1, -3.0, 2.0]).view(1, 3, 1, 1), "strongest", 2)
        [1, 2]
    """
    count = maps.shape[1]
    if channels == "random":
        return seeded_subset(count, most, seed)
    if channels == "strongest":
        order = maps.abs().mean(dim=(0, 2, 3)).argsort(descending=True, stable=True)
        return [int(index) for index in order[:most]]
    chosen = [int(channel) for channel in channels]
    wrong = [channel for channel in chosen if not 0 <= channel < count]
    if wrong:
        raise ConfigurationError(f"channel {wrong[0]}: expected a number from 0 to {count - 1}")
    return chosen


def check_channels(channels: Channels) -> Channels:
    """Return which channels are looked at, or raise a `ConfigurationError` if the value is wrong."""
    if isinstance(channels, str) and channels in ("strongest", "random"):
        return channels
    return checks.channel_numbers("channels", channels, "'strongest', 'random' or a list of channel numbers")


def scale_end(maps: Tensor) -> float:
    """Return where a colour scale ends that suits most channels; 0 if all values are 0.

    Args:
        maps: ``(N, C, h, w)``, of either sign.

    Example:
        >>> maps = torch.ones(1, 8, 16, 16)
        >>> maps[:, 0] = 1000
        >>> maps[:, 1:3] = 0
        >>> scale_end(maps)
        1.0
    """
    ends = []
    for channel in maps.transpose(0, 1).flatten(1):
        values = channel[:: -(-channel.numel() // _MOST_VALUES)].abs()
        values = values[(values > 0) & values.isfinite()]
        if len(values):
            ends.append(float(values.kthvalue(math.ceil(_QUANTILE * len(values))).values))
    return sorted(ends)[math.floor(_OF_CHANNELS * (len(ends) - 1))] if ends else 0.0


class Activations(VisualizationCallback):
    """Shows the outputs of some layers' channels for each sample: the same channels on the same scale at every event.

    Read it for channels that are dead or always on; one channel may respond to several things.

    0 is black; the brighter a place, the stronger the channel's response there: purple, orange and yellow are positive,
    blue and cyan negative. The scale of a layer is that of the channels shown.

    Args:
        layers: Names of layers; None: ends of stages over the depth.
        depth: How many layers are chosen if none are named.
        max_channels: Largest number of channels shown per layer.
        channels: Which channels, see `Channels`; the strongest are found at the first event.
        scale: See `ActivationScale`.
        options: Shared by all callbacks, see `VisualizationCallback`.

    Raises:
        ConfigurationError: If an option has a wrong value; at `setup`, if a layer is not found.
    """

    def __init__(
        self,
        layers: str | Sequence[str] | None = None,
        *,
        depth: int = 4,
        max_channels: int = 64,
        channels: Channels = "strongest",
        scale: ActivationScale = "fixed",
        **options: Unpack[SharedOptions],
    ) -> None:
        super().__init__(**options)
        self.layers = checks.optional(checks.layer_names, "layers", layers)
        self.depth = checks.whole("depth", depth)
        self.max_channels = checks.whole("max_channels", max_channels)
        self.channels = check_channels(channels)
        self.scale = checks.one_of("scale", scale, ActivationScale)
        self.chosen: dict[str, list[int]] = {}
        self.limits: dict[str, float] = {}
        self.settled: dict[str, bool] = {}

    def check(self, model: nn.Module) -> None:
        """Raise a `LayerError` if a named layer is not found."""
        for layer in self.layers or ():
            find_layer(model, layer)

    def needs(self, event: Event) -> Needs:
        """The layers' outputs."""
        if self.layers is None:
            return Needs(activations=(AcrossDepth(self.depth),))
        return Needs(activations=tuple(full_name(event.model, name) for name in self.layers))

    def visualize(self, event: Event) -> Iterable[Panel]:
        """Show each sample with the maps of each layer's channels."""
        if self.layers is None:
            layouts = event.layouts_across_depth(self.depth)
        else:
            layouts = [event.layout(layer) for layer in self.layers]
        for layout in layouts:
            maps = layout.to_map(event.trace.activations[layout.layer]).cpu()
            name = layout.layer
            if name not in self.chosen:
                self.chosen[name] = choose_channels(maps, self.channels, self.max_channels, seed=self.seed)
            channels, every = self.chosen[name], list(range(maps.shape[1]))
            if not self.settled.get(name, False):
                self.limits[name] = scale_end(maps[:, channels])
                # The outputs of an untrained network do not show the range of later ones.
                self.settled[name] = event.moment.epoch > 0 and self.limits[name] > 0
            caption = self._caption(layout, len(channels), maps)
            for index in range(len(event.samples)):
                # Until they are drawn, views hold the maps of all channels: a copy of those shown, if there are others.
                shown = maps[index] if channels == every else maps[index][channels]
                limits = self._limits(shown, name)
                tiles = [
                    Tile(values, "response", str(channel), limit=limit)
                    for values, channel, limit in zip(shown.unsqueeze(1), channels, limits, strict=True)
                ]
                panel = event.sample_panel(index, *tiles, columns=columns_for(len(tiles) + 1), caption=caption)
                yield dataclasses.replace(panel, name=f"{panel.name}/{name}")

    def state_dict(self) -> dict[str, Any]:
        """Keep the channels and the colour scales."""
        kept = {name: getattr(self, name) for name in _KEPT}
        return {**super().state_dict(), **kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the channels and the colour scales."""
        super().load_state_dict(state_dict)
        for name in _KEPT:
            setattr(self, name, state_dict[name])

    def _limits(self, shown: Tensor, layer: str) -> list[float]:
        """Return where the colour scale of each channel ends."""
        if self.scale == "fixed":
            ends = [self.limits[layer]] * len(shown)
        else:
            largest = shown.abs().amax(dim=(1, 2))
            ends = (largest.max().expand_as(largest) if self.scale == "layer" else largest).tolist()
        return [max(end, 1e-12) for end in ends]

    def _caption(self, layout: Layout, shown: int, maps: Tensor) -> str:
        which = {"strongest": "strongest at first", "random": "random"}.get(str(self.channels), "listed")
        count = f"all {layout.channels}" if shown == layout.channels else f"{shown} ({which}) of {layout.channels}"
        limit = f"{self.limits[layout.layer]:.2g}"
        # The least and the most of each channel tell all, several times faster than comparing each number.
        flat = maps.flatten(2)
        least, most = flat.amin(dim=2).amin(dim=0), flat.amax(dim=2).amax(dim=0)
        if bool((least < 0).any()):
            limit = f"±{limit} (blue: negative)"
        scale = {"fixed": limit, "layer": "the largest value here"}.get(self.scale, "each channel's largest value")
        silent = int(((least == 0) & (most == 0)).sum())
        height, width = layout.size
        return f"{layout.layer}: {count} channels of {height}×{width}; scale to {scale}; {silent} silent"
