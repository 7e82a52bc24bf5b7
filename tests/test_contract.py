"""What every technique has in common: names, arguments, documentation."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import runpy
from pathlib import Path

import pytest
import torch

import vis_callbacks
from tests.helpers.techniques import attributions, callback_classes
from vis_callbacks import VisualizationCallback, default_suite, functional

ROOT = Path(__file__).parent.parent

FUNCTIONS = """gradient saliency gradient_x_input integrated_gradients smoothgrad guided_backprop deconvnet grad_cam
grad_cam_plus_plus hires_cam layer_cam xgrad_cam eigen_cam score_cam ablation_cam guided_grad_cam occlusion activations
filters maximal_patches class_appearance feature_appearance deep_dream feature_inversion fool""".split()

CALLBACKS = """Filters Activations MaximalPatches Gradient Saliency GradientXInput IntegratedGradients SmoothGrad
GuidedBackprop Deconvnet GradCAM GradCAMPlusPlus HiResCAM LayerCAM XGradCAM EigenCAM ScoreCAM AblationCAM GuidedGradCAM
Occlusion ClassAppearance FeatureAppearance DeepDream FeatureInversion FoolModel""".split()

"""The names that stay; a new technique needs none here."""

SHARED = "samples targets every_n_epochs every_n_steps on mean std class_names on_error seed name forward".split()

TECHNIQUES = callback_classes()
every = pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda technique: technique.__name__)


def test_the_names_are_all_there() -> None:
    assert set(FUNCTIONS) <= set(functional.__all__)
    assert {technique.__name__ for technique in TECHNIQUES} >= set(CALLBACKS)
    for names in (vis_callbacks.__all__, functional.__all__):
        assert len(set(names)) == len(names)


def test_each_attribution_states_its_function_and_no_other_does() -> None:
    modules = {name: getattr(functional, name).__module__ for name in functional.__all__}
    public = {name for name, module in modules.items() if module.startswith("vis_callbacks.attribution.")}
    stated = [technique.function.__name__ for technique in attributions()]
    assert sorted(stated) == sorted(public)
    for technique in attributions():
        assert technique.function is getattr(functional, technique.function.__name__)
        assert technique.__module__ == modules[technique.function.__name__]


def test_the_readme_has_a_row_and_a_picture_of_each_technique() -> None:
    row = re.compile(r"^\| `(\w+)` \| .+ \| !\[[^]]+\]\((docs/images/\w+\.webp)\) \|$", re.MULTILINE)
    rows = row.findall((ROOT / "README.md").read_text())
    shown = [name for name, picture in rows if (ROOT / picture).is_file()]
    missing = [technique.__name__ for technique in TECHNIQUES if technique.__name__ not in shown]
    assert not missing, f"no row or no picture of {', '.join(missing)} in README.md: run python docs/pictures.py"
    assert sorted(name for name, _ in rows) == sorted(technique.__name__ for technique in TECHNIQUES)
    # What docstrings and benchmarks say stands there, word for word and figure for figure.
    written = runpy.run_path(str(ROOT / "docs" / "pictures.py"))["row"]
    assert set(map(written, TECHNIQUES)) <= set((ROOT / "README.md").read_text("utf-8").splitlines())


@every
def test_every_callback_works_without_arguments_and_takes_the_shared_ones(technique: type) -> None:
    assert technique().name == technique.__name__
    given = technique(
        samples=2, targets="label", every_n_epochs=3, on=("train", "test"), mean=0.5, std=0.5, class_names=["a", "b"],
        on_error="raise", seed=7, name="Mine", forward="net",
    )  # fmt: skip
    assert given.forward == "net"
    assert (given.name, given.seed, given.schedule.every_n_epochs, given.on_error) == ("Mine", 7, 3, "raise")
    parameters = inspect.signature(VisualizationCallback.__init__).parameters
    assert set(SHARED) <= set(parameters)


@every
def test_callbacks_are_copied_and_pickled(technique: type[VisualizationCallback]) -> None:
    callback = technique(samples=3, seed=5)
    for other in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert other.state_key == callback.state_key
        assert vars(other).keys() == vars(callback).keys()


@every
def test_callbacks_of_one_class_are_told_apart_in_a_checkpoint(technique: type[VisualizationCallback]) -> None:
    keys = {technique().state_key, technique(seed=1).state_key, technique(name="other").state_key}
    assert len(keys) == 3
    assert technique(forward=lambda module, images: module(images)).state_key not in keys
    assert technique(samples=torch.ones(1, 3, 4, 4)).state_key == technique(samples=torch.ones(1, 3, 4, 4)).state_key


@pytest.mark.parametrize("base", [VisualizationCallback, vis_callbacks.AttributionCallback])
def test_a_base_is_not_made(base: type) -> None:
    with pytest.raises(TypeError, match=f"{base.__name__} lacks"):
        base()


@pytest.mark.parametrize("name", functional.__all__)
def test_every_function_is_documented(name: str) -> None:
    text = inspect.getdoc(getattr(functional, name)) or ""
    for part in ("Args:", "Returns:", "Raises:", "Example:", ">>>"):
        assert part in text, f"{name} has no {part}"
    assert re.search(r"\(\w+(\(\w+\))?, [^)]*(H|h|kh|top|C)", text), f"{name} states no shape"
    assert re.search(r"arXiv|\d{4}", text), f"{name} names no paper"


@pytest.mark.parametrize("name", sorted(set(vis_callbacks.__all__) - {"default_suite"}))
def test_every_public_class_is_documented(name: str) -> None:
    assert len(inspect.getdoc(getattr(vis_callbacks, name)) or "") > 40


def test_the_suite_is_made_of_callbacks_and_a_report() -> None:
    suite = default_suite()
    assert sum(type(callback) in TECHNIQUES for callback in suite) >= 4
    assert type(suite[-1]).__name__ == "Report"
