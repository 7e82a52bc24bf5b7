"""What every technique has in common: names, arguments, errors, documentation."""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import pytest
import torch

import vis_callbacks
from vis_callbacks import ConfigurationError, VisualizationCallback, default_suite, functional

FUNCTIONS = """gradient saliency gradient_x_input integrated_gradients smoothgrad guided_backprop deconvnet grad_cam
grad_cam_plus_plus hires_cam layer_cam xgrad_cam eigen_cam score_cam ablation_cam guided_grad_cam occlusion activations
filters maximal_patches class_appearance feature_appearance deep_dream feature_inversion fool""".split()

CALLBACKS = """Filters Activations MaximalPatches Gradient Saliency GradientXInput IntegratedGradients SmoothGrad
GuidedBackprop Deconvnet GradCAM GradCAMPlusPlus HiResCAM LayerCAM XGradCAM EigenCAM ScoreCAM AblationCAM GuidedGradCAM
Occlusion ClassAppearance FeatureAppearance DeepDream FeatureInversion FoolModel""".split()

SHARED = "samples targets every_n_epochs every_n_steps on mean std class_names on_error seed name".split()

TECHNIQUES = [getattr(vis_callbacks, name) for name in CALLBACKS]


def test_the_names_are_all_there_and_no_others() -> None:
    assert sorted(FUNCTIONS) == sorted(functional.__all__)
    exported = {name for name in vis_callbacks.__all__ if _is_technique(getattr(vis_callbacks, name))}
    assert exported == set(CALLBACKS)


@pytest.mark.parametrize("technique", TECHNIQUES, ids=CALLBACKS)
def test_every_callback_works_without_arguments_and_takes_the_shared_ones(technique: type) -> None:
    assert technique().name == technique.__name__
    given = technique(
        samples=2, targets="label", every_n_epochs=3, on=("train", "test"), mean=0.5, std=0.5, class_names=["a", "b"],
        on_error="raise", seed=7, name="Mine",
    )  # fmt: skip
    assert (given.name, given.seed, given.schedule.every_n_epochs, given.on_error) == ("Mine", 7, 3, "raise")
    parameters = inspect.signature(VisualizationCallback.__init__).parameters
    assert set(SHARED) <= set(parameters)


@pytest.mark.parametrize("technique", TECHNIQUES, ids=CALLBACKS)
def test_callbacks_are_copied_and_pickled(technique: type[VisualizationCallback]) -> None:
    callback = technique(samples=3, seed=5)
    for other in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert other.state_key == callback.state_key
        assert vars(other).keys() == vars(callback).keys()


@pytest.mark.parametrize("technique", TECHNIQUES, ids=CALLBACKS)
def test_callbacks_of_one_class_are_told_apart_in_a_checkpoint(technique: type[VisualizationCallback]) -> None:
    keys = {technique().state_key, technique(seed=1).state_key, technique(name="other").state_key}
    assert len(keys) == 3
    assert technique(samples=torch.ones(1, 3, 4, 4)).state_key == technique(samples=torch.ones(1, 3, 4, 4)).state_key


@pytest.mark.parametrize("technique", TECHNIQUES, ids=CALLBACKS)
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"samples": 0}, "samples=0: expected a number from 1"),
        ({"samples": "all"}, "'per_class'"),
        ({"samples": ["no/such/photo.png"]}, "no file 'no/such/photo.png'"),
        ({"targets": 1.5}, "expected 'predicted'"),
        ({"every_n_epochs": 0}, "every_n_epochs=0"),
        ({"on": "validate"}, "expected one of 'train', 'validation', 'test'"),
        ({"on_error": "ignore"}, "'warn' or 'raise'"),
        ({"mean": 0.5}, "give both or neither"),
    ],
)
def test_a_wrong_argument_is_refused_at_construction(technique: type, wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        technique(**wrong)


@pytest.mark.parametrize("base", [VisualizationCallback, vis_callbacks.AttributionCallback])
def test_a_base_is_not_made(base: type) -> None:
    with pytest.raises(TypeError, match=f"{base.__name__} lacks"):
        base()


@pytest.mark.parametrize("name", FUNCTIONS)
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
    assert sum(_is_technique(type(callback)) for callback in suite) >= 4
    assert type(suite[-1]).__name__ == "Report"


def _is_technique(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, VisualizationCallback) and not inspect.isabstract(found) and (
        found.__name__ in CALLBACKS or found.__name__ not in ("VisualizationCallback", "AttributionCallback")
    )  # fmt: skip
