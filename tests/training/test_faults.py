"""Everything that goes wrong in a run, done for real: training ends as it would without pictures, the report opens."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.helpers import tiny
from tests.helpers.browser import executable, launched, visit
from tests.test_errors import Fragile, visualization_warnings
from tests.training.undisturbed import all_callbacks, callback_classes, cheap
from vis_callbacks import (
    ClassAppearance,
    Event,
    Filters,
    GradCAM,
    Panel,
    Report,
    Saliency,
    VisualizationCallback,
)
from vis_callbacks.attribution.callback import AttributionCallback
from vis_callbacks.report.reading import read_history

pl = import_module(tiny.PACKAGES[0])

# What the user's side does.


class Plain(tiny.module_class(tiny.PACKAGES[0])):  # type: ignore[misc]
    """Does something at a moment of the run; by default nothing."""

    def __init__(self, net: Callable[[], nn.Module] = tiny.Net, **at: Callable[[Plain], object]) -> None:
        torch.manual_seed(0)
        super().__init__(net())
        self.at = at

    def happens(self, moment: str) -> None:
        if moment in self.at:
            self.at[moment](self)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.happens(f"training epoch {self.current_epoch} batch {batch_idx}")
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.happens("sanity check" if self.trainer.sanity_checking else f"validation {self.current_epoch}")
        super().validation_step(batch, batch_idx)

    def on_train_epoch_start(self) -> None:
        self.happens(f"epoch {self.current_epoch}")


def spoiled_with(value: float) -> Callable[[Plain], None]:
    return lambda module: nn.init.constant_(module.net.conv1.weight, value)


def stumble(*_: Any) -> None:
    raise ZeroDivisionError("the user's own")


def ctrl_c(*_: Any) -> None:
    signal.raise_signal(signal.SIGINT)


class Needy(tiny.Net):
    """Needs more memory than any machine has when a gradient is asked of more than a few images at a time."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def forward(self, images: Tensor) -> Tensor:
        if not self.training and torch.is_grad_enabled() and len(images) > self.most:
            torch.empty(2**50)
        return super().forward(images)


class Named(tiny.Shapes):
    """Shapes with class names of one's own."""

    def __init__(self, count: int, names: Sequence[str]) -> None:
        super().__init__(count)
        self.classes = list(names)


class Growing(tiny.Shapes):
    """Shapes whose second half is larger."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = super().__getitem__(index)
        return (image if index < len(self) // 2 else nn.functional.pad(image, (2, 2, 2, 2))), label


class Corrupt(tiny.Shapes):
    """Shapes of which one is in a file that is no picture."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index == 13:
            Image.open(__file__)
        return super().__getitem__(index)


# What goes wrong on the side of the pictures.


class Meanwhile(VisualizationCallback):
    """Lets something happen in some epoch."""

    uses_samples = False

    def __init__(self, epoch: int, happens: Callable[[], object], **options: Any) -> None:
        super().__init__(**options)
        self.epoch, self.happens = epoch, happens

    def visualize(self, event: Event) -> Iterable[Panel]:
        if event.moment.epoch == self.epoch:
            self.happens()
        return []


class OnDisk(Meanwhile):
    """Lets something happen to the disk, when all that was made before is on it."""

    def visualize(self, event: Event) -> Iterable[Panel]:
        assert self._run is not None
        assert self._run.recorder.output is not None
        self._run.recorder.output.drain(30)
        return super().visualize(event)


class StoppedAfterwards(pl.Callback):
    """Ctrl-C at the end of a validation."""

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1 and not trainer.sanity_checking:
            ctrl_c()


def sheet(folder: Path) -> list[Any]:
    broken = folder / "broken.png"
    broken.write_bytes(b"no picture")
    return [Saliency(samples=[broken], name="Files")]


# Disks.


def full_disk(folder: Path) -> list[Any]:
    """A disk of its own, full from the first epoch to the second."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    filler = folder / "filler"

    def fill() -> None:
        with filler.open("wb", buffering=0) as stream, suppress(OSError):
            while True:
                stream.write(b"\0" * 512)
        assert shutil.disk_usage(folder).free == 0

    return [OnDisk(1, fill), OnDisk(2, filler.unlink, name="Later")]


def small_files(folder: Path) -> list[Any]:
    """No file may become larger than a few bytes, from the first epoch to the second."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE)
    return [OnDisk(1, lambda: limit((500, hard))), OnDisk(2, lambda: limit((soft, hard)), name="Later")]


def read_only(folder: Path) -> list[Any]:
    """A folder in which nothing can be made or changed, from the first epoch to the second, also by root."""

    def lock(sign: str) -> None:
        for path in [*(folder / "visualizations").rglob("*"), folder / "visualizations"]:
            if os.geteuid():
                path.chmod(0o777 if sign == "-" else 0o555)
            else:
                subprocess.run(["chattr", f"{sign}i", path], check=True)

    probe = folder / "probe"
    probe.mkdir()
    if not os.geteuid() and subprocess.run(["chattr", "+i", probe], capture_output=True).returncode:
        pytest.skip("root can write everywhere here")
    subprocess.run(["chattr", "-i", probe], capture_output=True)
    return [OnDisk(1, lambda: lock("+")), OnDisk(2, lambda: lock("-"), name="Later")]


def blocked(folder: Path) -> list[Any]:
    """A file in place of the folder, until the second epoch."""
    blocking = folder / "visualizations"
    blocking.write_text("in the way")
    return [OnDisk(2, blocking.unlink)]


def report_blocked(folder: Path) -> list[Any]:
    (folder / "visualizations" / f".report.html.{os.getpid()}.tmp").mkdir(parents=True)
    return []


HOSTILE = ("../../x", "</script><script>document.title = 'owned'</script>", "x" * 10_000, "😀\u2028\0\ud800")


def hostile(folder: Path) -> list[Any]:
    files = folder / "files"
    return [
        ClassAppearance(steps=2),
        *(Saliency(samples="per_class", name=name) for name in HOSTILE),
        Filters(name="..").to_file(str(files / "{callback}" / "{epoch}.png")),
        Saliency(samples=2, name="Filed").to_file(str(files / "{label}" / "{index}_{epoch}.png")),
    ]


def attributions() -> list[Any]:
    techniques = [one for one in callback_classes() if issubclass(one, AttributionCallback)]
    assert len(techniques) > 10
    return [Filters(), *(cheap(one, samples=5) for one in techniques)]


@dataclass(frozen=True)
class Fault:
    """One row of the table.

    Attributes:
        module: The module that is trained, with the pictures and without.
        loaders: Its data for training and validation.
        theirs: In place of `ours` where there are no pictures.
        ours: Callbacks in front of the others, which may do something to the disk.
        usual: The other callbacks; `Filters` is always among them.
        options: Of the Trainer.
        says: Words of the one warning; without any, none is expected.
        raises: How the fit ends, with pictures and without.
        made: Epochs of which there are pictures of `Filters`.
        status: What the store and the report say about the end.
        report: Whether there is one.
    """

    module: Callable[[], Plain] = Plain
    loaders: Callable[[], Sequence[Any]] = lambda: (tiny.loader(32), tiny.loader(16, seed=1))
    theirs: Callable[[], list[Any]] = list
    ours: Callable[[Path], list[Any]] = lambda folder: []
    usual: Callable[[], list[Any]] = lambda: [Filters(), Saliency(samples=2)]
    options: Mapping[str, Any] = field(default_factory=dict)
    says: tuple[str, ...] = ()
    raises: str = ""
    made: frozenset[int] = frozenset({0, 1, 2, 3})
    status: str = "finished"
    report: bool = True

    @property
    def gaps(self) -> bool:
        """Whether a picture is missing."""
        return bool(self.says) and self.report


def made(*epochs: int) -> frozenset[int]:
    return frozenset(epochs)


STOPPED = "stopped by KeyboardInterrupt in epoch 2"
DISK = ("Filters", "Error", "disk")

FAULTS = {
    "an exception in a technique": Fault(ours=lambda _: [Fragile()], says=("Fragile", "epoch 1", "out of paint")),
    "a transform that fails": Fault(
        ours=lambda _: [Filters(transform=lambda picture: picture[0, 0], name="Cut")], says=("Cut", "transform")
    ),
    "NaN weights": Fault(
        lambda: Plain(**{"epoch 1": spoiled_with(float("nan"))}),
        usual=lambda: [Filters(), Saliency(samples=2), GradCAM(samples=2), ClassAppearance(["star"], steps=2)],
        says=("Filters", "weights", "NaN"),
        made=made(0, 1),
    ),
    "Inf weights": Fault(
        lambda: Plain(**{"epoch 1": spoiled_with(float("inf"))}), says=("Filters", "weights", "Inf"), made=made(0, 1)
    ),
    "memory for two images at a time": Fault(lambda: Plain(partial(Needy, 2)), usual=attributions),
    "memory for not even one image": Fault(
        lambda: Plain(partial(Needy, 0)),
        usual=lambda: [Filters(), Saliency(samples=2, name="Starved")],
        says=("Starved", "memory"),
    ),
    "a full disk": Fault(ours=full_disk, says=(*DISK, "No space left"), made=made(0, 2, 3)),
    "a file size limit": Fault(ours=small_files, says=DISK, made=made(0, 2, 3)),
    "a read-only folder": Fault(ours=read_only, says=DISK, made=made(0, 2, 3)),
    "a file in place of the folder": Fault(ours=blocked, says=DISK, made=made(2, 3)),
    "a report that cannot be written": Fault(ours=report_blocked, says=("The report", "Error", "disk"), report=False),
    "a corrupt picture in the data set": Fault(
        loaders=lambda: (DataLoader(Corrupt(32), batch_size=4), tiny.loader(16)),
        raises="UnidentifiedImageError: cannot identify image file",
        made=made(0),
        status="stopped by UnidentifiedImageError in epoch 1",
    ),
    "Ctrl-C in the sanity check": Fault(
        lambda: Plain(**{"sanity check": ctrl_c}), raises="SystemExit: 1", made=made(), report=False
    ),
    "Ctrl-C in a training batch": Fault(
        lambda: Plain(**{"training epoch 1 batch 2": ctrl_c}), raises="SystemExit: 1", made=made(0, 1), status=STOPPED
    ),
    "Ctrl-C in validation": Fault(
        lambda: Plain(**{"validation 1": ctrl_c}), raises="SystemExit: 1", made=made(0, 1), status=STOPPED
    ),
    "Ctrl-C while a technique runs": Fault(
        theirs=lambda: [StoppedAfterwards()],
        ours=lambda _: [Meanwhile(2, ctrl_c)],
        raises="SystemExit: 1",
        made=made(0, 1),
        status=STOPPED,
    ),
    "the user's own error": Fault(
        lambda: Plain(**{"training epoch 2 batch 1": stumble}),
        raises="ZeroDivisionError: the user's own",
        made=made(0, 1, 2),
        status="stopped by ZeroDivisionError in epoch 3",
    ),
    "batches of another shape": Fault(
        loaders=lambda: [DataLoader(Growing(count), batch_size=4) for count in (32, 16)],
        usual=lambda: all_callbacks()[:-1],
    ),
    "an empty validation loader": Fault(loaders=lambda: (tiny.loader(32), tiny.loader(0))),
    "an empty training loader": Fault(
        loaders=lambda: (tiny.loader(0), tiny.loader(16)), says=("nothing was trained",), made=made(), report=False
    ),
    "a corrupt image path": Fault(ours=sheet, says=("Files", "broken.png", "cannot be read as an image")),
    "class names and tags that are hostile": Fault(
        loaders=lambda: [DataLoader(Named(count, HOSTILE), batch_size=8) for count in (32, 16)],
        ours=hostile,
        options={"logger": True},
    ),
}

CHANGES_FILESYSTEMS = ("a full disk", "a read-only folder")
ROWS = [pytest.param(name, marks=[pytest.mark.changes_filesystems] * (name in CHANGES_FILESYSTEMS)) for name in FAULTS]


def outcome(fault: Fault, folder: Path, callbacks: Sequence[Any]) -> dict[str, str]:
    """Train, and return all that must be the same with the pictures: how it ends, the weights, the metrics."""
    options = dict(fault.options)
    if options.pop("logger", False):
        options["logger"] = pl.loggers.TensorBoardLogger(folder, name=None, version="run")
    trainer = tiny.trainer(folder, callbacks, **{"max_epochs": 3, **options})
    module, ends = fault.module(), ""
    try:
        trainer.fit(module, *fault.loaders())
    except (Exception, SystemExit) as error:
        ends = f"{type(error).__name__}: {error}"
    states = {"weights": module.state_dict(), "metrics": trainer.callback_metrics}
    for index, optimizer in enumerate(trainer.optimizers):
        states[f"optimizer {index}"] = {
            f"{number} {name}": value
            for number, state in optimizer.state_dict()["state"].items()
            for name, value in state.items()
        }
    return {
        "ends": ends,
        "epochs and steps": f"{trainer.current_epoch}, {trainer.global_step}",
        "random": hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest(),
        **{
            f"{kind}: {name}": hashlib.sha256(value.detach().numpy().tobytes()).hexdigest()
            for kind, state in states.items()
            for name, value in state.items()
        },
    }


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Lightning ignores Ctrl-C for good when there was one."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Where the pictures go; whatever disk it is, it is an ordinary folder again afterwards."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "with"
    path.mkdir()
    yield path
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    if not request.node.get_closest_marker("changes_filesystems"):
        return
    if path.is_mount():
        subprocess.run(["umount", "--lazy", path], check=True)
    elif not os.geteuid():
        subprocess.run(["chattr", "-R", "-i", path], capture_output=True)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser | None]:
    with launched() if executable() else nullcontext() as browser:
        yield browser


def opened(chromium: Browser | None, report: Path) -> str:
    """The text of a report that opens: in a real browser where there is one, without a complaint or a request."""
    if chromium is None:
        text = report.read_text()
        assert text.rstrip().endswith("</html>")
        for data in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL):
            json.loads(data)
        return text
    with visit(chromium, report.as_uri()) as seen:
        loaded = "images => images.every(image => image.complete && image.naturalWidth > 0)"
        seen.page.wait_for_function(f"({loaded})([...document.querySelectorAll('.card img[src]')])")
        assert (seen.complaints, seen.requests) == ([], [report.as_uri()])
        assert "owned" not in seen.page.title().partition("·")[2]
        return seen.page.content()


@pytest.mark.parametrize("name", ROWS)
def test_training_ends_as_it_would_and_the_report_opens(
    name: str, folder: Path, tmp_path: Path, chromium: Browser | None
) -> None:
    fault = FAULTS[name]
    with visualization_warnings():
        without = outcome(fault, tmp_path / "without", fault.theirs())
    with visualization_warnings() as said:
        found = outcome(fault, folder, [*fault.ours(folder), *fault.usual(), Report()])
    assert found == without
    assert found["ends"].startswith(fault.raises)
    assert bool(found["ends"]) == bool(fault.raises)
    assert len(said) == bool(fault.says), said
    assert all(word in said[0] for word in fault.says), said
    assert [path.parent.name for path in folder.rglob("report.html")] == ["visualizations"] * fault.report
    if not fault.made:
        assert list(folder.rglob("visualizations")) == []
        return
    (store,) = folder.rglob("visualizations")
    history = read_history(store)
    pictures = [picture for row in history.rows for picture in row.pictures.values()]
    (filters,) = history.sections["Filters"]
    shown = {history.events[at].epoch for at, picture in filters.pictures.items() if picture.file is not None}
    missing = {history.events[at].epoch for at, picture in filters.pictures.items() if picture.gap is not None}
    assert shown == fault.made
    assert missing == (set(range(4)) - shown if fault.status == "finished" else set())
    assert any(picture.gap for picture in pictures) == fault.gaps
    for picture in pictures:
        if picture.file is not None:
            with Image.open(picture.file) as image:
                image.load()
    assert [path for path in folder.rglob("*.tmp") if path.is_file()] == []
    if fault.report:
        text = opened(chromium, store / "report.html")
        assert history.run.status == fault.status
        assert (fault.status in text) == fault.status.startswith("stopped")


def test_what_is_hostile_stays_inside_and_apart(folder: Path, tmp_path: Path) -> None:
    fault = FAULTS["class names and tags that are hostile"]
    outcome(fault, folder, [*fault.ours(folder), Report()])
    inside = [path for path in tmp_path.rglob("*") if path.is_file()]
    allowed = [folder / "run" / "visualizations", folder / "files"]
    assert [path for path in inside if not any(path.is_relative_to(one) for one in allowed)] == [
        *(folder / "run").glob("[eh]*")
    ]
    assert all(len(path.relative_to(folder).parts) == 3 for path in folder.glob("files/**/*.png"))
    records = tiny.records(folder)
    names = {record["tag"].partition("/")[2] for record in records if record["callback"] == "ClassAppearance"}
    assert len(names) == len(HOSTILE)
    assert len({record["file"] for record in records}) == len(records)
    found = EventAccumulator(str(folder / "run"), size_guidance={"images": 0}).Reload()
    logged = {tag: [event.step for event in found.Images(tag)] for tag in found.Tags()["images"]}
    assert len(logged) == len({record["tag"] for record in records if record["callback"] not in ("..", "Filed")})
    assert all(steps == [0, 3, 7, 11] for steps in logged.values())
    assert [tag for tag in logged if ".." in tag.split("/") or len(tag) > 210] == []


@pytest.mark.parametrize("after_close", ["a new file", "an error"])
def test_a_closed_writer_costs_its_own_pictures_alone(after_close: str, tmp_path: Path) -> None:
    closed, other = (pl.loggers.TensorBoardLogger(tmp_path / name, name=None, version="run") for name in ("a", "b"))

    class Quiet(Plain):
        """Logs nothing: what Lightning itself writes to a broken writer would end the training."""

        def log(self, *_: Any, **__: Any) -> None:
            return

        def on_fit_end(self) -> None:
            closed.experiment.file_writer = closed.experiment.all_writers = None

    def close() -> None:
        writer = closed.experiment
        writer.close() if after_close == "a new file" else writer.file_writer.close()

    with visualization_warnings() as said:
        trainer = tiny.trainer(
            tmp_path, [OnDisk(2, close), Filters(), Saliency(samples=1), Report()], logger=[closed, other], max_epochs=3
        )
        trainer.fit(Quiet(), tiny.loader(32), tiny.loader(16))
    assert trainer.current_epoch == 3
    assert [text.partition(":")[0] for text in said] == ["Filters could not be written"] * (after_close == "an error")
    records = tiny.records(tmp_path)
    assert [record["file"] is not None for record in records] == [True] * 8
    steps = {}
    for name in ("a", "b"):
        found = EventAccumulator(str(tmp_path / name / "run"), size_guidance={"images": 0}).Reload()
        # Of two files of one second TensorBoard reads that with number 10 before that with number 9.
        steps[name] = sorted(event.step for event in found.Images("Filters/net.conv1"))
    assert steps == {"a": [0, 3] if after_close == "an error" else [0, 3, 7, 11], "b": [0, 3, 7, 11]}
    run = json.loads((tmp_path / "a" / "run" / "visualizations" / "run.json").read_text())
    assert (run["status"], run["epochs"]) == ("finished", 3)


def test_ctrl_c_while_the_last_pictures_are_written_waits_for_them(tmp_path: Path, chromium: Browser | None) -> None:
    """The first Ctrl-C is meant for a training that is over."""

    def slow(picture: Tensor) -> Tensor:
        deadline = time.monotonic() + 20
        while trainer.current_epoch >= 2 and not pressed and time.monotonic() < deadline:
            frame = sys._current_frames().get(threading.main_thread().ident or 0)
            while frame is not None and frame.f_code.co_name != "drain":
                frame = frame.f_back
            if frame is not None:
                pressed.append(True)
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.5)
            time.sleep(0.01)
        return picture

    pressed: list[bool] = []
    module, without = Plain(), Plain()
    tiny.trainer(tmp_path / "without", [], max_epochs=3).fit(without, tiny.loader(32), tiny.loader(16))
    trainer = tiny.trainer(tmp_path, [Filters(transform=slow, on="train"), Report()], max_epochs=3)
    with pytest.raises(SystemExit):
        trainer.fit(module, tiny.loader(32), tiny.loader(16))
    assert pressed
    assert all(torch.equal(one, other) for one, other in zip(module.parameters(), without.parameters(), strict=True))
    assert [record["epoch"] for record in tiny.records(tmp_path) if record["file"]] == [0, 1, 2, 3]
    store = tmp_path / "visualizations"
    assert json.loads((store / "run.json").read_text())["status"] == "finished"
    opened(chromium, store / "report.html")


# A damaged store.


def torn(store: Path) -> None:
    with (store / "panels.jsonl").open("r+b") as stream:
        stream.truncate(stream.seek(0, os.SEEK_END) - 40)


def garbled(store: Path) -> None:
    lines = (store / "panels.jsonl").read_bytes().split(b"\n")
    (store / "panels.jsonl").write_bytes(b"\n".join([lines[0], b"\xff\x00{", b"[" * 9999, *lines[1:]]))


def some_missing(store: Path) -> None:
    for picture in sorted(store.rglob("epoch*"))[::2]:
        picture.unlink()


def cut(store: Path) -> None:
    for picture in sorted(store.rglob("epoch*"))[::2]:
        picture.write_bytes(picture.read_bytes()[:50])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "half a line": torn,
    "lines of something else": garbled,
    "missing pictures": some_missing,
    "pictures cut short": cut,
    "no list of pictures": lambda store: (store / "panels.jsonl").unlink(),
    "no facts": lambda store: (store / "run.json").unlink(),
    "facts cut short": lambda store: (store / "run.json").write_text('{"status": "run'),
    "metrics of something else": lambda store: (store / "metrics.jsonl").write_bytes(b"\x00\xff"),
    "nothing left": shutil.rmtree,
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_store_is_gone_on_with(name: str, tmp_path: Path, chromium: Browser | None) -> None:
    def fit(module: Plain, epochs: int, *, ours: bool, **options: Any) -> Any:
        callbacks = [Filters(), Saliency(samples=2), Report()] if ours else []
        trainer = tiny.trainer(tmp_path, callbacks, max_epochs=epochs)
        trainer.fit(module, tiny.loader(32), tiny.loader(16, seed=1), **options)
        return trainer

    whole, resumed = Plain(), Plain()
    fit(Plain(), 2, ours=True).save_checkpoint(tmp_path / "two.ckpt")
    fit(whole, 4, ours=False)
    store = tmp_path / "visualizations"
    DAMAGES[name](store)
    with visualization_warnings() as said:
        fit(resumed, 4, ours=True, ckpt_path=tmp_path / "two.ckpt")
        # A process that was killed before a checkpoint makes some epochs again.
        fit(Plain(), 4, ours=True, ckpt_path=tmp_path / "two.ckpt")
    assert said == []
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), resumed.parameters(), strict=True))
    history = read_history(store)
    (filters,) = history.sections["Filters"]
    shown = {history.events[at].epoch for at, picture in filters.pictures.items() if picture.file is not None}
    assert shown >= {3, 4}
    opened(chromium, store / "report.html")


def test_a_run_that_is_resumed_otherwise_replaces_the_pictures_of_the_first_try(tmp_path: Path) -> None:
    def fit(epochs: int, lr: float, **options: Any) -> Path:
        trainer = tiny.trainer(tmp_path, [Filters()], max_epochs=epochs)
        module = Plain()
        module.on_train_start = lambda: module.optimizers().param_groups[0].update(lr=lr)
        trainer.fit(module, tiny.loader(32), tiny.loader(16), **options)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return tmp_path / "visualizations" / tiny.records(tmp_path)[-1]["file"]

    fit(1, 0.1)
    pictures = [fit(2, lr, ckpt_path=tmp_path / "1.ckpt").read_bytes() for lr in (0.1, 10.0)]
    assert pictures[0] != pictures[1]
    assert [record["epoch"] for record in tiny.records(tmp_path)] == [0, 1, 2]


# Processes.

RUN = """
import sys, time
from tests.helpers import tiny
from pathlib import Path
from importlib import import_module
from vis_callbacks import ClassAppearance, Filters, Report, Saliency

folder, package, pictures = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "True"
pl = import_module(package)

class Slow(tiny.module_class(package)):
    def training_step(self, batch, batch_idx):
        if self.current_epoch == 3:
            (folder / "in_epoch_3").touch()
            deadline = time.monotonic() + 60
            while not self.trainer.received_sigterm and time.monotonic() < deadline:
                time.sleep(0.05)
        return super().training_step(batch, batch_idx)

trainer = tiny.trainer(
    folder,
    [Filters(), Saliency(samples=2), ClassAppearance(["star"], steps=2), Report()] if pictures else [],
    package=package,
    logger=pl.loggers.TensorBoardLogger(folder, name=None, version="run"),
    max_epochs=5,
)
trainer.fit(Slow(), tiny.loader(32), tiny.loader(16, seed=1))
"""
TAGS = {"Filters/net.conv1", "Saliency/sample_0", "Saliency/sample_1", "ClassAppearance/star"}


@contextmanager
def training(folder: Path, package: str = tiny.PACKAGES[0], *, pictures: bool = True) -> Iterator[Any]:
    """A process that trains, and now is in its epoch 3 of 5, where it stays."""
    folder.mkdir(exist_ok=True)
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", RUN, str(folder), package, str(pictures)],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + 240
        while not (folder / "in_epoch_3").exists():
            assert process.poll() is None, process.stdout.read() if process.stdout else ""
            assert time.monotonic() < deadline, "it never came to epoch 3"
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def epochs_by_tag(store: Path) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for line in (store / "panels.jsonl").read_text().splitlines():
        record = json.loads(line)
        with Image.open(store / record["file"]) as picture:
            picture.load()
        found.setdefault(record["tag"], set()).add(record["epoch"])
    return found


@pytest.mark.slow
def test_a_killed_run_keeps_every_finished_epoch_and_the_command_makes_the_report(tmp_path: Path) -> None:
    with training(tmp_path) as process:
        # The last event before the kill may still be on its way to the disk, an earlier one may not.
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
    store = tmp_path / "run" / "visualizations"
    found = epochs_by_tag(store)
    assert set(found) == TAGS
    assert all(epochs >= {0, 1, 2} for epochs in found.values())
    assert not (store / "report.html").exists()
    command = [sys.executable, "-m", "vis_callbacks.cli", "report", str(tmp_path / "run")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert Path(printed) == store / "report.html"
    text = Path(printed).read_text()
    assert "ClassAppearance" in text
    assert "sample_1" in text
    events = EventAccumulator(str(tmp_path / "run"), size_guidance={"images": 0})
    events.Reload()
    for tag in TAGS:
        assert {event.step for event in events.Images(tag)} >= {0, 3, 7}


@pytest.mark.slow
@pytest.mark.parametrize("package", tiny.PACKAGES)
@pytest.mark.parametrize(
    ("number", "says"), [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "SIGTERMException")]
)
def test_a_process_that_is_stopped_ends_as_it_would_and_leaves_a_report(
    number: signal.Signals, says: str, package: str, tmp_path: Path, chromium: Browser | None
) -> None:
    with training(tmp_path / "a", package, pictures=False) as without, training(tmp_path / "b", package) as process:
        for one in (without, process):
            os.kill(one.pid, number)
        printed, _ = process.communicate(timeout=60)
        assert process.returncode == without.wait(60), printed
    store = tmp_path / "b" / "run" / "visualizations"
    assert all(epochs == {0, 1, 2, 3} for epochs in epochs_by_tag(store).values())
    assert json.loads((store / "run.json").read_text())["status"] == f"stopped by {says} in epoch 4"
    assert f"stopped by {says} in epoch 4" in opened(chromium, store / "report.html")
