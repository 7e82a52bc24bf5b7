"""The base of the attribution callbacks: a map beside each sample."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import ClassVar, Literal

from torch import Tensor
from typing_extensions import Unpack

from vis_callbacks import checks
from vis_callbacks.callback import SharedOptions, VisualizationCallback
from vis_callbacks.data.blur import gaussian_blur
from vis_callbacks.event import Event
from vis_callbacks.panel import Panel, Tile

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
        pixels = event.samples.pixels
        for index in range(len(event.samples)):
            tiles = [self.tile(maps[index], pixels[index], mode) for mode in self.display]
            said = self.caption(event, index), self.remark(event, index, maps[index])
            yield event.sample_panel(index, *tiles, caption="; ".join(filter(None, said)))

    def tile(self, values: Tensor, image: Tensor, mode: Display) -> Tile:
        """Return the tile that shows a map ``(C, H, W)`` in one way."""
        return display_tile(values, image, mode, self.alpha, signed=self.signed, smooth=self.smooth)

    def caption(self, event: Event, index: int) -> str:
        """Return the name of the class whose logit a map explains, if it is not the predicted class."""
        names = [event.output_name(int(value)) for value in event.trace.targets[index].reshape(-1)]
        if len(names) == 2:
            return f"for {names[0]} against {names[1]}"
        return "" if names[0] in ("", event.prediction(index)[0]) else f"for {names[0]}"

    def remark(self, event: Event, index: int, values: Tensor) -> str:
        """Return what else there is to know about a sample's map ``(C, H, W)``, for its caption."""
        del event, index, values
        return ""


def display_tile(
    values: Tensor, image: Tensor, mode: Display, alpha: float, *, signed: bool = True, smooth: float = SMOOTH
) -> Tile:
    """Return the tile that shows a map in one way.

    Args:
        values: ``(C, H, W)``.
        image: The image behind the map in an overlay, ``(1 or 3, H, W)`` in [0, 1].
        mode: See `Display`.
        alpha: Opacity in an overlay.
        signed: Whether values below zero are possible.
        smooth: See `AttributionCallback`.

    Example:
        >>> import torch
        >>> display_tile(torch.tensor([[[-1.0, 2.0]]]), torch.zeros(1, 1, 2), "positive", 0.5).values
        tensor([[[0., 2.]]])
    """
    if mode == "color" and len(values) == 3:
        return Tile(values, "signed")
    if mode == "gray":
        return Tile(_smoothed(values.abs().sum(dim=0, keepdim=True), smooth), "gray")
    flat = _smoothed(values.sum(dim=0, keepdim=True), smooth)
    if mode == "positive":
        return Tile(flat.clamp(min=0), "heat", caption="for" if signed else "")
    if mode == "negative":
        return Tile(-flat.clamp(max=0), "heat", caption="against")
    return Tile(flat, "signed" if signed else "heat", backdrop=image if mode == "overlay" else None, alpha=alpha)


def _smoothed(values: Tensor, smooth: float) -> Tensor:
    sigma = smooth * max(values.shape[1:])
    # A blur would spread what is not finite, which is drawn where it is.
    return gaussian_blur(values[None], sigma)[0] if sigma >= 1 and bool(values.isfinite().all()) else values
