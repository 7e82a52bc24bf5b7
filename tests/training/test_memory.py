"""Memory: nothing grows over a long run, and the pictures need little more than an evaluation."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from tests.helpers import tiny
from vis_callbacks import (
    Activations,
    ClassAppearance,
    Filters,
    GradCAM,
    GradCAMPlusPlus,
    Report,
    Saliency,
    VisualizationCallback,
    default_suite,
)
from vis_callbacks.event import Event
from vis_callbacks.panel import Panel
from vis_callbacks.run.run import Run

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
@pytest.mark.parametrize("name", ["resnet50", "densenet121", "vit_small_patch16_224"])
def test_the_default_set_needs_little_more_memory_than_an_evaluation(name: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    module = tiny.module(net=timm.create_model(name, num_classes=10))
    images = TensorDataset(torch.rand(4, 3, 224, 224), torch.arange(4))

    def evaluation(callbacks: list[Any], folder: str) -> Callable[[], object]:
        # The first event, at which the model is not known yet.
        trainer = tiny.trainer(tmp_path / folder, callbacks)
        return lambda: trainer.validate(module, DataLoader(images, batch_size=4), verbose=False)

    ours = default_suite(budget=None)
    for callback in ours:
        if isinstance(callback, ClassAppearance):
            callback.fresh_steps = 4  # the last of which are at full resolution
    there = sum(one.nbytes for one in (*module.state_dict().values(), *images.tensors))
    without = there + peak_bytes(evaluation([], "without"))
    with_pictures = there + peak_bytes(evaluation(ours, "with"))
    assert {record["callback"] for record in tiny.records(tmp_path / "with") if record["file"]} == {
        callback.name for callback in ours if isinstance(callback, VisualizationCallback)
    }
    assert with_pictures <= 1.5 * without


@pytest.mark.parametrize(("side", "passes"), [(96, 1), (128, 2), (224, 8)])
def test_small_images_share_one_pass_and_large_ones_take_turns(side: int, passes: int, tmp_path: Path) -> None:
    """Each image goes once forward and once backward, however many techniques look at it."""
    module = tiny.module()
    seen: list[int] = []
    module.net.conv1.register_forward_hook(
        lambda _, inputs, output: seen.append(len(output)) if output.requires_grad else None
    )
    images = TensorDataset(torch.rand(8, 1, side, side), torch.arange(8) % 4)
    callbacks = [Saliency(), GradCAM(layer="net.conv2"), GradCAMPlusPlus(layer="net.conv2")]
    trainer = tiny.trainer(tmp_path, callbacks)
    for _ in range(2):  # the first time the model is not known yet
        seen.clear()
        trainer.validate(module, DataLoader(images, batch_size=8), verbose=False)
    assert len(seen) == passes
    assert sum(seen) == 8


class Late(VisualizationCallback):
    """Writes down what is left of the shared pass."""

    def visualize(self, event: Event) -> Iterable[Panel]:
        self.left = event.trace
        panel = event.sample_panel(0)
        assert panel.predicted
        yield panel


def test_what_nobody_reads_any_more_is_let_go_of(tmp_path: Path) -> None:
    between, last = Late(samples=2, name="between"), Late(samples=2, name="last")
    callbacks = [Saliency(samples=2), between, Activations("net.conv2", max_channels=2, samples=2), last]
    passes: list[Tensor] = []
    module = tiny.module()
    module.net.conv1.register_forward_hook(
        lambda _, inputs, output: passes.append(output) if output.requires_grad else None
    )
    trainer = tiny.trainer(tmp_path, callbacks)
    trainer.validate(module, tiny.loader(4), verbose=False)
    assert len(passes) == 1
    # It is still wanted while a technique that reads it is to come.
    assert between.left.input_gradient is not None
    assert list(between.left.activations) == ["net.conv2"]
    assert (last.left.input_gradient, last.left.activations, last.left.gradients) == (None, {}, {})
    assert torch.equal(last.left.logits, between.left.logits)


def test_a_picture_that_waits_holds_nothing_but_itself(tmp_path: Path) -> None:
    panels: list[Panel] = []

    class Looking(Activations):
        def visualize(self, event: Event) -> Iterable[Panel]:
            for panel in super().visualize(event):
                panels.append(panel)
                yield panel

    callback = Looking("net.conv2", max_channels=2, samples=2)
    tiny.trainer(tmp_path, [callback]).validate(tiny.module(), tiny.loader(4), verbose=False)
    maps = [tile.values for panel in panels for tile in panel.tiles[1:]]
    assert maps
    assert all(values.untyped_storage().nbytes() == values.nbytes for values in maps)
