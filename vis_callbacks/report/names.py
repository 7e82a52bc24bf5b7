"""Short names of runs by their folders."""

from collections.abc import Sequence
from pathlib import Path

from vis_callbacks.output.files import FOLDER


def run_names(stores: Sequence[Path]) -> list[str]:
    """Return a name for each store: its run's path without what is common to all; a number where that is the same.

    Example:
        >>> run_names([Path("/a/logs/v0/visualizations"), Path("/a/logs/v1/visualizations")])
        ['v0', 'v1']
    """
    folders = [store.absolute() for store in stores]
    parts = [(folder.parent if folder.name == FOLDER else folder).parts for folder in folders]
    common = 0
    while len({one[: common + 1] for one in parts}) == 1 and all(len(one) > common + 1 for one in parts):
        common += 1
    names = ["/".join(one[common:]) for one in parts]
    return [f"{name} ({at})" if names.count(name) > 1 else name for at, name in enumerate(names, start=1)]
