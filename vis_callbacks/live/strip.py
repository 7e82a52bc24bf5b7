"""Film strips: one row of a run over time, or all of a technique, as a moving picture or side by side."""

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from vis_callbacks.errors import nearest
from vis_callbacks.output.store import write_whole
from vis_callbacks.report.history import History, Row
from vis_callbacks.report.reading import read_history

KINDS = (".webp", ".gif", ".png")

_LARGEST, _WIDEST = 480, 960  # pixels of the longer side of a frame; of one that shows several rows
_SMALLEST = 160  # smaller pictures are enlarged by whole numbers
_STILL = 12  # frames side by side
_ACROSS = 10  # rows of a technique in a line
_GAP = 8  # pixels
_MILLISECONDS, _LAST_MILLISECONDS = 400, 1600


def write_strip(directory: Path | str, tag: str, output: Path | str) -> Path:
    """Write a film strip of a row and return its path.

    Args:
        directory: The run's log directory, or the ``visualizations`` directory in it.
        tag: The row, such as ``"ClassAppearance/7"``, or a technique, all rows of which stand in lines of ten.
        output: File that ends in ``.webp`` or ``.gif``, which move, or in ``.png``, with up to twelve frames side by
            side, or below each other where they are wide.

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
    rows = _rows(history, tag)
    shown = sorted({at for row in rows for at, picture in row.pictures.items() if picture.file})
    if kind == ".png" and len(shown) > _STILL:
        shown = [shown[round(at * (len(shown) - 1) / (_STILL - 1))] for at in range(_STILL)]
    frames = [_frame(image, history.events[at].name) for at in shown if (image := _at(rows, at)) is not None]
    if not frames:
        raise ValueError(f"row {tag!r} has no pictures that can be read: choose another row")
    return _still(frames) if kind == ".png" else _moving(_of_one_size(frames), kind)


def _rows(history: History, tag: str) -> list[Row]:
    tags = {row.tag: row for row in history.rows}
    found = [row for name, row in tags.items() if tag in (name, name.partition("/")[0])]
    if found:
        return found
    callbacks = dict.fromkeys(name.partition("/")[0] for name in tags)
    raise ValueError(f"no row {tag!r}; {nearest(tag, [*callbacks, *tags], most=7)}"[:290])


def _at(rows: list[Row], at: int) -> Image.Image | None:
    """Return the pictures of an event beside each other; a row that has none leaves its place to the others."""
    files = [picture.file for row in rows if (picture := row.pictures.get(at)) and picture.file]
    images = [image for file in files if (image := _opened(file)) is not None]
    if len(rows) == 1 or not images:
        return _enlarged(images[0], _LARGEST) if images else None
    height = max(image.height for image in images)
    scaled = [
        image.resize((round(image.width * height / image.height), height), Image.Resampling.BOX) for image in images
    ]
    lines = [_joined(scaled[at : at + _ACROSS]) for at in range(0, len(scaled), _ACROSS)]
    return _enlarged(_joined(lines, down=True), _WIDEST)


def _opened(file: Path) -> Image.Image | None:
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except Exception:  # decoders raise many types on damaged data
        return None


def _enlarged(image: Image.Image, largest: int) -> Image.Image:
    """Return a picture that is neither too large nor too small for a frame."""
    longest = max(image.size)
    if longest > largest:
        return image.resize([max(1, round(side * largest / longest)) for side in image.size], Image.Resampling.BOX)
    if longest < _SMALLEST:
        factor = -(-_SMALLEST // longest)
        return image.resize([side * factor for side in image.size], Image.Resampling.NEAREST)
    return image


def _frame(image: Image.Image, name: str) -> Image.Image:
    """Return a picture with its moment below it on white."""
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
    data = io.BytesIO()
    # Wide frames stand below each other.
    _joined(frames, down=frames[0].width > 2 * frames[0].height).save(data, "png")
    return data.getvalue()


def _joined(images: list[Image.Image], *, down: bool = False) -> Image.Image:
    """Return pictures in a row on white, or in a column."""
    along, across = (1, 0) if down else (0, 1)
    size = [0, 0]
    size[along] = sum(image.size[along] + _GAP for image in images) - _GAP
    size[across] = max(image.size[across] for image in images)
    whole, place = Image.new("RGB", (size[0], size[1]), "white"), [0, 0]
    for image in images:
        whole.paste(image, (place[0], place[1]))
        place[along] += image.size[along] + _GAP
    return whole
