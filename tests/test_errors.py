"""What cannot be meant stops before training; what fails in between is said once and stops nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.helpers import tiny
from vis_callbacks import (
    ClassAppearance,
    ConfigurationError,
    Event,
    Filters,
    GradCAM,
    LayerError,
    Panel,
    Report,
    Saliency,
    Tile,
    VisualizationCallback,
    VisualizationWarning,
    functional,
)


def fit(folder: Path, *callbacks: Any, module: Any = None, **options: Any) -> Any:
    trainer = tiny.trainer(folder, callbacks, **options)
    trainer.fit(tiny.module() if module is None else module, tiny.loader(32), tiny.loader(16, seed=1))
    return trainer


@contextmanager
def visualization_warnings() -> Iterator[list[str]]:
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield found
    found += [str(one.message) for one in caught if issubclass(one.category, VisualizationWarning)]


# Before training.


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Saliency(on="val"), ["on='val'", "'validation'"]),
        (lambda: Saliency(on=["train", "tset"]), ["'tset'", "'test'"]),
        (lambda: Saliency(every_n_epochs=0), ["every_n_epochs=0", "from 1"]),
        (lambda: Saliency(every_n_epochs=-2), ["every_n_epochs=-2"]),
        (lambda: Saliency(every_n_steps=1.5), ["every_n_steps=1.5", "whole number"]),
        (lambda: Saliency(samples=0), ["samples=0", "from 1"]),
        (lambda: Saliency(samples=-1), ["samples=-1"]),
        (lambda: Saliency(samples=True), ["samples=True"]),
        (lambda: Saliency(samples="per_clas"), ["'per_clas'", "'per_class'"]),
        (lambda: Saliency(samples=torch.zeros(3, 8, 8)), ["(3, 8, 8)", "(N, C, H, W)"]),
        (lambda: Saliency(samples=torch.zeros(1, 3, 8, 8, dtype=torch.uint8)), ["uint8", "floating"]),
        (lambda: Saliency(samples=["/nowhere/cup.png"]), ["no file '/nowhere/cup.png'"]),
        (lambda: Saliency(samples=[]), ["empty"]),
        (lambda: Saliency(on_error="ignore"), ["on_error='ignore'", "'warn' or 'raise'"]),
        (lambda: Saliency(mean=0.5), ["mean=0.5", "std=None", "both"]),
        (lambda: Saliency(mean=0.5, std=0.0), ["above 0"]),
        (lambda: Saliency(targets=1.5), ["targets=1.5", "'label'"]),
        (lambda: Saliency().to_file("cup_{epok}.png"), ["{epok}", "nearest: epoch"]),
        (lambda: Saliency().to_file("cup_{epoch}"), ["''", "image format", ".png"]),
        (lambda: Saliency().to_file("cups.{epoch}"), ["'.{epoch}'", "image format"]),
    ],
)
def test_a_wrong_option_is_refused_at_construction(make: Callable[[], object], words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        make()
    assert all(word in str(raised.value) for word in words), raised.value


class NeverTrains(tiny.Net):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise AssertionError("a batch was trained on")


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
@pytest.mark.parametrize(
    ("callback", "words"),
    [
        (Filters(layer="conv9"), ["no layer 'conv9'", "nearest: net.conv2, net.conv1"]),
        (GradCAM(layer="net.conf1"), ["'net.conf1'", "net.conv1"]),
        (Filters(layer="net.bn1"), ["'net.bn1' is a BatchNorm2d and has no filters", "net.conv1"]),
    ],
)
def test_an_unknown_layer_stops_in_setup(callback: Any, words: list[str], stage: str, tmp_path: Path) -> None:
    trainer = tiny.trainer(tmp_path, [callback])
    run = {"fit": trainer.fit, "validate": trainer.validate, "test": trainer.test}[stage]
    loaders = [tiny.loader(16)] * (2 if stage == "fit" else 1)
    with pytest.raises(LayerError) as raised:
        run(tiny.module(net=NeverTrains()), *loaders)
    assert all(word in str(raised.value) for word in words), raised.value
    assert any("setup" in entry.name and "callback" in str(entry.path) for entry in raised.traceback)


@pytest.mark.parametrize("hook", ["setup", "configure_model"])
def test_a_model_that_is_built_later_is_checked_when_it_is(hook: str, tmp_path: Path) -> None:
    class BuildsLater(tiny.module_class(tiny.PACKAGES[0])):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(nn.Identity())

        def build(self, stage: str | None = None) -> None:
            self.net = tiny.Net()

    setattr(BuildsLater, hook, BuildsLater.build)
    fit(tmp_path / "right", Filters(layer="net.conv2"), GradCAM(samples=2), module=BuildsLater())
    assert {record["tag"] for record in tiny.records(tmp_path / "right")} >= {"Filters/net.conv2"}
    with pytest.raises(LayerError, match="no layer 'conv9'"):
        fit(tmp_path / "wrong", Filters(layer="conv9"), module=BuildsLater())


def test_a_misspelt_target_is_told_the_words_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"targets='labels'.*'predicted', 'label', 'contrast'"):
        fit(tmp_path, Saliency(targets="labels"))


@pytest.mark.parametrize("function", [functional.saliency, functional.grad_cam, functional.integrated_gradients])
def test_functions_take_a_list_of_classes_and_say_what_is_none(function: Any) -> None:
    net, images = tiny.Net().eval(), torch.rand(2, 1, 8, 8)
    assert torch.equal(function(net, images, [1, 3]), function(net, images, torch.tensor([1, 3])))
    for wrong in ("star", ["star", "cross"]):
        with pytest.raises(ConfigurationError, match="expected class numbers"):
            function(net, images, wrong)
    with pytest.raises(ConfigurationError, match=r"\(3,\): expected \(2,\)"):
        function(net, images, [1, 2, 3])
    with pytest.raises(ConfigurationError, match="images of type ndarray"):
        function(net, images.numpy())
    with pytest.raises(ConfigurationError, match="classes='star'"):
        functional.class_appearance(net, "star", image_size=8)


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
@pytest.mark.parametrize("callback", [ClassAppearance(classes=["squire"]), Saliency(targets="squire")])
def test_an_unknown_class_stops_before_training(callback: Any, stage: str, tmp_path: Path) -> None:
    trainer = tiny.trainer(tmp_path, [callback])
    run = {"fit": trainer.fit, "validate": trainer.validate, "test": trainer.test}[stage]
    loaders = [tiny.loader(16)] * (2 if stage == "fit" else 1)
    module = tiny.module()
    before = [parameter.clone() for parameter in module.parameters()]
    with pytest.raises(ConfigurationError, match="no class 'squire' among 4; nearest: square"):
        run(module, *loaders)
    assert all(torch.equal(one, other) for one, other in zip(before, module.parameters(), strict=True))


# In between.


class Fragile(VisualizationCallback):
    """Fails in some epochs, after it has spoilt the model."""

    uses_samples = False

    def __init__(self, fails: Iterable[int] = (1,), **options: Any) -> None:
        super().__init__(**options)
        self.fails = tuple(fails)

    def visualize(self, event: Event) -> Iterable[Panel]:
        if event.moment.epoch in self.fails:
            for module in event.model.modules():
                module.training = True
                module.forward = lambda *_: None
            raise RuntimeError("out of paint")
        yield Panel("one", Tile(torch.rand(1, 4, 4)))


def test_a_failure_is_said_once_and_tried_again_and_leaves_a_gap(tmp_path: Path) -> None:
    with visualization_warnings() as said:
        fit(tmp_path, Fragile(fails=(1, 2)), Saliency(samples=2), Report(), max_epochs=4)
    assert len(said) == 1
    assert all(word in said[0] for word in ("Fragile", "epoch 1", "RuntimeError: out of paint", "on_error='raise'"))
    made = [record for record in tiny.records(tmp_path) if record["callback"] == "Fragile"]
    assert [record["epoch"] for record in made if record["file"]] == [0, 3, 4]
    assert [record["epoch"] for record in made if record["error"]] == [1, 2]
    # Whoever comes after it in the same event finds the model whole.
    others = [record for record in tiny.records(tmp_path) if record["callback"] == "Saliency"]
    assert {record["epoch"] for record in others if record["file"]} == {0, 1, 2, 3, 4}
    assert [record for record in others if record["error"]] == []
    assert "out of paint" in (tmp_path / "visualizations" / "report.html").read_text()


@pytest.mark.parametrize("package", tiny.PACKAGES)
def test_on_error_raise_stops_with_the_error_and_a_whole_model(package: str, tmp_path: Path) -> None:
    module = tiny.module(package)
    trainer = tiny.trainer(tmp_path, [Fragile(on_error="raise"), Report()], package=package)
    with pytest.raises(RuntimeError, match="out of paint"):
        trainer.fit(module, tiny.loader(32), tiny.loader(16))
    assert module(torch.rand(2, 1, 8, 8)).shape == (2, 4)
    assert "stopped by RuntimeError in epoch" in (tmp_path / "visualizations" / "report.html").read_text()


def test_a_model_without_filters_is_said_once(tmp_path: Path) -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.rand(64, 4))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1) @ self.table

    net = Table()
    with visualization_warnings() as said:
        fit(tmp_path, Filters(), Saliency(samples=2), module=tiny.module(net=net))
    assert len(said) == 1
    assert all(word in said[0] for word in ("Filters", "no convolution"))
    assert {record["epoch"] for record in tiny.records(tmp_path) if record["callback"] == "Saliency"} == {0, 1, 2}


def test_batches_without_images_are_said_once_for_each_callback(tmp_path: Path) -> None:
    class Tables(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 16

        def __getitem__(self, index: int) -> Any:
            return torch.full((64,), index / 16), index % 4

    net = nn.Sequential(nn.Linear(64, 4))
    trainer = tiny.trainer(tmp_path, [Filters(), Saliency(samples=2), Saliency(samples=3), Report()])
    loader = torch.utils.data.DataLoader(Tables(), batch_size=8)
    with visualization_warnings() as said:
        trainer.fit(tiny.module(net=net), loader, loader)
    assert sorted(text.split()[0] for text in said) == ["Saliency", "Saliency_2"]
    for text in said:
        assert all(word in text for word in ("no images in a batch of (tensor (8, 64)", "batch_to_images="))
    gaps = [record for record in tiny.records(tmp_path) if record["callback"] == "Saliency"]
    assert [(record["epoch"], record["file"]) for record in gaps] == [(0, None), (1, None), (2, None)]


def test_labels_missing_for_one_sample_a_class_are_said(tmp_path: Path) -> None:
    loader = torch.utils.data.DataLoader(torch.rand(16, 1, 8, 8), batch_size=8)
    module = tiny.module()
    module.validation_step = lambda batch, batch_idx: None
    with visualization_warnings() as said:
        tiny.trainer(tmp_path, [Saliency(samples="per_class")]).validate(module, loader, verbose=False)
    assert len(said) == 1
    assert "no labels" in said[0]
