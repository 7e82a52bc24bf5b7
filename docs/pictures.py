"""Make the README's pictures and the rows of its technique tables.

python docs/pictures.py
    writes the rows, with what docstrings and benchmarks say, and makes a picture for each technique that has none;
    those of attention are of examples/transformer.py
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
from vis_callbacks.live.strip import write_strip

HERE = Path(__file__).parent / "images"
README = Path(__file__).parent.parent / "README.md"
BENCHMARKS = README.parent / "benchmarks" / "README.md"
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
SHEETS = {"ExplanationHealth": 330}
"""Height of the pictures that have several rows; 150 of the others."""


def techniques() -> list[type[vc.VisualizationCallback]]:
    """Return the callbacks that the package exports, but for the bases, and for those that watch a training."""
    exported = [getattr(vc, name) for name in vc.__all__]
    bases = (vc.VisualizationCallback, vc.AttributionCallback)
    found = [one for one in exported if isinstance(one, type) and issubclass(one, bases[0]) and one not in bases]
    return [one for one in found if not hasattr(one, "batch_starts")]


def reading(kind: type[vc.VisualizationCallback]) -> str:
    """Return what a technique may be read for: the paragraph of its docstring that says so."""
    paragraphs = (inspect.getdoc(kind) or "").split("\n\n")
    return next((" ".join(one.split()) for one in paragraphs if one.startswith("Read it")), "")


def figures(kind: type[vc.VisualizationCallback]) -> list[str]:
    """Return how well a map tells the class, deletion and insertion, as benchmarks/README.md has them, or nothing."""
    found: dict[str, list[str]] = {}
    for net in ("a transformer on digits", "EfficientNet-lite0"):  # attention is on the first alone
        marks = (f"<!-- faithfulness: {net}: {end} -->" for end in ("begin", "end"))
        table = re.search("(.*)".join(marks), BENCHMARKS.read_text("utf-8"), re.DOTALL)
        rows = re.findall(r"^\| `(\w+)`[^|]*" + r"\| ([\d.]+) " * 3, table[1] if table else "", re.MULTILINE)
        found.update({name: cells for name, *cells in rows})
    return found.get(getattr(kind, "function", kind).__name__, [])


def shows(kind: type[vc.VisualizationCallback]) -> str:
    """Return what a technique shows: its row's words, or those of its docstring with the paper of its function."""
    known = re.search(rf"^\| `{kind.__name__}` \| (.*?)\.? (?:\*Read|\|)", README.read_text("utf-8"), re.MULTILINE)
    if known:
        return known[1]
    first = (inspect.getdoc(kind) or "").split("\n\n")[0].split(". ")[0].rstrip(".").removeprefix("Shows ")
    text = " ".join((inspect.getdoc(getattr(kind, "function", kind)) or "").split())
    # Authors, "Title", year, arXiv or doi: the first author's surname is the word before the first comma or "and".
    paper = re.search(r'(?:^|\. )([A-Z][^".]*?), "[^"]+",[^"]*?\b((?:19|20)\d\d)\b', text)
    cited = f" ({re.split(r',| and | et al', paper[1])[0]} {paper[2]})" if paper else ""
    return f"{' '.join(first.split())}{cited}"


def wing_of(kind: type[vc.VisualizationCallback]) -> str:
    """Return the folder of a technique."""
    return kind.__module__.split(".")[1]


def row(kind: type[vc.VisualizationCallback]) -> str:
    """Return a technique's row: what it shows, what it may be read for, measured figures of maps, a picture."""
    name, seen = kind.__name__, "digits" if kind.__name__.startswith("Attention") else "photographs"
    said = f"{shows(kind)}. *{reading(kind)}*" if reading(kind) else shows(kind)
    measured = (figures(kind) or [""] * 3) if wing_of(kind) == "attribution" else []
    cells = [f"`{name}`", said, *measured, f"![{name} of {seen}](docs/images/{name}.webp)"]
    return f"| {' | '.join(cells)} |"


def write_rows() -> None:
    """Write the row of each technique into the README: in its place, or at the end of the table of its wing."""
    lines = README.read_text("utf-8").splitlines()
    for kind in techniques():
        places = [at for at, line in enumerate(lines) if line.startswith(f"| `{kind.__name__}` |")]
        if places:
            lines[places[0]] = row(kind)
            continue
        start = next(at for at, line in enumerate(lines) if line.lower().startswith(f"**{wing_of(kind)}"))
        last = next(at for at in range(start + 4, len(lines)) if not lines[at].startswith("|"))
        lines.insert(last, row(kind))
    README.write_text("\n".join(lines) + "\n", "utf-8")


def add_missing() -> None:
    """Add the pictures that are missing, from a run of examples/pretrained.py with their techniques alone."""
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
            side_by_side(found, SHEETS.get(callback, 150)).save(HERE / f"{callback}.webp", quality=80, method=6)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pretrained", type=Path, nargs="?", help="log directory of examples/pretrained.py")
    parser.add_argument("digits", type=Path, nargs="?", help="log directory of examples/digits.py")
    arguments = parser.parse_args()
    HERE.mkdir(exist_ok=True)
    write_rows()
    add_missing()
    if arguments.pretrained:
        save_pictures(arguments.pretrained / "visualizations")
    if arguments.digits:
        write_strip(arguments.digits, "ClassAppearance", HERE / "digits.webp")


if __name__ == "__main__":
    main()
