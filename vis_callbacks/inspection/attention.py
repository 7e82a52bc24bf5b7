"""Attention: what each head of a layer looks at."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from vis_callbacks import checks
from vis_callbacks.callback import SharedOptions, VisualizationCallback
from vis_callbacks.errors import ConfigurationError, LayerError, nearest
from vis_callbacks.event import Event, Needs
from vis_callbacks.inspection.filters import columns_for
from vis_callbacks.model import (
    AttentionCall,
    AttentionReads,
    PlacedCall,
    find_layer,
    full_name,
    guarded,
    no_attention,
    placed_calls,
    trace_in_chunks,
    with_heads,
)
from vis_callbacks.model.attention_code import may_attend
from vis_callbacks.model.features import feature_info
from vis_callbacks.panel import Panel, Tile

Heads = Literal["mean", "each"]
"""Whether the mean over a layer's heads is shown, or each head beside the mean."""


@guarded
def attention(model: nn.Module, images: Tensor, layer: str | None = None, *, chunk_size: int | None = None) -> Tensor:
    """Return how much each token looks at each other: softmax(q k^T) of one layer, fused or not.

    Windows of an image are put together again: tokens are in the order of the image, and those of different windows
    look at each other by 0.

    Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space.
        layer: Name of a layer that computes attention, or of one around it; None: the last one.
        chunk_size: Images in one pass; None: chosen by their size. It has no effect on the result.

    Returns:
        ``(N, heads, T, T)`` float32; rows sum to 1. Class and register tokens are where the model has them, mostly
        first. Where there are fewer queries than keys, as if a class token alone asks, ``(N, heads, T, S)``.

    Raises:
        ConfigurationError: If the model has no attention, or the images are not ``(N, C, H, W)``.
        LayerError: If the layer is not found or has no attention.

    Example:
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.patches, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)
        ...         self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        ...     def forward(self, images):
        ...         return self.head(self.encoder(self.patches(images).flatten(2).transpose(1, 2)).mean(1))
        >>> attention(Net(), torch.rand(1, 3, 16, 16)).shape
        torch.Size([1, 2, 16, 16])
    """
    name = full_name(model, layer)
    found = feature_info(model, images)
    with torch.no_grad():
        seen = trace_in_chunks(model, images, attention=AttentionReads((name,)), chunk_size=chunk_size)
    call = call_of(seen.attention, name, model)
    placed = placed_calls([call], found, len(images))
    return placed[0].whole() if placed else with_heads(call, len(images)).weights()


def call_of(calls: Sequence[AttentionCall], layer: str | None, model: nn.Module) -> AttentionCall:
    """Return the last attention of a layer or inside it, or of the model.

    Raises:
        ConfigurationError: If the model has no attention.
        LayerError: If the layer has none.
    """
    if not calls:
        raise no_attention(model)
    inside = [call for call in calls if layer is None or call.layer == layer or call.layer.startswith(f"{layer}.")]
    if not inside:
        names = list(dict.fromkeys(call.layer for call in calls))
        raise LayerError(f"layer {layer!r} computes no attention; {nearest(str(layer), names)}")
    return inside[-1]


class Attention(VisualizationCallback):
    """Shows where the class token looks, by head, or all places together where there is none.

    Read it for where single heads look; to look is not to use, and it has no class.

    Args:
        layers: Names of layers that compute attention, or of ones around it; None: the last.
        heads: See `Heads`.
        max_heads: Largest number of heads shown.
        alpha: Opacity of a map over its image, in [0, 1].
        options: Shared by all callbacks, see `VisualizationCallback`.

    Raises:
        ConfigurationError: If an option has a wrong value; at `setup`, if the model has no attention, or a layer is not
            found.
    """

    def __init__(
        self,
        layers: str | Sequence[str] | None = None,
        *,
        heads: Heads = "each",
        max_heads: int = 12,
        alpha: float = 0.6,
        **options: Unpack[SharedOptions],
    ) -> None:
        super().__init__(**options)
        named = checks.optional(checks.layer_names, "layers", layers)
        self.layers: tuple[str | None, ...] = named or (None,)
        self.heads = checks.one_of("heads", heads, Heads)
        self.max_heads = checks.whole("max_heads", max_heads)
        self.alpha = checks.number("alpha", alpha, 0, 1)

    def check(self, model: nn.Module) -> None:
        """Raise a `ConfigurationError` if the model has no attention, or a layer is not found."""
        for layer in filter(None, self.layers):
            find_layer(model, layer)
        if not may_attend(model):
            raise no_attention(model)

    def needs(self, event: Event) -> Needs:
        """The attention of the layers, by head."""
        return Needs(attention=AttentionReads(tuple(full_name(event.model, layer) for layer in self.layers)))

    def visualize(self, event: Event) -> Iterable[Panel]:
        """Show each sample with the maps of each layer's heads."""
        seen = event.trace
        found = feature_info(event.model, event.samples.images)
        for layer in self.layers:
            call = call_of(seen.attention, full_name(event.model, layer), event.model)
            placed = placed_calls([call], found, len(seen.images))
            if not placed:
                raise ConfigurationError(
                    f"the attention of {call.layer or type(event.model).__name__} is between channels, or windows of "
                    "unknown place: it has no map; name another layer in layers="
                )
            yield from self._panels(event, placed[0], named=len(self.layers) > 1)

    def _panels(self, event: Event, placed: PlacedCall, *, named: bool) -> Iterable[Panel]:
        images = event.samples.images
        maps = placed.looked_at(placed.asked(len(images), images.device))
        size = (images.shape[-2], images.shape[-1])
        maps = nn.functional.interpolate(maps, size=size, mode="bilinear", align_corners=False).cpu()
        count = min(maps.shape[1], self.max_heads) if self.heads == "each" and maps.shape[1] > 1 else 0
        height, width = placed.keys.size
        asks = "class token" if placed.reads_class else "mean over all places"
        layer = placed.call.layer or type(event.model).__name__
        caption = f"{asks} of {layer}, {height}×{width}; {maps.shape[1]} heads"
        for index in range(len(event.samples)):
            pixels = event.samples.pixels[index]
            shown = [("mean", maps[index].mean(dim=0)), *((str(head), maps[index, head]) for head in range(count))]
            tiles = [
                Tile(values, "heat", name if count else "", backdrop=pixels, alpha=self.alpha) for name, values in shown
            ]
            panel = event.sample_panel(index, *tiles, columns=columns_for(len(tiles) + 1), caption=caption)
            yield dataclasses.replace(panel, name=f"{panel.name}/{layer}") if named else panel
