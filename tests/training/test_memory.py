"""Memory: nothing grows over a long run, and the pictures need hardly more than the training itself."""

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
import torch
from torch.utils.data import DataLoader, TensorDataset

from tests.helpers import tiny
from vis_callbacks import (
    Activations,
    ClassAppearance,
    Diagnostics,
    Filters,
    FineCAM,
    GradCAM,
    GradCAMPlusPlus,
    Report,
    Saliency,
    VisualizationCallback,
    default_suite,
)
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
            output = Run.of(trainer).recorder.output
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
    makers = (
        Diagnostics,
        Filters,
        Activations,
        Saliency,
        FineCAM,
        partial(ClassAppearance, ["star"], steps=2, fresh_steps=2),
    )
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
@pytest.mark.parametrize("name", ["resnet50", "vit_small_patch16_224"])
def test_a_fit_with_the_default_set_needs_hardly_more_memory_than_without(name: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    images = TensorDataset(torch.rand(16, 3, 224, 224), torch.arange(16) % 10)

    def fit(callbacks: list[Any], folder: str) -> int:
        module = tiny.module(net=timm.create_model(name, num_classes=10))
        # The first event too, at which the model is not known yet.
        trainer = tiny.trainer(tmp_path / folder, callbacks, max_epochs=1)
        there = sum(one.nbytes for one in (*module.state_dict().values(), *images.tensors))
        loader = DataLoader(images, batch_size=16)
        return there + peak_bytes(lambda: trainer.fit(module, loader, DataLoader(images, batch_size=8)))

    ours = default_suite(budget=None)
    for callback in ours:
        if isinstance(callback, ClassAppearance):
            callback.steps = callback.fresh_steps = 4  # the last of which are at full resolution
    without, with_pictures = fit([], "without"), fit(ours, "with")
    made = tiny.records(tmp_path / "with")
    assert {
        (record["callback"], record["epoch"])
        for record in made
        if record["file"] and record["callback"] != "Diagnostics"
    } == {
        (callback.name, epoch)
        for callback in ours
        if isinstance(callback, VisualizationCallback) and callback.name != "Diagnostics"
        for epoch in (0, 1)
    }
    assert with_pictures <= 1.05 * without


def passes_of(module: Any) -> list[int]:
    """The number of images in each pass of the pictures that a module's network makes from now on."""
    seen: list[int] = []
    module.net.conv1.register_forward_hook(
        lambda net, inputs, output: seen.append(len(output)) if output.requires_grad and not net.training else None
    )
    return seen


def looking() -> list[Any]:
    return [Saliency(), GradCAM(layer="net.conv2"), GradCAMPlusPlus(layer="net.conv2")]


@pytest.mark.parametrize(("side", "passes"), [(96, [8]), (224, [8]), (256, [6, 2])])
def test_images_share_one_pass_up_to_a_bound(side: int, passes: list[int], tmp_path: Path) -> None:
    """Each image goes once forward and once backward, however many techniques look at it."""
    module = tiny.module()
    seen = passes_of(module)
    images = TensorDataset(torch.rand(8, 1, side, side), torch.arange(8) % 4)
    trainer = tiny.trainer(tmp_path, looking())
    for _ in range(2):  # the first time the model is not known yet
        seen.clear()
        trainer.validate(module, DataLoader(images, batch_size=8), verbose=False)
        assert seen == passes


@pytest.mark.parametrize(("batch_size", "passes"), [(16, [8]), (8, [8]), (3, [3, 3, 2]), (2, [2] * 4)])
def test_in_a_fit_as_many_images_share_a_pass_as_a_training_batch_has(
    batch_size: int, passes: list[int], tmp_path: Path
) -> None:
    module = tiny.module()
    seen = passes_of(module)
    images = TensorDataset(torch.rand(16, 1, 224, 224), torch.arange(16) % 4)
    trainer = tiny.trainer(tmp_path, looking())
    # The events before training, and after each of two epochs.
    trainer.fit(module, DataLoader(images, batch_size=batch_size), DataLoader(images, batch_size=8))
    assert seen == 3 * passes


@pytest.mark.parametrize(("stage", "batch_size"), [("fit", 16), ("fit", 2), ("validate", 8)])
def test_one_option_bounds_the_images_of_a_pass_and_the_pictures_are_the_same(
    stage: str, batch_size: int, tmp_path: Path
) -> None:
    made = []
    for chunk_size, passes in ((None, [7, 1] if batch_size == 2 else [8]), (3, [3, 3, 2])):
        module = tiny.module()
        seen = passes_of(module)
        pixels = torch.rand(16, 1, 112, 112, generator=torch.Generator().manual_seed(0))
        images = TensorDataset(pixels, torch.arange(16) % 4)
        folder = tmp_path / str(chunk_size)
        trainer = tiny.trainer(folder, [*looking(), Report(chunk_size=chunk_size)], max_epochs=1)
        loaders = [DataLoader(images, batch_size=batch_size), DataLoader(images, batch_size=8)]
        if stage == "fit":
            trainer.fit(module, *loaders)
            passes = 2 * passes
        else:
            trainer.validate(module, loaders[1], verbose=False)
        assert seen == passes
        store = next(folder.rglob("visualizations"))
        made.append({path.relative_to(store): path.read_bytes() for path in store.rglob("*epoch*") if path.is_file()})
    assert made[0] == made[1]
    assert len(made[0]) >= 24
