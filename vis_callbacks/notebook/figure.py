"""Figures of matplotlib that show themselves in a notebook, and touch no state of pyplot."""

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vis_callbacks.output.encoding import Picture

_DPI = 100


class PictureFigure(Figure):
    """Pictures below each other, each with a title, pixel by pixel.

    Args:
        pictures: ``(H, W, 3)`` uint8.
        titles: One for each picture; "" for none.
    """

    def __init__(self, pictures: Sequence[Picture], titles: Sequence[str]) -> None:
        room = [26 if title else 4 for title in titles]
        height = sum(len(picture) for picture in pictures) + sum(room)
        width = max(picture.shape[1] for picture in pictures)
        super().__init__(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
        FigureCanvasAgg(self)
        top = height
        for picture, title, above in zip(pictures, titles, room, strict=True):
            top -= above + len(picture)
            share = (0.0, top / height, picture.shape[1] / width, len(picture) / height)
            axes = self.add_axes(share)
            axes.imshow(picture, interpolation="nearest", aspect="auto")
            axes.axis("off")
            if title:
                axes.set_title(title, loc="left", fontsize=10, pad=5)

    def _repr_png_(self) -> bytes:
        """Return the picture that a notebook shows."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()

    def save(self, path: str | Path) -> None:
        """Write the figure to a file; missing folders are created."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self.savefig(path)
