"""Tags as loggers take them."""

from __future__ import annotations

import hashlib
import re

_LONGEST = 150  # bytes: loggers add a step and a hash, and file systems take 255


class TagCleaner:
    r"""Brings tags to what a logger takes, and keeps those apart that look the same afterwards.

    Args:
        allowed: Characters that the logger takes, as they stand between the brackets of a regular expression.

    Example:
        >>> clean = TagCleaner(r"-/\w.")
        >>> clean("Saliency/a cup"), clean("Saliency/../x")
        ('Saliency/a_cup', 'Saliency/_/x')
    """

    def __init__(self, allowed: str) -> None:
        self._unwanted = re.compile(f"[^{allowed}]")
        self._known: dict[str, str] = {}

    def __call__(self, tag: str) -> str:
        """Return a tag's name, which is not too long for a file and has no part that leads to another folder."""
        short = self._unwanted.sub("_", tag).encode("utf-8", "replace")[:_LONGEST].decode("utf-8", "ignore")
        parts = short.strip("/").split("/")
        clean = "/".join(part if part.strip(". ") else "_" for part in parts)
        if self._known.setdefault(clean, tag) != tag:
            return f"{clean}-{hashlib.sha256(tag.encode('utf-8', 'replace')).hexdigest()[:8]}"
        return clean
