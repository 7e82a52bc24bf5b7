"""The page's modules: each by itself for a server, or joined to one script for a file."""

import re
from pathlib import Path

PAGE = Path(__file__).parent / "page"

_IMPORT = re.compile(r'^import \{[^}]*\} from "\./(\w+)\.js";\n', re.MULTILINE)


def joined(module: str, call: str) -> str:
    """Return a module and all that it imports as one script that calls one of its functions.

    Modules import by name from files beside them, and no two of them declare the same name.

    Args:
        module: Name of the module.
        call: Name of the function.

    Example:
        >>> "import" in joined("report", "openReport")
        False
    """
    parts: dict[str, str] = {}
    _collect(module, parts)
    body = "\n".join(parts.values())
    return f'"use strict";\n(() => {{\n{body}\n{call}();\n}})();\n'


def _collect(module: str, parts: dict[str, str]) -> None:
    if module in parts:
        return
    source = (PAGE / f"{module}.js").read_text(encoding="utf-8")
    for needed in _IMPORT.findall(source):
        _collect(needed, parts)
    parts[module] = re.sub(r"^export ", "", _IMPORT.sub("", source), flags=re.MULTILINE)
