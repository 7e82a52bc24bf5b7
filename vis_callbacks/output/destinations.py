"""Where a callback's pictures go besides the picture store."""

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vis_callbacks.errors import ConfigurationError, nearest
from vis_callbacks.output.encoding import Picture
from vis_callbacks.output.names import path_part
from vis_callbacks.output.record import Record

Handler: TypeAlias = Callable[[Tensor, int, Mapping[str, Any]], None]
"""Called with a picture ``(3, H, W)`` in [0, 1], its index among those of the event, and the fields of its record."""

FIELDS = ("callback", "name", "tag", "epoch", "step", "stage", "index", "sample", "label", "predicted", "probability")


@dataclass
class Destinations:
    """The destinations of one callback.

    Attributes:
        tensorboard: Whether pictures go to TensorBoard and the other loggers.
        files: File name patterns with fields such as ``{epoch}``.
        pyplot: Whether pictures are shown with pyplot.
        handlers: Functions that are called with each picture.
        chosen: Whether the user has named a destination; until then it is TensorBoard.
    """

    tensorboard: bool = True
    files: list[str] = field(default_factory=list)
    pyplot: bool = False
    handlers: list[Handler] = field(default_factory=list)
    chosen: bool = False

    def choose(self) -> None:
        """Switch from the default destination (TensorBoard) to the ones named explicitly."""
        if not self.chosen:
            self.chosen, self.tensorboard = True, False

    def write_files(self, record: Record, index: int, picture: Picture) -> None:
        """Write the picture to a file for each pattern."""
        for pattern in self.files:
            fields = fields_of(record, index)
            safe = {key: path_part(value) if isinstance(value, str) else value for key, value in fields.items()}
            path = Path(pattern.format_map(safe))
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path, compress_level=1)

    def hand_over(self, record: Record, index: int, picture: Picture) -> None:
        """Call the handlers, and show the picture with pyplot if that was chosen."""
        state = fields_of(record, index)
        for handler in self.handlers:
            handler(to_tensor(picture), index, state)
        if self.pyplot:
            show_with_pyplot(picture, record.tag)

    @property
    def on_training_thread(self) -> bool:
        """Whether `hand_over` has anything to do; it must run on the training thread."""
        return bool(self.handlers) or self.pyplot


def check_pattern(pattern: str) -> str:
    """Return a file name pattern unchanged.

    Raises:
        ConfigurationError: If it has an unknown field, or an ending that is no image format.

    Example:
        >>> check_pattern("cup_{epoch}.png")
        'cup_{epoch}.png'
    """
    for _, name, _, _ in string.Formatter().parse(pattern):
        if name is not None and name not in FIELDS:
            raise ConfigurationError(f"no field {{{name}}} for the file name {pattern!r}; {nearest(name, FIELDS)}")
    ending = Path(pattern).suffix.lower()
    if Image.registered_extensions().get(ending) not in Image.SAVE:
        raise ConfigurationError(f"file name {pattern!r} ends in {ending!r}: expected an image format such as .png")
    return pattern


def fields_of(record: Record, index: int) -> dict[str, Any]:
    """Return the fields that file name patterns and handlers may use."""
    known = {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
    return {**known, "index": index, "name": record.tag.partition("/")[2], **record.scalars}


def to_tensor(picture: Picture) -> Tensor:
    """Return a picture ``(H, W, 3)`` as a tensor ``(3, H, W)`` in [0, 1]."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 255


def to_picture(image: Tensor) -> Picture:
    """Return a tensor ``(3, H, W)`` or ``(1, H, W)`` in [0, 1] as a picture ``(H, W, 3)``.

    Raises:
        ConfigurationError: If the tensor has another shape.
    """
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ConfigurationError(f"transform gave a tensor {tuple(image.shape)}: expected (3, H, W) or (1, H, W)")
    pixels = (image.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.expand(3, -1, -1).permute(1, 2, 0).numpy())


def show_with_pyplot(picture: Picture, title: str) -> None:
    """Show a picture in its own pyplot figure, without blocking; the next picture of the same title replaces it."""
    import matplotlib.pyplot as plt

    size = (picture.shape[1] / 100, picture.shape[0] / 100 + 0.3)
    with plt.rc_context({"figure.max_open_warning": 0}):
        figure = plt.figure(title, figsize=size, clear=True)
    axes = figure.add_subplot()
    axes.imshow(picture)
    axes.set_title(title)
    axes.axis("off")
    if plt.get_backend().lower() not in _WITHOUT_WINDOWS:
        plt.show(block=False)
        figure.canvas.draw_idle()
        figure.canvas.flush_events()


_WITHOUT_WINDOWS = ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")
