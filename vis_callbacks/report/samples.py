"""The same sample in several runs, known by the fingerprint of its pixels."""

from collections.abc import Sequence

from vis_callbacks.report.history import History, Row


def matched_names(histories: Sequence[History]) -> list[dict[tuple[str, str], str]]:
    """Return new names of rows, by callback and name, for each run: the same sample has the name of the first run.

    Rows of other things, such as layers and classes, keep their names, and so do samples of stores that hold no
    fingerprints.
    """
    known: dict[str, str] = {}
    return [_matched(history, known) for history in histories]


def _matched(history: History, known: dict[str, str]) -> dict[tuple[str, str], str]:
    """Match the samples of a run to the known names, by fingerprint, and add those that are new."""
    taken, renamed = set(known.values()), {}
    for row in history.rows:
        content = _content_of(row)
        if content is None:
            continue
        # A technique may show several layers of a sample, whose names follow.
        own, slash, part = row.name.partition("/")
        name = known.setdefault(content, f"{own} (another image)" if own in taken else own)
        renamed[row.callback, row.name] = f"{name}{slash}{part}"
    return renamed


def _content_of(row: Row) -> str | None:
    return next((one.record.content for one in row.pictures.values() if one.record.content is not None), None)
