"""The output of a technique: numbers with a meaning, without colours or figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["image", "heat", "gray", "signed", "response"]
"""The meaning of a tile's numbers.

* ``image``: a picture, 1 or 3 channels in [0, 1].
* ``heat``: evidence that is never negative, 1 channel, shown on a sequential colour scale from 0.
* ``gray``: the same on a gray scale.
* ``signed``: evidence of both signs; 1 channel is shown on a diverging scale, 3 channels as colours around mid-gray.
* ``response``: what a channel outputs, 1 channel; 0 is dark, and values of both signs are bright.
"""


@dataclass(frozen=True)
class Tile:
    """One picture of a panel.

    Attributes:
        values: Float32 CPU tensor ``(C, H, W)`` or ``(H, W)``, in the range of its `kind`.
        kind: The meaning of the numbers, see `Kind`.
        caption: A few words shown under the tile.
        limit: The magnitude at the end of the colour scale. None: computed from the tile.
        backdrop: An image ``(C, H, W)`` in [0, 1] under the tile (heatmap overlays).
        alpha: Opacity of the tile over its backdrop, in [0, 1].

    Raises:
        ValueError: If a tensor does not have the shape of a picture, or `alpha` is out of range.
    """

    values: Tensor
    kind: Kind = "image"
    caption: str = ""
    limit: float | None = None
    backdrop: Tensor | None = None
    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"tile alpha {self.alpha}: expected a number from 0 to 1")
        object.__setattr__(self, "values", _as_picture(self.values, "values"))
        if self.backdrop is not None:
            object.__setattr__(self, "backdrop", _as_picture(self.backdrop, "backdrop"))


@dataclass(frozen=True)
class Panel:
    """The output of one technique for one sample, layer or class at one moment.

    Attributes:
        name: The sample, layer or class; the TensorBoard tag is ``<callback>/<name>``.
        tiles: One `Tile`, or several, shown side by side.
        columns: Tiles per row. None: all in one row.
        caption: One line about the whole panel.
        sample: Index of the sample, if the panel shows one.
        label: Name of the sample's true class.
        predicted: Name of the class that the model predicts for the sample.
        probability: The model's probability for `predicted`, in [0, 1].
        scalars: Numbers that are plotted as curves, by name.
        right: Whether the prediction is right. None: it is if it equals the label.
        content: A fingerprint of the sample's pixels, by which the same image is found in another run.
        captions_inside: Whether the captions of the tiles are part of the picture: for many tiles that each need one.

    Example:
        >>> panel = Panel("cat.png", Tile(torch.rand(3, 8, 8)), caption="a cat")
        >>> panel.tiles[0].values.shape
        torch.Size([3, 8, 8])
    """

    name: str
    tiles: Tile | Sequence[Tile]
    columns: int | None = None
    caption: str = ""
    sample: int | None = None
    label: str | None = None
    predicted: str | None = None
    probability: float | None = None
    scalars: Mapping[str, float] = field(default_factory=dict)
    right: bool | None = None
    content: str | None = None
    captions_inside: bool = False

    def __post_init__(self) -> None:
        if not self.all_tiles:
            raise ValueError(f"panel {self.name!r} has no tiles: give at least one")
        if self.columns is not None and self.columns < 1:
            raise ValueError(f"panel {self.name!r} has columns={self.columns}: expected a number from 1, or None")
        object.__setattr__(self, "tiles", self.all_tiles)

    @property
    def all_tiles(self) -> tuple[Tile, ...]:
        """The tiles as a tuple, also if only one was given."""
        return (self.tiles,) if isinstance(self.tiles, Tile) else tuple(self.tiles)


def _as_picture(values: Tensor, what: str) -> Tensor:
    if values.ndim == 2:
        values = values.unsqueeze(0)
    if values.ndim != 3 or values.shape[0] not in (1, 3) or not values.numel():
        raise ValueError(f"tile {what} of shape {tuple(values.shape)}: expected (H, W), (1, H, W) or (3, H, W)")
    if values.dtype is torch.float32 and values.device.type == "cpu" and not values.requires_grad:
        return values
    return values.detach().to("cpu", torch.float32)
