"""Two runs side by side: which rows are the same, and at which moments."""

from __future__ import annotations

from pathlib import Path

from tests.helpers import tiny
from tests.report.stores import record, squares
from vis_callbacks import Activations, Saliency
from vis_callbacks.output.store import PictureStore
from vis_callbacks.report.comparison import EPOCH, STEP, aligned
from vis_callbacks.report.history import History
from vis_callbacks.report.reading import read_history


def names(history: History, callback: str) -> list[str]:
    return [row.name for row in history.rows if row.callback == callback]


def test_a_sample_is_found_in_another_run_by_its_pixels(tmp_path: Path) -> None:
    images = tiny.Shapes(4).images
    histories = []
    for run, samples in {"first": images[:3], "second": images[1:].flip(0)}.items():
        callbacks = [Saliency(samples=samples), Activations("net.conv2", samples=samples, max_channels=1)]
        tiny.trainer(tmp_path / run, callbacks).validate(tiny.module(), tiny.loader(8), verbose=False)
        histories.append(read_history(next((tmp_path / run).rglob("visualizations"))))
    first, second = aligned(histories)
    # The second run has the fourth image, the third and the second, in this order.
    own = names(histories[0], "Saliency")
    assert names(first, "Saliency") == own
    assert names(second, "Saliency") == [f"{own[0]} (another image)", own[2], own[1]]
    assert names(second, "Activations") == [f"{name}/net.conv2" for name in names(second, "Saliency")]
    shown = [
        {row.name: next(iter(row.pictures.values())).file for row in history.rows if row.callback == "Saliency"}
        for history in (first, second)
    ]
    # The same network and image give the same picture.
    for name in own[1:]:
        files = [one[name] for one in shown]
        assert None not in files
        assert len({file.read_bytes() for file in files if file is not None}) == 1


def test_moments_are_those_of_the_epoch_or_of_the_step(tmp_path: Path) -> None:
    histories = []
    for run, steps in {"a": (0, 99, 199), "b": (0, 49, 99)}.items():
        store = PictureStore(tmp_path / run)
        for epoch, step in enumerate(steps):
            store.add(record("Filters/conv1", epoch, step), squares(epoch))
        histories.append(read_history(tmp_path / run))
    by_epoch, by_step = aligned(histories, EPOCH), aligned(histories, STEP)
    assert [(one.epoch, one.step) for one in by_epoch[0].events] == [(0, 0), (1, -1), (2, -1)]
    assert [one.step for one in by_step[0].events] == [0, 49, 99, 99, 199]
    assert list(by_step[1].rows[0].pictures) == [0, 1, 3]


def test_stores_without_fingerprints_keep_their_names(tmp_path: Path) -> None:
    for run, seed in (("a", 0), ("b", 1)):
        PictureStore(tmp_path / run).add(record("Saliency/cat", 1, 9, sample=0), squares(seed))
    first, second = aligned([read_history(tmp_path / run) for run in "ab"])
    assert names(first, "Saliency") == names(second, "Saliency") == ["cat"]
