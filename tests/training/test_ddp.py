"""Several processes: no hang, the same training, one store; work is shared, and a process that fails stops nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.helpers import tiny
from tests.training.undisturbed import callback_classes, cheap
from vis_callbacks import ClassAppearance, Event, FeatureAppearance, Panel, Tile
from vis_callbacks._lightning import sharded_strategy
from vis_callbacks.attribution.callback import AttributionCallback
from vis_callbacks.data.samples import Samples
from vis_callbacks.event import Moment, Share, SharedPass
from vis_callbacks.model.guard import undisturbed
from vis_callbacks.output.writer import Output
from vis_callbacks.run.distributed import Part, _packed, _unpacked
from vis_callbacks.run.event_runner import EventRunner
from vis_callbacks.run.selection import Ready
from vis_callbacks.run.timer import Timer
from vis_callbacks.run.warn_once import WarnOnce

ROOT = Path(__file__).parents[2]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
NOT_UNDERSTOOD = "ProcessError: in process 1 of 2: RuntimeError: not a word understood"
TWO_GPUS = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")


@contextmanager
def process(
    name: str, folder: Path, package: str = tiny.PACKAGES[0], launcher: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    """A run of `ddp_runs`, in a process group of its own of which nothing is left afterwards."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [
        sys.executable,
        "-W",
        "ignore",
        *launcher,
        str(ROOT / "tests" / "helpers" / "ddp_runs.py"),
        name,
        str(folder),
        package,
    ]
    with (folder / "printed").open("w") as printed:
        running = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"},
            stdout=printed,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    try:
        yield running
    finally:
        if alive(-running.pid):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def ran(name: str, folder: Path, *arguments: Any) -> list[Any]:
    """What each process of a run that ends well wrote down."""
    with process(name, folder, *arguments) as running:
        code = running.wait(240)
        printed = (folder / "printed").read_text()
        assert code == 0, printed
        expect_nothing_left(running.pid)
    return [json.loads(path.read_text()) for path in sorted(folder.glob("rank*.json"))]


def differences(first: dict[str, str], second: dict[str, str]) -> list[str]:
    return [name for name in sorted({*first, *second}) if first.get(name) != second.get(name)]


def assert_same_training(found: list[Any], name: str) -> None:
    for rank, one in enumerate(found):
        # The first process still writes its metrics when the other one reads them.
        different = [what for what in differences(one["without"], one[name]) if rank == 0 or what != "metrics: 0"]
        assert different == [], f"process {rank}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "package", "launcher"),
    [
        ("undisturbed", tiny.PACKAGES[0], ()),
        ("undisturbed", tiny.PACKAGES[1], TORCHRUN),
        pytest.param("undisturbed by NCCL", tiny.PACKAGES[0], (), marks=TWO_GPUS),
    ],
)
def test_training_is_the_same_and_every_picture_is_made_once(
    name: str, package: str, launcher: tuple[str, ...], tmp_path: Path
) -> None:
    found = ran(name, tmp_path, package, launcher)
    assert len(found) == 2
    assert_same_training(found, "with")
    made = tiny.records(tmp_path)
    assert [record["error"] for record in made if record["error"]] == []
    assert set(Counter((record["tag"], record["epoch"], record["step"]) for record in made).values()) == {1}
    for callback in callback_classes():
        assert {0, 1, 2} == {one["epoch"] for one in made if one["callback"] == callback.__name__}, callback
    assert len(list(tmp_path.rglob("report.html"))) == 1
    assert_work_was_shared(made)


def assert_work_was_shared(made: list[dict[str, Any]]) -> None:
    moments = {(record["epoch"], record["step"]) for record in made if record["callback"] == "Witness"}
    assert len(moments) == 5
    for moment in moments:
        alone, shared = (
            [record for record in made if (record["callback"], record["epoch"], record["step"]) == (name, *moment)]
            for name in ("Witness", "Sharing")
        )
        assert [one["scalars"]["process"] for one in shared if one["scalars"]] == [0, 0, 1, 1, 1]
        assert [one["sample"] for one in shared if not one["scalars"]] == [0, 1, 2, 3, 4]
        for one, other in zip(alone, shared, strict=True):
            # Samples and BatchNorm's statistics are the first process's, wherever a picture is made.
            different = ("tag", "callback", "file", "seconds", "time", "probability")
            one, other = ({key: value for key, value in x.items() if key not in different} for x in (one, other))
            one["scalars"].pop("process", None), other["scalars"].pop("process", None)
            assert one == other


def test_what_is_told_of_many_views_of_one_tensor_is_not_told_many_times() -> None:
    images = torch.rand(100, 3, 16, 16)
    message = Part(
        [Panel(str(index), Tile(image)) for index, image in enumerate(images)], state=dict(enumerate(images))
    )
    packed = _packed(message)
    assert len(packed) < 1.2 * images.nbytes + 100_000
    again = _unpacked(packed)
    assert all(torch.equal(panel.all_tiles[0].values, image) for panel, image in zip(again.panels, images, strict=True))
    assert all(torch.equal(again.state[index], image) for index, image in enumerate(images))


@pytest.mark.slow
def test_a_process_that_fails_stops_nothing(tmp_path: Path) -> None:
    found = ran("faults", tmp_path)
    for name in ("stumbling", "mumbling 0", "mumbling 1"):
        assert_same_training(found, name)
        said = found[1][f"warnings of {name}"]
        assert [text.partition(". Training")[0] for text in said] == (
            [] if name != "mumbling 1" else ["The processes cannot share the work on the pictures: " + NOT_UNDERSTOOD]
        )
    first, second = found[0]["warnings of stumbling"]
    assert "A made no pictures in epoch 1: ProcessError: in process 1 of 2: RuntimeError: process 1 stumbles" in first
    assert "B made no pictures in epoch 2: RuntimeError: process 0 stumbles" in second
    made = tiny.records(tmp_path / "stumbling")
    for name, missing in (("A", {1}), ("B", {2}), ("Occlusion", set()), ("Filters", set())):
        mine = [record for record in made if record["callback"] == name]
        assert {record["epoch"] for record in mine if record["error"]} == missing
        assert {record["epoch"] for record in mine if not record["error"]} == {0, 1, 2, 3} - missing
    for name in ("mumbling 0", "mumbling 1"):
        assert "The processes cannot share the work" in found[0][f"warnings of {name}"][0]
        made = [record for record in tiny.records(tmp_path / name) if record["callback"] == "Mumbling"]
        by_process = {
            epoch: {record["scalars"]["process"] for record in made if record["scalars"] and record["epoch"] == epoch}
            for epoch in range(4)
        }
        # Where the other process did not understand, its part of that epoch was lost with it.
        assert by_process == {0: {0, 1}, 1: {0} if name == "mumbling 0" else set(), 2: {0}, 3: {0}}
    assert len(list(tmp_path.rglob("report.html"))) == 3


@pytest.mark.slow
def test_processes_make_together_at_the_end_what_was_left_out(tmp_path: Path) -> None:
    assert ran("left out", tmp_path) == [3, 3]
    seen = {record["epoch"]: record for record in tiny.records(tmp_path) if record["callback"] == "Costly"}
    assert list(seen) == [3]
    found = [
        record["scalars"]["process"]
        for record in tiny.records(tmp_path)
        if record["tag"].startswith("Costly/") and record["scalars"]
    ]
    assert found == [0, 0, 1, 1]
    assert {record["epoch"] for record in tiny.records(tmp_path) if record["callback"] == "Filters"} == {0, 1, 2, 3}


@pytest.mark.slow
def test_a_resumed_run_goes_on_as_one_in_one_go(tmp_path: Path) -> None:
    ran("resumed", tmp_path)

    def pictures(folder: str) -> list[tuple[str, int, bytes]]:
        made = tiny.records(tmp_path / folder)
        assert [record["error"] for record in made if record["error"]] == []
        files = tiny.files_of(tmp_path / folder, made)
        return [(one["tag"], one["epoch"], file.read_bytes()) for one, file in zip(made, files, strict=True)]

    whole = pictures("whole")
    assert len(whole) == 3 * (3 + 6)
    assert [*pictures("begun"), *pictures("resumed")] == whole


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "to_all", "epochs"),
    [
        ("in training", False, {0, 1, 2}),
        ("in pictures of process 0", True, {0}),
        ("in pictures of process 1", True, {0}),
    ],
)
def test_ctrl_c_ends_all_processes_and_leaves_a_report(
    where: str, to_all: bool, epochs: set[int], tmp_path: Path
) -> None:
    with process(where, tmp_path) as running:
        waiting = wait_for(tmp_path / "waiting", running)
        time.sleep(1)  # until the other process waits for the first one
        (os.killpg if to_all else os.kill)(running.pid, signal.SIGINT)
        assert running.wait(30) == 1, waiting
        expect_nothing_left(running.pid)
    made = tiny.records(tmp_path)
    assert {record["epoch"] for record in made if record["callback"] in ("Sharing", "Endless")} == epochs
    (report,) = tmp_path.rglob("report.html")
    assert "stopped by KeyboardInterrupt" in report.read_text()


@pytest.mark.slow
def test_an_error_of_the_user_in_one_process_ends_all(tmp_path: Path) -> None:
    with process("user error", tmp_path) as running:
        wait_for(tmp_path / "failed", running)
        assert running.wait(20) != 0
        expect_nothing_left(running.pid)
    assert "the user's own error" in (tmp_path / "printed").read_text()
    # Lightning may kill the first process before it can write its report.
    assert {record["epoch"] for record in tiny.records(tmp_path)} >= {0, 1}


def wait_for(file: Path, running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not file.exists():
        assert running.poll() is None, (file.parent / "printed").read_text()
        assert time.monotonic() < deadline, "it never came so far"
        time.sleep(0.05)


def expect_nothing_left(group: int) -> None:
    deadline = time.monotonic() + 20
    while alive(-group):
        assert time.monotonic() < deadline, "a process is left"
        time.sleep(0.05)


@pytest.mark.slow
def test_callbacks_go_to_processes_that_are_spawned_or_forked(tmp_path: Path) -> None:
    (found,) = ran("spawned", tmp_path)
    assert found["ddp_spawn"] == found["without"]
    assert found["ddp_fork"] == found["without"]
    for strategy in ("ddp_spawn", "ddp_fork"):
        made = tiny.records(tmp_path / strategy)
        assert [record["error"] for record in made if record["error"]] == []
        assert {0, 1} == {record["scalars"]["process"] for record in made if "process" in record["scalars"]}
        assert len(list((tmp_path / strategy).rglob("report.html"))) == 1


@pytest.mark.slow
def test_weights_in_parts_mean_no_pictures_and_setup_says_why(tmp_path: Path) -> None:
    first, second = ran("sharded", tmp_path)
    assert second == {"said": [], "epochs": 2, "sharded": True}
    (said,) = first.pop("said")
    assert first == {"epochs": 2, "sharded": True}
    assert said.startswith("Pictures are off: with ModelParallelStrategy each process holds but a part of the weights")
    assert tiny.records(tmp_path) == []
    (report,) = tmp_path.rglob("report.html")
    assert "val_loss" in report.read_text()


@pytest.mark.parametrize("package", tiny.PACKAGES)
def test_strategies_that_part_the_weights_are_known(package: str) -> None:
    from importlib import import_module

    strategies = import_module(f"{package}.strategies")
    for name in ("FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy"):
        kind = getattr(strategies, name)
        users_own = type("UsersOwn", (kind,), {})
        for one in (kind, users_own):
            # DeepSpeed's cannot be made without DeepSpeed.
            assert sharded_strategy(SimpleNamespace(strategy=one.__new__(one))) == name
    for kind in (strategies.DDPStrategy, strategies.SingleDeviceStrategy):
        assert sharded_strategy(SimpleNamespace(strategy=kind.__new__(kind))) is None


SPLIT = [kind for kind in callback_classes() if cheap(kind).split]


@pytest.mark.parametrize("kind", SPLIT, ids=lambda kind: kind.__name__)
def test_the_parts_together_are_the_whole(kind: Any) -> None:
    model = tiny.module().eval()
    images, labels = zip(*(tiny.Shapes(5, seed=1)[index] for index in range(5)), strict=True)
    samples = Samples(torch.stack(images), torch.stack(labels), tuple("abcde"), tiny.CLASSES)

    def made(share: Share) -> list[Any]:
        options = {"classes": range(4)} if kind is ClassAppearance else {}
        options = {"channels": [0, 1, 3]} if kind is FeatureAppearance else options
        callback = cheap(kind, **options)
        part = share.slice(len(samples)) if callback.split == "samples" else slice(0, len(samples))
        if part.start == part.stop:
            return []
        shared = SharedPass(model, samples[part], "predicted")
        event = Event(model, Moment(1, 1), 0, shared, part.start, share)
        shared.add(callback.needs(event))
        with undisturbed(model):
            return list(callback.visualize(event))

    whole = made(Share())
    for count in (2, 7):
        parts = [panel for rank in range(count) for panel in made(Share(rank, count))]
        assert [(one.name, one.sample) for one in parts] == [(one.name, one.sample) for one in whole]
        if issubclass(kind, AttributionCallback):
            for one, other in zip(parts, whole, strict=True):
                for tile, expected in zip(one.all_tiles, other.all_tiles, strict=True):
                    torch.testing.assert_close(tile.values, expected.values, rtol=1e-4, atol=1e-5)


def test_class_images_go_on_as_in_one_process_where_there_are_more_processes_than_classes(tmp_path: Path) -> None:
    """Four processes with two classes, by the messages that they send each other."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, len(tiny.CLASSES)))
    images, labels = zip(*(tiny.Shapes(5, seed=1)[index] for index in range(5)), strict=True)
    samples = Samples(torch.stack(images), torch.stack(labels), tuple("abcde"), tiny.CLASSES)

    parts: list[Any] = []

    def made(callback: ClassAppearance, epoch: int, rank: int, count: int) -> None:
        """Run what a process does; the first one comes last, and gets what the others have made."""
        runner = EventRunner(
            [Ready(callback, "C", samples)],
            Moment(epoch, epoch),
            share=Share(rank, count),
            output=None if rank else output,
            timer=Timer(),
            warnings=WarnOnce(),
            fitting=0,
        )
        mine = runner.make(model, {})
        if rank:
            parts.append(mine)
        elif count > 1:
            runner.merge(model, [mine, *parts])

    def new() -> ClassAppearance:
        return ClassAppearance([1, 3], steps=2, fresh_steps=3, restart_every=3, recipe="simonyan", progress=False)

    output = Output(tmp_path, [])
    alone, first, *others = (new() for _ in range(5))
    for epoch in range(2, 9):
        made(alone, epoch, 0, 1)
        for rank, other in enumerate(others, start=1):
            other.load_shared_state(first.shared_state())
            made(other, epoch, rank, 4)
        made(first, epoch, 0, 4)
        parts.clear()
        found, wanted = first.state_dict(), alone.state_dict()
        assert (found["age"], found["events"]) == (wanted["age"], wanted["events"])
        for index in (1, 3):
            torch.testing.assert_close(found["last"][index], wanted["last"][index], rtol=1e-3, atol=1e-3)
    output.end_event(None)
    assert output.drain(60)
    assert output.problems() == []
    assert {record["error"] for record in tiny.records(tmp_path)} == {None}
