"""Make the README's pictures and the rows of its technique tables.

python docs/pictures.py
    adds a row and a picture for each technique that has none; those of attention are of examples/transformer.py
python docs/pictures.py runs/pretrained/lightning_logs/version_0 runs/digits/lightning_logs/version_0
    makes all pictures again, from a run of examples/pretrained.py and one of examples/digits.py
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

import vis_callbacks as vc

HERE = Path(__file__).parent / "images"
README = Path(__file__).parent.parent / "README.md"
SHOWN = {
    "Filters": 1,
    "Activations": 4,
    "FeatureAppearance": 1,
    "ClassAppearance": 4,
    "DeepDream": 1,
    "FeatureInversion": 1,
    "FoolModel": 1,
}
"""How many pictures of a technique stand side by side; 2 of the others."""


def techniques() -> list[type[vc.VisualizationCallback]]:
    """Return the callbacks that the package exports, but for the bases, and for those that watch a training."""
    exported = [getattr(vc, name) for name in vc.__all__]
    bases = (vc.VisualizationCallback, vc.AttributionCallback)
    found = [one for one in exported if isinstance(one, type) and issubclass(one, bases[0]) and one not in bases]
    return [one for one in found if not hasattr(one, "batch_starts")]


def row(kind: type[vc.VisualizationCallback]) -> str:
    """Return a technique's row: what its docstring says that it shows, with the paper that its function names."""
    shows = (inspect.getdoc(kind) or "").split("\n\n")[0].split(". ")[0].rstrip(".").removeprefix("Shows ")
    text = " ".join((inspect.getdoc(getattr(kind, "function", kind)) or "").split())
    # Authors, "Title", year, arXiv or doi: the first author's surname is the word before the first comma or "and".
    paper = re.search(r'(?:^|\. )([A-Z][^".]*?), "[^"]+",[^"]*?\b((?:19|20)\d\d)\b', text)
    cited = f" ({re.split(r',| and | et al', paper[1])[0]} {paper[2]})" if paper else ""
    name, seen = kind.__name__, "digits" if kind.__name__.startswith("Attention") else "photographs"
    return f"| `{name}` | {' '.join(shows.split())}{cited} | ![{name} of {seen}](docs/images/{name}.webp) |"


def add_rows(kinds: list[type[vc.VisualizationCallback]]) -> None:
    """Add rows to the README, each at the end of the table of its wing."""
    lines = README.read_text().splitlines()
    for kind in kinds:
        wing = kind.__module__.split(".")[1]
        start = next(at for at, line in enumerate(lines) if line.lower().startswith(f"**{wing}"))
        last = next(at for at in range(start + 4, len(lines)) if not lines[at].startswith("|"))
        lines.insert(last, row(kind))
    README.write_text("\n".join(lines) + "\n")


def add_missing() -> None:
    """Add what is missing: rows, and pictures from a run of examples/pretrained.py with their techniques alone."""
    rows = re.findall(r"^\| `(\w+)` \|", README.read_text(), re.MULTILINE)
    add_rows([kind for kind in techniques() if kind.__name__ not in rows])
    missing = [kind.__name__ for kind in techniques() if not (HERE / f"{kind.__name__}.webp").is_file()]
    # EfficientNet has no attention.
    attention = [name for name in missing if name.startswith("Attention")]
    others = [name for name in missing if name not in attention]
    for example, names in (("pretrained.py", others), ("transformer.py", attention)):
        if names:
            path = Path(__file__).parent.parent / "examples" / example
            with tempfile.TemporaryDirectory() as folder:
                subprocess.run([sys.executable, path, "--output", folder, "--only", *names], check=True)
                save_pictures(next(Path(folder).rglob("visualizations")))


def save_pictures(store: Path) -> None:
    """Save the last pictures of each callback of a run, side by side."""
    lines = (store / "panels.jsonl").read_text().splitlines()
    for callback in dict.fromkeys(json.loads(line)["callback"] for line in lines):
        found = pictures(store, callback)[: SHOWN.get(callback, 2)]
        if found:
            side_by_side(found, 150).save(HERE / f"{callback}.webp", quality=80, method=6)


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
    """Write the pictures of a callback as one frame per event."""
    frames: dict[tuple[int, int], list[Image.Image]] = {}
    for line in (store / "panels.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["callback"] == callback and record["file"]:
            frames.setdefault((record["epoch"], record["step"]), []).append(Image.open(store / record["file"]))
    rows = [side_by_side([image.convert("RGB") for image in frames[when]], 84) for when in sorted(frames)]
    rows[0].save(path, save_all=True, append_images=[*rows[1:], rows[-1]], duration=700, loop=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pretrained", type=Path, nargs="?", help="log directory of examples/pretrained.py")
    parser.add_argument("digits", type=Path, nargs="?", help="log directory of examples/digits.py")
    arguments = parser.parse_args()
    HERE.mkdir(exist_ok=True)
    add_missing()
    if arguments.pretrained:
        save_pictures(arguments.pretrained / "visualizations")
    if arguments.digits:
        animation(arguments.digits / "visualizations", "ClassAppearance", HERE / "digits.webp")


if __name__ == "__main__":
    main()
