"""Make the README's pictures from a run of examples/pretrained.py and the report of a run of examples/digits.py.

python docs/pictures.py runs/pretrained/lightning_logs/version_0 runs/digits/lightning_logs/version_0
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent / "images"
ROWS = {
    "Filters": 1,
    "Activations": 1,
    "FeatureAppearance": 1,
    "ClassAppearance": 4,
    "DeepDream": 1,
    "FeatureInversion": 1,
    "FoolModel": 1,
}


def pictures(store: Path, callback: str) -> list[Image.Image]:
    """Return the last picture of each tag of a callback."""
    last: dict[str, str] = {}
    for line in (store / "panels.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["callback"] == callback and record["file"]:
            last[record["tag"]] = record["file"]
    return [Image.open(store / file).convert("RGB") for file in last.values()]


def side_by_side(images: list[Image.Image], height: int, gap: int = 6) -> Image.Image:
    """Return images of one height in a row on white."""
    scaled = [
        image.resize((round(image.width * height / image.height), height), Image.Resampling.LANCZOS) for image in images
    ]
    row = Image.new("RGB", (sum(image.width for image in scaled) + gap * (len(scaled) - 1), height), "white")
    left = 0
    for image in scaled:
        row.paste(image, (left, 0))
        left += image.width + gap
    return row


def animation(store: Path, callback: str, path: Path) -> None:
    """Write the pictures of a callback as one frame an event."""
    frames: dict[tuple[int, int], list[Image.Image]] = {}
    for line in (store / "panels.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["callback"] == callback and record["file"]:
            frames.setdefault((record["epoch"], record["step"]), []).append(Image.open(store / record["file"]))
    rows = [side_by_side([image.convert("RGB") for image in frames[when]], 84) for when in sorted(frames)]
    rows[0].save(path, save_all=True, append_images=[*rows[1:], rows[-1]], duration=700, loop=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pretrained", type=Path)
    parser.add_argument("digits", type=Path)
    arguments = parser.parse_args()
    HERE.mkdir(exist_ok=True)
    store = arguments.pretrained / "visualizations"
    lines = (store / "panels.jsonl").read_text().splitlines()
    for callback in dict.fromkeys(json.loads(line)["callback"] for line in lines):
        found = pictures(store, callback)[: ROWS.get(callback, 2)]
        if found:
            side_by_side(found, 150).save(HERE / f"{callback}.webp", quality=80, method=6)
    animation(arguments.digits / "visualizations", "ClassAppearance", HERE / "digits.webp")


if __name__ == "__main__":
    main()
