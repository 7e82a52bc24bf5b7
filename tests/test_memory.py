"""Memory: nothing grows over a long run, and in small pieces the pictures need little more than an evaluation batch."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from functools import partial
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from vis_callbacks import Activations, ClassAppearance, Filters, GradCAM, Report, Saliency, default_suite
from vis_callbacks.event import Event, Moment, SharedPass
from vis_callbacks.ledger import Ledger
from vis_callbacks.model import chunks
from vis_callbacks.model.undisturbed import undisturbed
from vis_callbacks.run import Run
from vis_callbacks.samples import Samples

pl = import_module(tiny.PACKAGES[0])


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Census(pl.Callback):
    """Counts what is alive at the end of some epochs."""

    def __init__(self, epochs: set[int]) -> None:
        self.epochs = epochs
        self.found: dict[int, dict[str, int]] = {}

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        epoch = trainer.current_epoch + 1
        if epoch in self.epochs:
            # Pictures that wait to be written are no growth.
            output = Run.of(trainer)._output
            assert output is not None
            assert output.drain(120)
            gc.collect()
            tensors = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
            self.found[epoch] = {
                "tensors": len(tensors),
                "bytes in tensors": sum(tensor.nbytes for tensor in tensors),
                "hooks": sum(len(module._forward_hooks) for module in pl_module.modules()),
                "objects": len(gc.get_objects()),
                "threads": threading.active_count(),
                "files": sum(1 for _ in Path("/proc/self/fd").iterdir()),
                "resident": resident_bytes(),
            }


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="reads /proc")
def test_nothing_grows_over_two_hundred_epochs(tmp_path: Path) -> None:
    census = Census({50, 200})
    # The default set, made fast: fewer pictures, of which each goes the same way.
    makers = (Filters, Activations, Saliency, GradCAM, partial(ClassAppearance, ["star"], steps=2, fresh_steps=2))
    ours = [maker(samples=1) for maker in makers]
    assert [type(callback) for callback in default_suite()] == [*map(type, ours), Report]
    logger = pl.loggers.TensorBoardLogger(tmp_path, name=None, version="run")
    trainer = tiny.trainer(tmp_path, [*ours, census], logger=logger, max_epochs=200)
    trainer.fit(tiny.module(), tiny.loader(16), tiny.loader(8, seed=1))
    assert {record["epoch"] for record in tiny.records(tmp_path) if record["file"]} == set(range(201))
    early, late = census.found[50], census.found[200]
    for what in ("tensors", "bytes in tensors", "hooks", "threads", "files"):
        assert late[what] <= early[what], (what, early, late)
    assert late["objects"] < 1.02 * early["objects"]
    assert late["resident"] - early["resident"] < 20e6


def peak_bytes(work: Callable[[], object]) -> int:
    """Most bytes that were alive in tensors at a time while something ran, beyond those before."""
    gc.collect()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    found = [one for one in seen.profiler.kineto_results.events() if one.name() == "[memory]"]
    return max(accumulate(one.nbytes() for one in sorted(found, key=lambda one: one.start_ns())))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the profiler
@pytest.mark.parametrize(
    "maker",
    [lambda: [Saliency(), GradCAM()], lambda: [Activations(depth=2, max_channels=16)]],
    ids=["Saliency and GradCAM", "Activations"],
)
def test_pieces_need_little_more_memory_than_an_evaluation_batch(
    maker: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass of all samples needs some four times as much, which is why it is cut where memory runs out."""
    monkeypatch.setattr(chunks, "CPU_PIXELS", 2 * 224 * 224)
    timm = pytest.importorskip("timm")
    model, images = timm.create_model("resnet18", num_classes=10).eval(), torch.rand(8, 3, 224, 224)
    samples = Samples(images, torch.zeros(8, dtype=torch.long), tuple("abcdefgh"), tuple("0123456789"))

    def evaluate() -> None:
        with torch.no_grad():
            model(images)

    def make() -> None:
        shared: dict[int, SharedPass] = {}
        with undisturbed(model):
            for callback in ours:
                count = int(callback.sample_request.source)
                shared.setdefault(count, SharedPass(model, samples.at(torch.arange(count)), "predicted", Ledger()))
            events = [Event(model, Moment(1, 9), 0, shared[int(one.sample_request.source)]) for one in ours]
            for callback, event in zip(ours, events, strict=True):
                event.shared.add(callback.needs(event))
            for callback, event in zip(ours, events, strict=True):
                assert list(callback.visualize(event))

    ours: list[Any] = maker()
    evaluate()
    make()  # a model's first event also finds out about its layers
    assert peak_bytes(make) <= 1.5 * peak_bytes(evaluate)
