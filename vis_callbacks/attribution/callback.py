"""The base of the attribution callbacks: a map beside each sample."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import Unpack

from vis_callbacks import checks
from vis_callbacks.callback import SharedOptions, VisualizationCallback
from vis_callbacks.data.blur import blurred_maps
from vis_callbacks.event import Event
from vis_callbacks.panel import Kind, Panel, Tile

Display = Literal["heatmap", "overlay", "gray", "color", "positive", "negative"]
"""How a map is shown.

* ``heatmap``: in colour; a signed map is summed over channels and diverges around zero.
* ``overlay``: the heatmap over the image.
* ``gray``: the magnitude, summed over channels, in gray.
* ``color``: a signed map of three channels as colour around mid-gray, pixel by pixel: fine outlines stay.
* ``positive``, ``negative``: the part above, or below, zero.
"""


SMOOTH = 1 / 112
"""How far maps are blurred where they are drawn, as a share of the longer side: two pixels of 224, none of 28.

On photographs, neighbouring pixels of a gradient have alternating signs: unblurred, red and blue are too fine to see.
What sums over the channels sums over neighbours too; colours are drawn pixel by pixel.
"""


class AttributionOptions(SharedOptions, total=False):
    """The options of every callback and those of a map's display; they are explained at `AttributionCallback`."""

    display: Display | Sequence[Display] | None
    alpha: float
    smooth: float


class AttributionCallback(VisualizationCallback):
    """Shows which pixels mattered, beside each sample. A technique is a subclass with `attribute`.

    Attributes:
        function: The technique as a function of model, images and targets; the tests try it on many models.
        default_display: How maps are shown unless `display` is given.
        signed: Whether maps may have values below zero: they are shown around zero, in every event.
        one_channel: Whether maps have one channel; otherwise they have as many as the images.

    Args:
        display: How maps are shown, one way or several side by side, see `Display`.
        alpha: Opacity of the map in an overlay, in [0, 1].
        smooth: Standard deviation of the Gaussian by which a map is blurred where it is drawn, as a share of its longer
            side, in [0, 1]; 0 draws each pixel as it is. What is less than a pixel has no effect.
        options: Shared by all callbacks, see `VisualizationCallback`.

    Raises:
        ConfigurationError: If a display is unknown, or `alpha` or `smooth` out of range.
    """

    function: ClassVar[Callable[..., Tensor]]
    default_display: ClassVar[Display] = "heatmap"
    signed: ClassVar[bool] = True
    one_channel: ClassVar[bool] = False

    def __init__(
        self,
        *,
        display: Display | Sequence[Display] | None = None,
        alpha: float = 0.5,
        smooth: float = SMOOTH,
        **options: Unpack[SharedOptions],
    ) -> None:
        super().__init__(**options)
        display = self.default_display if display is None else display
        modes: Sequence[Display] = (display,) if isinstance(display, str) else display
        self.display = checks.several("display", modes, partial(checks.one_of, words=Display), "one display or several")
        self.alpha = checks.number("alpha", alpha, 0, 1)
        self.smooth = checks.number("smooth", smooth, 0, 1)

    @abstractmethod
    def attribute(self, event: Event) -> Tensor:
        """Return a map for each sample: ``(N, 1 or C, H, W)``; negative values speak against the target."""

    def visualize(self, event: Event) -> Iterable[Panel]:
        """Show each sample with its map, label, prediction and probability."""
        maps = event.in_pieces(lambda piece: self.attribute(piece).detach().float().cpu())
        ways = [self.tiles(maps, event.samples.pixels, mode) for mode in self.display]
        for index in range(len(event.samples)):
            tiles = [way[index] for way in ways]
            said = self.caption(event, index), self.remark(event, index, maps[index])
            yield event.sample_panel(index, *tiles, caption="; ".join(filter(None, said)))

    def tiles(self, maps: Tensor, images: Tensor, mode: Display) -> list[Tile]:
        """Return the tiles that show maps ``(N, C, H, W)`` in one way."""
        return display_tiles(maps, images, mode, self.alpha, signed=self.signed, smooth=self.smooth)

    def caption(self, event: Event, index: int) -> str:
        """Return the name of the class whose logit a map explains, if it is not the predicted class."""
        names = [event.output_name(int(value)) for value in event.trace.targets[index].reshape(-1)]
        if len(names) == 2:
            return f"for {names[0]} against {names[1]}"
        return "" if names[0] in ("", event.prediction(index)[0]) else f"for {names[0]}"

    def remark(self, event: Event, index: int, values: Tensor) -> str:
        """Return what else there is to know about a sample's map ``(C, H, W)``, for its caption."""
        del event, index
        return "" if values.any() else "zero everywhere"


def display_tile(
    values: Tensor, image: Tensor, mode: Display, alpha: float, *, signed: bool = True, smooth: float = SMOOTH
) -> Tile:
    """Return the tile that shows a map ``(C, H, W)`` in one way, see `display_tiles`.

    Example:
        >>> display_tile(torch.tensor([[[-1.0, 2.0]]]), torch.zeros(1, 1, 2), "positive", 0.5).values
        tensor([[[0., 2.]]])
    """
    return display_tiles(values[None], image[None], mode, alpha, signed=signed, smooth=smooth)[0]


def display_tiles(
    maps: Tensor, images: Tensor, mode: Display, alpha: float, *, signed: bool = True, smooth: float = SMOOTH
) -> list[Tile]:
    """Return the tiles that show maps in one way.

    Args:
        maps: ``(N, C, H, W)``.
        images: The images behind the maps in an overlay, ``(N, 1 or 3, H, W)`` in [0, 1].
        mode: See `Display`.
        alpha: Opacity in an overlay.
        signed: Whether values below zero are possible.
        smooth: See `AttributionCallback`.
    """
    if mode == "color" and maps.shape[1] == 3:
        return [Tile(values, "signed") for values in maps]
    if mode == "gray":
        return [Tile(values, "gray") for values in _smoothed(maps.abs().sum(dim=1, keepdim=True), smooth)]
    flat = _smoothed(maps.sum(dim=1, keepdim=True), smooth)
    if mode == "positive":
        return [Tile(values, "heat", caption="for" if signed else "") for values in flat.clamp(min=0)]
    if mode == "negative":
        return [Tile(values, "heat", caption="against") for values in -flat.clamp(max=0)]
    kind: Kind = "signed" if signed else "heat"
    behind = images if mode == "overlay" else [None] * len(flat)
    return [Tile(values, kind, backdrop=image, alpha=alpha) for values, image in zip(flat, behind, strict=True)]


def _smoothed(maps: Tensor, smooth: float) -> Tensor:
    """Return maps ``(N, 1, H, W)`` blurred; what is not finite is drawn where it is, as a blur would spread it."""
    sigma = smooth * max(maps.shape[2:])
    if sigma < 1:
        return maps
    blurred, finite = blurred_maps(maps, sigma), maps.isfinite().flatten(1).all(dim=1)
    return blurred if bool(finite.all()) else torch.where(finite[:, None, None, None], blurred, maps)
