"""What cannot be meant stops before training; what fails in between is said once and stops nothing."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers import tiny
from tests.helpers.techniques import callback_classes, options_of
from vis_callbacks import (
    Activations,
    ClassAppearance,
    ConfigurationError,
    DeepDream,
    Event,
    FeatureAppearance,
    FeatureInversion,
    Filters,
    FoolModel,
    GradCAM,
    GuidedBackprop,
    IntegratedGradients,
    LayerCAM,
    LayerError,
    MaximalPatches,
    Occlusion,
    Panel,
    Report,
    Saliency,
    ScoreCAM,
    SmoothGrad,
    Tile,
    VisualizationCallback,
    VisualizationWarning,
    default_suite,
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


NAN, ARRAY, MODULE = float("nan"), np.zeros((1, 3, 8, 8), np.float32), nn.ReLU()

WRONG: list[tuple[type, dict[str, Any], str]] = [
    (Saliency, {"samples": 0}, "samples=0: expected a whole number from 1"),
    (Saliency, {"samples": -1}, "samples=-1: expected a whole number from 1"),
    (Saliency, {"samples": True}, "samples=True: expected a whole number from 1"),
    (Saliency, {"samples": 2.5}, "samples=2.5: expected a whole number from 1, 'per_class', a tensor (N, C, H, W) or"),
    (Saliency, {"samples": "per_clas"}, "samples='per_clas': expected a whole number from 1, 'per_class'"),
    (Saliency, {"samples": torch.zeros(3, 8, 8)}, "(3, 8, 8), expected floating (N, C, H, W)"),
    (Saliency, {"samples": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}, "uint8 tensor (1, 3, 8, 8), expected floating"),
    (Saliency, {"samples": ["/nowhere/cup.png"]}, "samples: no file '/nowhere/cup.png'"),
    (Saliency, {"samples": [3]}, "samples=3: expected an image file"),
    (Saliency, {"samples": []}, "samples=[]: expected a whole number from 1, 'per_class', a tensor (N, C, H, W) or"),
    (Saliency, {"samples": ARRAY}, "samples=array([[[[0., 0."),
    (Saliency, {"targets": 1.5}, "targets=1.5: expected 'predicted', 'label', 'contrast', a class number or a class"),
    (Saliency, {"targets": -1}, "targets=-1: expected a whole number from 0"),
    (Saliency, {"targets": None}, "targets=None: expected 'predicted'"),
    (Saliency, {"every_n_epochs": 0}, "every_n_epochs=0: expected a whole number from 1"),
    (Saliency, {"every_n_epochs": "2"}, "every_n_epochs='2': expected a whole number from 1"),
    (Saliency, {"every_n_steps": 1.5}, "every_n_steps=1.5: expected a whole number from 1"),
    (Saliency, {"on": "val"}, "on='val': expected one of 'train', 'validation', 'test'"),
    (Saliency, {"on": ["train", "tset"]}, "on='tset': expected one of 'train', 'validation', 'test'"),
    (Saliency, {"on": []}, "on=[]: expected 'train', 'validation' or 'test'"),
    (Saliency, {"on": None}, "on=None: expected 'train', 'validation' or 'test'"),
    (Saliency, {"mean": 0.5}, "mean=0.5 with std=None: give both or neither"),
    (Saliency, {"mean": NAN, "std": 1}, "mean=nan: expected a number that is finite"),
    (Saliency, {"mean": "a", "std": 1}, "mean='a': expected a number, or one per channel"),
    (Saliency, {"mean": 0.5, "std": 0}, "std=0: expected a number above 0"),
    (Saliency, {"mean": 0.5, "std": [0.5, NAN, 1]}, "std=nan: expected a number above 0"),
    (Saliency, {"mean": [0.5] * 3, "std": [0.5] * 2}, "expected as many numbers in both, or a single one"),
    (Saliency, {"class_names": "abc"}, "class_names='abc': expected a list of names"),
    (Saliency, {"class_names": [1, 2]}, "class_names=1: expected a string"),
    (Saliency, {"on_error": "ignore"}, "on_error='ignore': expected one of 'warn', 'raise'"),
    (Saliency, {"on_error": None}, "on_error=None: expected one of 'warn', 'raise'"),
    (Saliency, {"seed": "a"}, "seed='a': expected a whole number"),
    (Saliency, {"budget": NAN}, "budget=nan: expected a share of the training time above 0 and up to 1"),
    (Saliency, {"budget": 5}, "budget=5: expected a share of the training time above 0 and up to 1"),
    (Saliency, {"name": ""}, "name='': expected a string, not empty"),
    (Saliency, {"name": 3}, "name=3: expected a string, not empty"),
    (Saliency, {"transform": "flip"}, "transform='flip': expected a function"),
    (Saliency, {"bands": (1, 2)}, "bands=(1, 2): expected three channel numbers"),
    (Saliency, {"bands": (0, 1, -1)}, "bands=-1: expected a whole number from 0"),
    (Saliency, {"bands": "rgb"}, "bands='rgb': expected three channel numbers"),
    (Saliency, {"batch_to_images": 0}, "batch_to_images=0: expected a function"),
    (
        Saliency,
        {"forward": 3},
        "forward=3: expected a function (module, images) -> logits, its import path, or a child's",
    ),
    (Saliency, {"forward": ""}, "forward='': expected a function"),
    (Saliency, {"forward": ["net"]}, "forward=['net']: expected a function"),
    (Report, {"forward": 3}, "forward=3: expected a function (module, images) -> logits"),
    (default_suite, {"forward": {}}, "forward={}: expected a function (module, images) -> logits"),
    (Saliency, {"display": "rainbow"}, "display='rainbow': expected one of 'heatmap', 'overlay'"),
    (Saliency, {"display": []}, "display=[]: expected one display or several"),
    (Saliency, {"alpha": 2}, "alpha=2: expected a number from 0 to 1"),
    (Saliency, {"alpha": NAN}, "alpha=nan: expected a number from 0 to 1"),
    (GradCAM, {"layer": MODULE}, "layer=ReLU(): expected the name of a layer"),
    (GradCAM, {"layer": 4}, "layer=4: expected the name of a layer"),
    (LayerCAM, {"layers": []}, "layers=[]: expected names of layers"),
    (LayerCAM, {"layer": [MODULE]}, "layer=ReLU(): expected the name of a layer"),
    (LayerCAM, {"layer": "a", "layers": "b"}, "LayerCAM has layers='b' and layer='a': give one of the two"),
    (ScoreCAM, {"top_k": 0}, "top_k=0: expected a whole number from 1"),
    (GuidedBackprop, {"channel": 3}, "channel=3 without a layer: expected the layer's name too"),
    (GuidedBackprop, {"layer": "conv1", "channel": -1}, "channel=-1: expected a whole number from 0"),
    (IntegratedGradients, {"steps": 0}, "steps=0: expected a whole number from 1"),
    (SmoothGrad, {"noisy_samples": 2.5}, "noisy_samples=2.5: expected a whole number from 1"),
    (SmoothGrad, {"noise_level": -0.1}, "noise_level=-0.1: expected a number from 0"),
    (SmoothGrad, {"noise_level": float("inf")}, "noise_level=inf: expected a number from 0"),
    (Occlusion, {"window": 0}, "window=0: expected a whole number from 1, or two of them: height and width"),
    (Occlusion, {"window": (4, 4, 4)}, "window=(4, 4, 4): expected a whole number from 1, or two of them"),
    (Occlusion, {"window": 3, "stride": (3, 4)}, "stride=(3, 4): expected at most the window's 3, or pixels stay"),
    (Occlusion, {"pixel": 2.0}, "pixel=2.0: expected a number from 0 to 1"),
    (Occlusion, {"score": "loss"}, "score='loss': expected one of 'logit', 'probability'"),
    (Filters, {"layer": 0}, "layer=0: expected the name of a layer"),
    (Filters, {"max_filters": "all"}, "max_filters='all': expected a whole number from 1"),
    (Filters, {"display": "grey"}, "display='grey': expected one of 'auto', 'rgb'"),
    (Filters, {"scale": None}, "scale=None: expected one of 'fixed', 'layer', 'filter'"),
    (Activations, {"layers": {"a": 1}}, "layers={'a': 1}: expected names of layers"),
    (Activations, {"depth": 2.5}, "depth=2.5: expected a whole number from 1"),
    (Activations, {"max_channels": 0}, "max_channels=0: expected a whole number from 1"),
    (Activations, {"channels": "weakest"}, "channels='weakest': expected 'strongest', 'random' or a list of channel"),
    (Activations, {"channels": [0, 1.5]}, "channels=1.5: expected a whole number from 0"),
    (Activations, {"scale": "log"}, "scale='log': expected one of 'fixed', 'layer', 'channel'"),
    (MaximalPatches, {"patch": "big"}, "patch='big': expected a whole number from 1, or two of them"),
    (MaximalPatches, {"stride": 0}, "stride=0: expected a whole number from 1, or two of them"),
    (MaximalPatches, {"top": 0}, "top=0: expected a whole number from 1"),
    (MaximalPatches, {"channels": [-1]}, "channels=-1: expected a whole number from 0"),
    (MaximalPatches, {"images": 0}, "images=0: expected a whole number from 1"),
    (ClassAppearance, {"classes": "wurst"}, "classes='wurst': expected 'rotating', 'worst' or a list of classes"),
    (ClassAppearance, {"classes": [0, 1.5]}, "classes=1.5: expected a class number or a class name"),
    (ClassAppearance, {"classes": 3}, "classes=3: expected 'rotating', 'worst' or a list of classes"),
    (ClassAppearance, {"steps": 1.5}, "steps=1.5: expected a whole number from 1"),
    (ClassAppearance, {"restart_every": True}, "restart_every=True: expected a whole number from 1"),
    (ClassAppearance, {"recipe": "rest"}, "recipe='rest': expected the name of a recipe, or a Recipe; nearest: best"),
    (ClassAppearance, {"recipe": 3}, "recipe=3: expected the name of a recipe, or a Recipe"),
    (ClassAppearance, {"decay": -1}, "decay=-1: expected a number from 0"),
    (ClassAppearance, {"warm_start": "no"}, "warm_start='no': expected True or False"),
    (ClassAppearance, {"image_size": "a"}, "image_size='a': expected a whole number from 1, (H, W) or (C, H, W)"),
    (ClassAppearance, {"image_size": (3, 8, 8, 8)}, "image_size=(3, 8, 8, 8): expected a whole number from 1, (H, W)"),
    (ClassAppearance, {"optimizer": "Adam"}, "optimizer='Adam': expected a function"),
    (ClassAppearance, {"progress": 1}, "progress=1: expected True or False"),
    (FeatureAppearance, {"channels": []}, "channels=[]: expected a list of channel numbers"),
    (FeatureAppearance, {"channels": 3}, "channels=3: expected a list of channel numbers"),
    (FeatureAppearance, {"real": -1}, "real=-1: expected a whole number from 0"),
    (FeatureAppearance, {"position": "left"}, "position='left': expected 'all', 'center' or a unit's row and column"),
    (FeatureAppearance, {"position": (1, 2, 3)}, "position=(1, 2, 3): expected 'all', 'center' or a unit's row and"),
    (FeatureAppearance, {"diversity": NAN}, "diversity=nan: expected a number from 0"),
    (DeepDream, {"channel": 1.5}, "channel=1.5: expected a whole number from 0"),
    (DeepDream, {"octaves": 0}, "octaves=0: expected a whole number from 1"),
    (DeepDream, {"octave_scale": 1}, "octave_scale=1: expected a number above 1"),
    (FeatureInversion, {"layers": [1]}, "layers=1: expected the name of a layer"),
    (FoolModel, {"target": 1.5}, "target=1.5: expected a class number or a class name"),
    (FoolModel, {"min_probability": 1.1}, "min_probability=1.1: expected a number from 0 to 1"),
    (FoolModel, {"linf": -1}, "linf=-1: expected a number of pixel units above 0"),
    (FoolModel, {"l2": "small"}, "l2='small': expected a number of pixel units above 0"),
    (Report, {"budget": "5 %"}, "budget='5 %': expected a share of the training time above 0 and up to 1"),
    (Report, {"chunk_size": 0}, "chunk_size=0: expected a whole number from 1"),
    (default_suite, {"chunk_size": "all"}, "chunk_size='all': expected a whole number from 1"),
    (default_suite, {"budget": True}, "budget=True: expected a share of the training time above 0 and up to 1"),
    # The class that was called, and the nearest option that it has.
    (LayerCAM, {"lauer": "conv1"}, "LayerCAM has no option 'lauer'; nearest: layer"),
    (Saliency, {"layer": "conv1"}, "Saliency has no option 'layer'; nearest: display"),
    (ClassAppearance, {"every_n_epoch": 2}, "ClassAppearance has no option 'every_n_epoch'; nearest: every_n_epochs"),
    (FoolModel, {"prob": 2}, "FoolModel has no option 'prob'; nearest: progress, min_probability"),
]


@pytest.mark.parametrize(
    ("kind", "options", "said"), WRONG, ids=lambda value: str(getattr(value, "__name__", value))[:40]
)
def test_a_wrong_option_is_refused_at_construction(kind: type, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)) as raised:
        kind(**options)
    assert len(str(raised.value)) < 300


# What no option of a kind can mean. NaN is no number, True is none either, and a list of objects names nothing.
NOTHING = [object(), [object()], {}, {"a": 1}, {0.5}, b"x", "", [NAN], [None], NAN, float("inf"), -1j]
WRONG_FOR = {
    bool: [*NOTHING, 0, 1, "yes"],
    int: [*NOTHING, True, 2.5, np.float64(2), "many", [1]],
    float: [*NOTHING, True, "much", [0.5]],
    str: [*NOTHING, True, 0.5, [["validation"]]],
    type(None): [*NOTHING, True],
}
TOGETHER = {"mean": {"std": 0.5}, "std": {"mean": 0.5}, "channel": {"layer": "net.conv1"}}
"""What has to be given too."""
every = pytest.mark.parametrize("kind", [*callback_classes(watchers=True), Report], ids=lambda kind: kind.__name__)


@every
def test_no_option_accepts_what_it_cannot_mean(kind: type) -> None:
    options = options_of(kind)
    assert options
    accepted = []
    for name, option in options.items():
        more = {other: value for other, value in TOGETHER.get(name, {}).items() if other in options}
        none = [] if "None" in str(option.annotation) else [None]
        for value in [*WRONG_FOR[type(option.default)], *none]:
            try:
                kind(**{name: value, **more})
                accepted.append((name, value, "accepted"))
            except ConfigurationError as error:
                said = str(error)
                if not (said.startswith(name) and "expected" in said and len(said) < 300):
                    accepted.append((name, value, said))
    assert accepted == []


@every
def test_numbers_of_numpy_are_numbers(kind: type) -> None:
    for name, option in options_of(kind).items():
        default = option.default
        if type(default) in (int, float):
            given = kind(**{name: (np.int64 if type(default) is int else np.float64)(default)})
            found = vars(given).get(name, default)
            assert type(found) is type(default)
            assert found == default


@pytest.mark.parametrize(
    ("filename", "words"),
    [
        ("cup_{epok}.png", ["{epok}", "nearest: epoch"]),
        ("cup_{epoch}", ["''", "image format", ".png"]),
        ("cups.{epoch}", ["'.{epoch}'", "image format"]),
    ],
)
def test_a_wrong_file_name_is_refused(filename: str, words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Saliency().to_file(filename)
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


def test_batches_without_images_are_said_once_for_all_callbacks(tmp_path: Path) -> None:
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
    (text,) = said
    assert text.startswith("Filters, Saliency and Saliency_2 made no pictures in epoch 0: ")
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
