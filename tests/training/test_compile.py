"""Compiled models: the pictures are those of the eager model, and nothing is compiled for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch._dynamo.utils import counters

from tests.helpers import tiny
from vis_callbacks import Filters, GradCAM, GuidedBackprop, Occlusion, Report, Saliency

pl = import_module(tiny.PACKAGES[0])
needs_a_compiler = pytest.mark.skipif(which("g++") is None, reason="needs g++ on the PATH")


def callbacks() -> list[Any]:
    return [
        Filters(),
        # Five samples make batches of a size that training never has.
        *(kind(samples=5) for kind in (Saliency, GradCAM, GuidedBackprop, Occlusion)),
        Saliency(samples=3, name="InTheMiddle", every_n_steps=3),
        Report(),
    ]


def whole(module: Any, backend: str) -> Any:
    """What the user hands to the Trainer is the compiled module."""
    return torch.compile(module, backend=backend)


def in_place(module: Any, backend: str) -> Any:
    module.compile(backend=backend)
    return module


def child(module: Any, backend: str) -> Any:
    module.net = torch.compile(module.net, backend=backend)
    return module


def child_in_place(module: Any, backend: str) -> Any:
    module.net.compile(backend=backend)
    return module


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def fit(
    folder: Path, ours: list[Any], compiled: Callable[[Any], Any], package: str = tiny.PACKAGES[0]
) -> tuple[dict[str, int], list[torch.Tensor]]:
    """Train a compiled module; return what was compiled, by count, and the weights."""
    torch._dynamo.reset()
    counters.clear()
    module = compiled(tiny.module(package))
    # A limit that is reached would hide a difference.
    with torch._dynamo.config.patch(cache_size_limit=100):
        tiny.trainer(folder, ours, package=package).fit(module, tiny.loader(32), tiny.loader(16, seed=1))
    counted = {f"{kind}: {name}": count for kind in ("frames", "stats") for name, count in counters[kind].items()}
    return counted, [parameter.detach().clone() for parameter in module.parameters()]


def pictures(folder: Path) -> dict[tuple[str, int], np.ndarray]:
    made = tiny.records(folder)
    assert [record["error"] for record in made if record["error"]] == []
    return {
        (record["tag"], record["step"]): np.asarray(Image.open(file)).astype(int)
        for record, file in zip(made, tiny.files_of(folder, made), strict=True)
    }


@pytest.mark.parametrize("package", [tiny.PACKAGES[0], pytest.param(tiny.PACKAGES[1], marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("compiled", "backend", "tolerance"),
    [
        *((compiled, "eager", 0) for compiled in (in_place, child, child_in_place)),
        # Lightning's hooks and steps are compiled with it, at which torch complains.
        pytest.param(whole, "eager", 0, marks=[pytest.mark.slow, pytest.mark.filterwarnings("ignore:The .grad attr")]),
        pytest.param(in_place, "aot_eager", 0, marks=pytest.mark.slow),
        pytest.param(child, "inductor", 2, marks=[pytest.mark.slow, needs_a_compiler]),
    ],
)
def test_nothing_is_compiled_for_pictures_and_they_are_those_of_the_eager_model(
    compiled: Callable[[Any, str], Any], backend: str, tolerance: int, package: str, tmp_path: Path
) -> None:
    def prepared(module: Any) -> Any:
        if tolerance:
            # AdamW makes much of kernels that round otherwise; of equal weights the pictures must be equal.
            module.lr = 0.0
        return module

    def compiles(module: Any) -> Any:
        return compiled(prepared(module), backend)

    fit(tmp_path / "eager", callbacks(), prepared, package)
    without, weights = fit(tmp_path / "without", [], compiles, package)
    found, same_weights = fit(tmp_path / "with", callbacks(), compiles, package)
    assert without["stats: unique_graphs"] >= 2
    assert found == without
    assert all(torch.equal(one, other) for one, other in zip(weights, same_weights, strict=True))
    eager, made = pictures(tmp_path / "eager"), pictures(tmp_path / "with")
    assert eager.keys() == made.keys()
    assert len({tag.split("/")[0] for tag, _ in made}) == 6
    for key, picture in made.items():
        assert np.abs(picture - eager[key]).max() <= tolerance, key


def test_the_count_finds_one_pass_of_another_batch_size(tmp_path: Path) -> None:
    class Careless(pl.Callback):
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            pl_module(torch.rand(5, 1, 8, 8))

    without, _ = fit(tmp_path, [], lambda module: in_place(module, "eager"))
    found, _ = fit(tmp_path, [Careless()], lambda module: in_place(module, "eager"))
    assert found["stats: unique_graphs"] > without["stats: unique_graphs"]
