"""What is not true yet: each case fails as its line says, and leaves the list when it is mended."""

from __future__ import annotations

import pytest

KNOWN: dict[str, str] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for ending, reason in KNOWN.items():
            if "tests/subject/" in item.nodeid and item.nodeid.endswith(ending):
                item.add_marker(pytest.mark.xfail(strict=True, reason=reason))
