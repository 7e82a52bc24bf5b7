"""Film strips: one row of a run over time, as a moving picture or side by side, with the moment below."""

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from vis_callbacks.output.store import write_whole
from vis_callbacks.report.history import History, Row
from vis_callbacks.report.reading import read_history

KINDS = (".webp", ".gif", ".png")

_LARGEST = 480  # pixels of the longer side of a frame
_SMALLEST = 160  # smaller pictures are enlarged by whole numbers
_STILL = 12  # frames side by side
_MILLISECONDS, _LAST_MILLISECONDS = 400, 1600


def write_strip(directory: Path | str, tag: str, output: Path | str) -> Path:
    """Write a film strip of a row and return its path.

    Args:
        directory: The run's log directory, or the ``visualizations`` directory in it.
        tag: The row, such as ``"ClassAppearance/7"``.
        output: File that ends in ``.webp`` or ``.gif``, which move, or in ``.png``, with up to twelve frames side by
            side.

    Raises:
        FileNotFoundError: If there is no picture store.
        ValueError: If there is no such row, or the file ends differently.
        OSError: If the file cannot be written.
    """
    path = Path(output)
    if path.suffix.lower() not in KINDS:
        raise ValueError(f"{path.name}: expected a file that ends in {', '.join(KINDS)}")
    write_whole(path, strip(directory, tag, path.suffix.lower()))
    return path


def strip(directory: Path | str, tag: str, kind: str) -> bytes:
    """Return the content of a film strip's file, see `write_strip`."""
    history = read_history(directory)
    row = _row(history, tag)
    shown = [(picture.file, history.events[at].name) for at, picture in row.pictures.items() if picture.file]
    if kind == ".png" and len(shown) > _STILL:
        shown = [shown[round(at * (len(shown) - 1) / (_STILL - 1))] for at in range(_STILL)]
    frames = [_frame(image, name) for file, name in shown if (image := _opened(file)) is not None]
    if not frames:
        raise ValueError(f"row {tag!r} has no pictures that can be read: choose another row")
    return _still(frames) if kind == ".png" else _moving(_of_one_size(frames), kind)


def _row(history: History, tag: str) -> Row:
    tags = {row.tag: row for row in history.rows}
    if tag in tags:
        return tags[tag]
    some = ", ".join(list(tags)[:5]) or "none"
    raise ValueError(f"no row {tag!r}: expected one of {some}{', …' if len(tags) > 5 else ''}"[:290])


def _opened(file: Path) -> Image.Image | None:
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except Exception:  # decoders raise many types on damaged data
        return None


def _frame(image: Image.Image, name: str) -> Image.Image:
    """Return a picture with its moment below it on white."""
    longest = max(image.size)
    if longest > _LARGEST:
        image = image.resize([max(1, round(side * _LARGEST / longest)) for side in image.size], Image.Resampling.BOX)
    elif longest < _SMALLEST:
        factor = -(-_SMALLEST // longest)
        image = image.resize([side * factor for side in image.size], Image.Resampling.NEAREST)
    font = ImageFont.load_default(13)
    width = max(image.width, round(font.getlength(name)) + 12)
    frame = Image.new("RGB", (width, image.height + 24), "white")
    frame.paste(image, ((width - image.width) // 2, 0))
    ImageDraw.Draw(frame).text((width / 2, image.height + 12), name, fill="#1d1f22", anchor="mm", font=font)
    return frame


def _of_one_size(frames: list[Image.Image]) -> list[Image.Image]:
    size = max(frame.width for frame in frames), max(frame.height for frame in frames)
    return [frame if frame.size == size else _padded(frame, size) for frame in frames]


def _padded(frame: Image.Image, size: tuple[int, int]) -> Image.Image:
    padded = Image.new("RGB", size, "white")
    padded.paste(frame, ((size[0] - frame.width) // 2, size[1] - frame.height))
    return padded


def _moving(frames: list[Image.Image], kind: str) -> bytes:
    data = io.BytesIO()
    durations = [_MILLISECONDS] * (len(frames) - 1) + [_LAST_MILLISECONDS]
    options = {"quality": 75, "method": 0} if kind == ".webp" else {}
    frames[0].save(data, kind[1:], save_all=True, append_images=frames[1:], duration=durations, loop=0, **options)
    return data.getvalue()


def _still(frames: list[Image.Image]) -> bytes:
    gap = 8
    width = sum(frame.width + gap for frame in frames) - gap
    whole = Image.new("RGB", (width, max(frame.height for frame in frames)), "white")
    left = 0
    for frame in frames:
        whole.paste(frame, (left, 0))
        left += frame.width + gap
    data = io.BytesIO()
    whole.save(data, "png")
    return data.getvalue()
