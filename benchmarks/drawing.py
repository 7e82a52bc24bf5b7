"""What drawing costs: CPU milliseconds a picture, by part.

    python benchmarks/drawing.py

Each goes through the writer that a run uses, to the picture store and to TensorBoard. `all` is the CPU time of the
process, TensorBoard's own thread included; the parts are those of the drawing thread, each by itself. Medians.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import skimage.data
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from table import Tables, add_options
from torch.nn.functional import interpolate

from vis_callbacks import Panel, Tile
from vis_callbacks.output.destinations import Destinations
from vis_callbacks.output.record import Record
from vis_callbacks.output.render import assemble, draw_tiles, is_enlarged
from vis_callbacks.output.store import PictureStore
from vis_callbacks.output.writer import Output

SIDE = 224


def panels() -> dict[str, Panel]:
    """Return one panel of each kind."""
    torch.manual_seed(0)
    pixels = torch.from_numpy(skimage.data.chelsea().copy()).permute(2, 0, 1).float()[None] / 255
    photograph = interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True)[0]
    coarse = interpolate(torch.rand(1, 1, 7, 7), (SIDE, SIDE), mode="bilinear")[0]
    # Gradients: noise of which some regions have more.
    noise = coarse**3 * torch.randn(3, SIDE, SIDE)
    known = {"label": "tiger cat", "predicted": "Egyptian cat", "probability": 0.83}
    image = Tile(photograph, caption="image")
    kernels = [Tile(torch.randn(3, 7, 7), "signed", caption=str(channel)) for channel in range(64)]
    maps = [Tile(torch.randn(56, 56), "response", caption=str(channel)) for channel in range(16)]
    digit = [Tile(torch.rand(28, 28), caption="image"), Tile(torch.randn(28, 28).abs(), "heat", caption="saliency")]
    return {
        "Grad-CAM over a photograph": Panel(
            "a", [image, Tile(coarse, "heat", "Grad-CAM", backdrop=photograph)], caption="layer4", **known
        ),
        "saliency beside it": Panel("b", [image, Tile(noise.abs().amax(0), "heat", "saliency")], **known),
        "gradient in colours": Panel("c", [image, Tile(noise, "signed", "gradient")], **known),
        "digit of 28x28": Panel("d", digit, **known),
        "64 kernels of 7x7": Panel("e", kernels, columns=8, caption="64 of 64"),
        "16 maps of 56x56": Panel("f", maps, columns=4, **known),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=40, help="of each kind, in five groups")
    add_options(parser)
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.pictures = 5
    torch.set_num_threads(1)
    tables = Tables(arguments, "tensorboard", "pillow")
    rows = []
    for name, panel in panels().items():
        with tempfile.TemporaryDirectory() as folder:
            whole, logged = together(panel, Path(folder) / "run", arguments.pictures)
            times, stored = apart(panel, Path(folder) / "store", arguments.pictures)
        rows.append((name, *(f"{spent:.1f}" for spent in (whole, *times)), f"{stored:,}", f"{logged:,}"))
    head = ("", "all", "tiles", "text", "store", "bytes: store", "bytes: TensorBoard")
    tables.put("drawing", head, rows)


def together(panel: Panel, folder: Path, pictures: int) -> tuple[float, int]:
    """Return CPU milliseconds for one picture, store and TensorBoard together, and the bytes of TensorBoard's file."""
    logger = TensorBoardLogger(folder, name=None, version="run")
    output = Output(folder, [logger])
    times = []
    for group in range(6):
        start = time.process_time()
        for number in range(pictures // 5):
            step = group * pictures + number
            record = dataclasses.replace(Record(f"A/{panel.name}", "A", 1, step), label=panel.label)
            output.put(0, record, panel, Destinations(), None, {})
        output.end_event(None)
        assert output.drain(600)
        times.append(1e3 * (time.process_time() - start) / (pictures // 5))
    assert not output.problems()
    written = sum(file.stat().st_size for file in folder.rglob("events.out*"))
    return statistics.median(times[1:]), written // (6 * (pictures // 5))  # the first group pays for imports


def apart(panel: Panel, folder: Path, repeats: int) -> tuple[tuple[float, ...], int]:
    """Return CPU milliseconds for the tiles, their text and the store, and the bytes of the stored file."""
    tiles = draw_tiles(panel)
    plain, exact = assemble(panel, tiles, text=False), is_enlarged(panel)
    store, steps = PictureStore(folder), count()
    times = (
        cpu(lambda: draw_tiles(panel), repeats),
        cpu(lambda: assemble(panel, tiles), repeats),
        cpu(lambda: store.add(Record("A/b", "A", 0, next(steps)), plain, exact=exact), repeats),
    )
    return times, next(folder.rglob("epoch*")).stat().st_size


def cpu(function: Callable[[], object], repeats: int) -> float:
    """Return the median CPU milliseconds of a call."""
    times = []
    for _ in range(repeats + 1):
        start = time.thread_time()
        function()
        times.append(time.thread_time() - start)
    return 1e3 * statistics.median(times[1:])


if __name__ == "__main__":
    main()
