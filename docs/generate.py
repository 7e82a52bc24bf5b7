"""Write a page for each technique and the gallery, from docstrings and the README's tables; MkDocs runs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import mkdocs_gen_files
import torch

import vis_callbacks as vc
from vis_callbacks import Samples, functional
from vis_callbacks.event import Moment
from vis_callbacks.report.titles import title_of

sys.path.insert(0, str(Path(__file__).parent))
from formulas import FORMULAS, LETTERS
from pictures import figures, reading, shows, techniques, wing_of

ROOT = Path(__file__).parent.parent
WINGS = {
    "attribution": "Attribution: which pixels mattered",
    "inspection": "Inspection: what is inside",
    "synthesis": "Synthesis: which image would the model love",
}
INTRODUCTION = (
    "Each is a callback, and a function for a notebook. Filters, activations, saliency, Grad-CAM and class images are "
    "in the default suite. Not sure? See [which technique when](../which-technique.md)."
)
SAMPLES = 8


def cost(kind: type[vc.VisualizationCallback]) -> str:
    """Say how many passes an event takes."""
    technique = kind()
    shown = Samples(torch.zeros(SAMPLES, 3, 224, 224), torch.zeros(SAMPLES).long(), tuple(map(str, range(SAMPLES))))
    passes = technique.passes(Moment(1, 100), shown)
    if wing_of(kind) == "inspection" and not technique.uses_samples:
        return "No pass: it reads the weights."
    if not passes:
        return "No pass of its own: it reads the one forward and backward that all techniques of an event share."
    return f"About {passes:,} passes of one image at each event, with {SAMPLES} samples of 224x224."


def names_of(kind: type[vc.VisualizationCallback]) -> list[str]:
    """Return the functions of `vis_callbacks.functional` in a technique's file, its own first."""
    own = getattr(getattr(kind, "function", None), "__name__", "")
    here = [name for name in functional.__all__ if getattr(functional, name).__module__ == kind.__module__]
    return sorted(here if not own else [own], key=lambda name: name != own)


def measured(kind: type[vc.VisualizationCallback]) -> str:
    """Say how well a map did in the benchmarks."""
    if not figures(kind):
        return ""
    place, removed, added = figures(kind)
    return (
        f"**Measured.** Rank of the right object of four: {place} (0.5 is chance). Probability of the class while the "
        f"map's pixels are deleted: {removed} (low is good); while they come back: {added} (high is good)."
    )


def page(kind: type[vc.VisualizationCallback]) -> str:
    """Return a technique's page in Markdown."""
    name = kind.__name__
    functions = names_of(kind)
    picture = ROOT / "docs" / "images" / f"{name}.webp"
    parts = [f"# {title_of(name)}", f"{shows(kind)[:1].upper()}{shows(kind)[1:]}."]
    if picture.is_file():
        seen = "digits" if name.startswith("Attention") else "photographs"
        parts.append(f"![{title_of(name)} of {seen}](../images/{name}.webp)")
    if name in FORMULAS:
        parts.append(f"`{FORMULAS[name]}`  \n<small>{LETTERS}</small>")
    parts += [reading(kind), measured(kind)]
    parts += [f"**Cost.** {cost(kind)}", f"```python\nfrom vis_callbacks import {name}\n\ncallback = {name}()\n```"]
    parts += [f"## Callback\n\n::: vis_callbacks.{name}"]
    if functions:
        parts.append("## Function" + "s" * (len(functions) > 1))
        parts += [f"::: vis_callbacks.functional.{one}" for one in functions]
    return "\n\n".join(filter(None, parts)) + "\n"


def notebook_page(path: Path) -> str:
    """Return a notebook's cells in Markdown."""
    parts = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    where = f"This page is the notebook `examples/notebooks/{path.name}`, without its pictures."
    return "\n\n".join([parts[0], where, *parts[1:]]) + "\n"


def main() -> None:
    """Write all pages."""
    for path in sorted((ROOT / "examples" / "notebooks").glob("*.ipynb")):
        with mkdocs_gen_files.open(f"notebooks/{path.stem}.md", "w") as file:
            file.write(notebook_page(path))
    wings = {wing: [one for one in techniques() if wing_of(one) == wing] for wing in WINGS}
    summary, gallery = ["* [All techniques](index.md)"], ["# Techniques", INTRODUCTION]
    for wing, kinds in wings.items():
        if not kinds:
            continue
        summary.append(f"* {WINGS[wing].partition(':')[0]}")
        gallery += [f"## {WINGS[wing]}", '<div class="gallery" markdown>']
        for kind in kinds:
            name = kind.__name__
            with mkdocs_gen_files.open(f"techniques/{name}.md", "w") as file:
                file.write(page(kind))
            summary.append(f"    * [{title_of(name)}]({name}.md)")
            image = f"![](../images/{name}.webp)" if (ROOT / "docs" / "images" / f"{name}.webp").is_file() else ""
            gallery.append(f"[{image}<strong>{title_of(name)}</strong><span>{shows(kind)}</span>]({name}.md)")
        gallery.append("</div>")
    with mkdocs_gen_files.open("techniques/SUMMARY.md", "w") as file:
        file.write("\n".join(summary) + "\n")
    with mkdocs_gen_files.open("techniques/index.md", "w") as file:
        file.write("\n\n".join(gallery) + "\n")


main()
