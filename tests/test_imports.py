"""The order of the package: a file imports only what stands below it, and no two files need each other."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent / "vis_callbacks"
# From top to bottom: files and folders of the package. Those in one row do not import each other.
ORDER = (
    ("cli",),
    ("__init__",),
    ("functional", "suite"),
    ("notebook",),
    ("live",),
    ("report",),
    ("attribution", "inspection", "synthesis", "diagnostics"),
    ("callback",),
    ("run",),
    ("event",),
    ("data", "output"),
    ("model",),
    ("panel",),
    ("checks", "_lightning", "_lazy"),
    ("errors",),
)
ROW = {part: row for row, parts in enumerate(ORDER) for part in parts}
LIGHTNING = {"lightning", "pytorch_lightning"}
HEAVY = {"torch", "torchvision", *LIGHTNING}


@dataclass(frozen=True)
class Import:
    """One import: where it stands, and the module that it names.

    Attributes:
        runs: Whether it runs when its file is imported, unlike those in functions and for type checkers.
    """

    module: str
    line: int
    target: str
    runs: bool

    def __str__(self) -> str:
        path = self.module.replace(".", "/")
        path = next((name for name in (f"{path}.py", f"{path}/__init__.py") if (ROOT.parent / name).exists()), path)
        return f"{path}:{self.line} imports {self.target}"


def imports_in(module: str, source: str, known: Iterable[str]) -> list[Import]:
    """Return all imports of a module; ``from a import b`` names ``a.b`` where that is a module."""

    def visit(node: ast.AST, runs: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(module, node.lineno, alias.name, runs) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{module}:{node.lineno} imports by dots: name the module in full"
            full = (f"{node.module}.{alias.name}" for alias in node.names)
            targets = [name if name in known else node.module for name in full]
            yield from (Import(module, node.lineno, target, runs) for target in dict.fromkeys(targets))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from (one for child in node.body for one in visit(child, False))
            yield from (one for child in node.orelse for one in visit(child, runs))
        else:
            runs = runs and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from (one for child in ast.iter_child_nodes(node) for one in visit(child, runs))

    return list(visit(ast.parse(source), True))


def part_of(module: str) -> str:
    """Return the file or folder of the package that a module belongs to."""
    return [*module.split("."), "__init__"][1]


def upward(imports: Iterable[Import]) -> list[str]:
    """Return the imports of a part that stands higher, or in the same row."""
    parts = (
        (one, part_of(one.module), part_of(one.target)) for one in imports if one.target.startswith("vis_callbacks")
    )
    return [str(one) for one, here, there in parts if here != there and ROW[there] <= ROW[here]]


def none_of(found: Iterable[object]) -> None:
    lines = [str(one) for one in found]
    assert not lines, "\n".join(["", *lines])


def reached(start: str, imports: Iterable[Import]) -> set[str]:
    """Return the modules that a module imports, directly and by others."""
    found, todo = set[str](), [start]
    while todo:
        here = todo.pop()
        new = {one.target for one in imports if one.module == here} - found
        found |= new
        todo += new
    return found


def circular(imports: list[Import]) -> list[str]:
    """Return the imports that close a circle."""
    reach = {module: reached(module, imports) for module in {one.module for one in imports}}
    return [str(one) for one in imports if one.module in reach.get(one.target, ())]


FILES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
IMPORTS = [one for module, path in FILES.items() for one in imports_in(module, path.read_text(), FILES)]


def test_every_file_and_folder_has_a_place_in_the_order() -> None:
    none_of({part_of(module) for module in FILES} - set(ROW))


def test_no_import_goes_up() -> None:
    none_of(upward(IMPORTS))


def test_no_circle() -> None:
    none_of(circular(IMPORTS))


def test_one_file_knows_lightning() -> None:
    found = [one for one in IMPORTS if one.target.split(".")[0] in LIGHTNING]
    assert found
    none_of(one for one in found if part_of(one.module) != "_lightning")


def test_a_report_is_read_and_written_without_torch() -> None:
    running = [one for one in IMPORTS if one.runs]
    needed = {"vis_callbacks.cli", "vis_callbacks.report.html", "vis_callbacks.output.store"}
    needed |= {module for start in needed for module in reached(start, running)}
    # Importing a module also runs the folders that it is in.
    needed |= {module.rsplit(".", count)[0] for module in needed for count in range(1, module.count(".") + 1)}
    needed |= {module for start in needed for module in reached(start, running)}
    none_of(one for one in running if one.module in needed and one.target.split(".")[0] in HEAVY)


def test_few_files_stand_at_the_top() -> None:
    assert len(list(ROOT.glob("*.py"))) <= 12


def test_the_checks_name_the_line() -> None:
    sources = {
        "vis_callbacks.run.run": "from vis_callbacks.run import hooks\nfrom vis_callbacks.model import layers",
        "vis_callbacks.run.hooks": "if TYPE_CHECKING:\n    from vis_callbacks.run.run import Run",
        "vis_callbacks.attribution.saliency": "from vis_callbacks.synthesis.fool import fool",
        "vis_callbacks.model.layers": "def late():\n    import vis_callbacks.event",
        "vis_callbacks.event": "from vis_callbacks import Panel, panel",
    }
    found = [
        one
        for module, source in sources.items()
        for one in imports_in(module, source, [*sources, "vis_callbacks.panel"])
    ]
    assert upward(found) == [
        "vis_callbacks/attribution/saliency.py:1 imports vis_callbacks.synthesis.fool",
        "vis_callbacks/model/layers.py:2 imports vis_callbacks.event",
        "vis_callbacks/event.py:1 imports vis_callbacks",
    ]
    assert circular(found) == [
        "vis_callbacks/run/run.py:1 imports vis_callbacks.run.hooks",
        "vis_callbacks/run/hooks.py:2 imports vis_callbacks.run.run",
    ]
    assert [one.runs for one in found] == [True, True, False, True, False, True, True]
