"""What fails while pictures are written is told, all of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import torch

from vis_callbacks.output.destinations import Destinations
from vis_callbacks.output.record import Record
from vis_callbacks.output.writer import Output
from vis_callbacks.panel import Panel, Tile


def failing(error: Exception) -> Any:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise error

    return SimpleNamespace(experiment=SimpleNamespace(add_image=fail, add_scalar=fail, flush=fail))


def test_no_failure_hides_another(tmp_path: Path) -> None:
    """The store, two loggers and the user's own file fail, each in its way."""
    (tmp_path / "visualizations").write_text("in the way")
    (tmp_path / "files").write_text("in the way")
    output = Output(tmp_path, [failing(ValueError("one")), failing(LookupError("two"))])
    destinations = Destinations(files=[str(tmp_path / "files" / "{epoch}.png")])
    output.put(0, Record("A/one", "A", 0, 0), Panel("one", Tile(torch.eye(4))), destinations, None, {})
    assert output.drain(60)
    one, two, file, store = output.problems()
    assert {who for who, _ in (one, two, file, store)} == {"A"}
    assert (str(one[1]), str(two[1])) == ("one", "two")
    assert isinstance(file[1], OSError)
    assert isinstance(store[1], OSError)
    output.end_event({})
    assert output.drain(60)
    assert [type(error) for _, error in output.problems()] == [type(store[1]), ValueError, LookupError]
