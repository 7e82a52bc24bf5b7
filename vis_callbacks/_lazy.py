"""Public names that are imported when they are first used (PEP 562)."""

import ast
import sys
from collections.abc import Callable
from importlib import import_module


def lazy_names(module: str) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` for a module that imports its public names under ``TYPE_CHECKING``.

    Type checkers and editors read these imports as they stand, so that each public name is stated once.

    Args:
        module: Name of the module, ``__name__``.
    """
    loader = sys.modules[module].__spec__.loader  # type: ignore[union-attr]
    tree = ast.parse(loader.get_source(module))  # type: ignore[union-attr]
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    homes = {alias.asname: str(node.module) for node in imports for alias in node.names if alias.asname}

    def load(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        value = vars(sys.modules[module])[name] = getattr(import_module(homes[name]), name)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[module]), *homes})

    return load, names, sorted(homes)
