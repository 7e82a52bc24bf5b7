"""Names of pictures, made safe for file systems and loggers."""

import hashlib
import re

_LONGEST_TAG = 150  # bytes: loggers add a step and a hash, and file systems take 255


def slug(name: str) -> str:
    """Return a name that is safe on every file system; a hash keeps apart what looks the same after cleaning.

    Example:
        >>> slug("conv1"), slug("a cup")
        ('conv1', 'a_cup-a58220be')
    """
    clean = re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".")[:60]
    return clean if clean == name else f"{clean}-{_hash(name)}"


def path_part(text: str) -> str:
    """Return a text that stays within one folder, for a field of a user's file name pattern.

    Example:
        >>> path_part("a cup"), path_part("a/b"), path_part("..")
        ('a cup', 'a_b', '__')
    """
    short = _cut(re.sub(r"[/\\\0]", "_", text), 100)
    return short if short.strip(".") else short.replace(".", "_")


class TagCleaner:
    r"""Turns tags into names that a logger accepts; a hash keeps apart what looks the same after cleaning.

    Args:
        allowed: Characters that the logger accepts, written as in the brackets of a regular expression.

    Example:
        >>> clean = TagCleaner(r"-/\w.")
        >>> clean("Saliency/a cup"), clean("Saliency/../x")
        ('Saliency/a_cup', 'Saliency/_/x')
    """

    def __init__(self, allowed: str) -> None:
        self._unwanted = re.compile(f"[^{allowed}]")
        self._known: dict[str, str] = {}

    def __call__(self, tag: str) -> str:
        """Return the name of a tag: short enough for a file, and no part of it leads to another folder."""
        parts = _cut(self._unwanted.sub("_", tag), _LONGEST_TAG).strip("/").split("/")
        clean = "/".join(part if part.strip(". ") else "_" for part in parts)
        return clean if self._known.setdefault(clean, tag) == tag else f"{clean}-{_hash(tag)}"


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]


def _cut(text: str, most: int) -> str:
    # File systems count bytes, not characters.
    return text.encode("utf-8", "replace")[:most].decode("utf-8", "ignore")
