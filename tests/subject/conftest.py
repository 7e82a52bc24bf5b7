"""What is not true yet: each case fails as its line says, and leaves the list when it is mended."""

from __future__ import annotations

import pytest

_INPUT = "the child is shown the batch's images, though the step changes them before it calls the child"
_AGAIN = "the callbacks warn again of what the subject's own sentence says"
KNOWN = {
    "[augmentation and normalization inside]": _INPUT,
    "[the steps call forward itself]": _INPUT,
    "[images scaled in the steps]": _INPUT,
    "[image and table, forward=]": "rows of ones beside whole numbers are taken for the labels",
    "[features and logits, no names]": "labels alone do not tell which of two outputs holds the logits",
    "[two heads of the same width]": _AGAIN,
    "[bags]": _AGAIN,
    "[video]": _AGAIN,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for ending, reason in KNOWN.items():
            if "tests/subject/" in item.nodeid and item.nodeid.endswith(ending):
                item.add_marker(pytest.mark.xfail(strict=True, reason=reason))
