"""Where a callback's pictures go besides the picture store."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from vis_callbacks.errors import ConfigurationError, nearest
from vis_callbacks.output.record import Record

Picture: TypeAlias = npt.NDArray[np.uint8]
Handler: TypeAlias = Callable[[Tensor, int, Mapping[str, Any]], None]
"""Called with a picture ``(3, H, W)`` in [0, 1], its index among those of the event, and what is known about it."""

FIELDS = ("callback", "name", "tag", "epoch", "step", "stage", "index", "sample", "label", "predicted", "probability")


@dataclass
class Destinations:
    """Where a callback's pictures go besides the picture store.

    Attributes:
        tensorboard: Whether they go to TensorBoard.
        files: File names with fields such as ``{epoch}``.
        pyplot: Whether they are shown with pyplot.
        handlers: Functions that get them.
        chosen: Whether the user has named a destination; until then TensorBoard is the one.
    """

    tensorboard: bool = True
    files: list[str] = field(default_factory=list)
    pyplot: bool = False
    handlers: list[Handler] = field(default_factory=list)
    chosen: bool = False

    def choose(self) -> None:
        """Note that the user names a destination: from now on only what is named counts."""
        if not self.chosen:
            self.chosen, self.tensorboard = True, False

    def write_files(self, record: Record, index: int, picture: Picture) -> None:
        """Write the files that were asked for."""
        for pattern in self.files:
            path = Path(pattern.format_map({key: _file_safe(value) for key, value in fields_of(record, index).items()}))
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)

    def hand_over(self, record: Record, index: int, picture: Picture) -> None:
        """Call the handlers, and show the picture with pyplot if that was asked for."""
        state = fields_of(record, index)
        for handler in self.handlers:
            handler(to_tensor(picture), index, state)
        if self.pyplot:
            show_with_pyplot(picture, record.tag)

    @property
    def on_training_thread(self) -> bool:
        """Whether something must be called on the training thread."""
        return bool(self.handlers) or self.pyplot


def check_pattern(pattern: str) -> str:
    """Return a file name pattern as it is.

    Raises:
        ConfigurationError: If a field in it is unknown, or its ending no image format.

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
    """Return what file names and handlers may use."""
    known = {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
    return {**known, "index": index, "name": record.tag.partition("/")[2], **record.scalars}


def to_tensor(picture: Picture) -> Tensor:
    """Return a picture ``(H, W, 3)`` as a tensor ``(3, H, W)`` in [0, 1]."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 255


def to_picture(image: Tensor) -> Picture:
    """Undo `to_tensor`, for gray images too.

    Raises:
        ConfigurationError: If the tensor is no image.
    """
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ConfigurationError(f"transform gave a tensor {tuple(image.shape)}: expected (3, H, W) or (1, H, W)")
    pixels = (image.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.expand(3, -1, -1).permute(1, 2, 0).numpy())


def show_with_pyplot(picture: Picture, title: str) -> None:
    """Show a picture in a pyplot figure of its own, which the next one of the same title replaces. Never waits."""
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


def _file_safe(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # File systems count bytes. A name of dots alone would lead to another folder.
    short = re.sub(r"[/\\\0]", "_", value).encode("utf-8", "replace")[:100].decode("utf-8", "ignore")
    return short if short.strip(".") else short.replace(".", "_")
