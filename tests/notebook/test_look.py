"""One call shows what a model sees in any images, without a Trainer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from tests.attribution.cases import random_images, same, small_net
from tests.helpers.browser import launched, needs_browser, visit
from tests.helpers.techniques import callback_classes
from tests.helpers.tiny import Net
from tests.training.undisturbed import cheap
from vis_callbacks import (
    ConfigurationError,
    Diagnostics,
    Filters,
    GradCAM,
    LayerError,
    Saliency,
    VisualizationCallback,
    look,
)
from vis_callbacks.errors import SubjectError
from vis_callbacks.functional import grad_cam, saliency


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "cup.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(path)
    return path


def test_panels_are_what_the_functions_return_from_one_shared_pass() -> None:
    model, images = small_net(), random_images(2, height=16, width=16)
    passes: list[int] = []
    # The first look finds out about the layers.
    look(model, images, GradCAM())
    handle = model.register_forward_hook(lambda *_: passes.append(1))
    seen = look(model, images, [GradCAM(), Saliency()])
    handle.remove()
    assert seen.callbacks == ("GradCAM", "GradCAM", "Saliency", "Saliency")
    # One asks which part of the module maps images to logits.
    assert len(passes) <= 4
    maps = grad_cam(model, images), saliency(model, images)
    for panel, expected in zip(seen.panels, torch.cat(maps), strict=True):
        assert same(panel.all_tiles[1].values, expected)


def test_the_graph_of_one_large_image_is_held_at_a_time() -> None:
    model, images = small_net(), random_images(3, height=512, width=512)
    batches: list[int] = []
    handle = model.register_forward_pre_hook(lambda _, given: batches.append(len(given[0]) * torch.is_grad_enabled()))
    look(model, images, [GradCAM(), Saliency()])
    handle.remove()
    assert batches.count(1) >= 3
    assert max(batches) == 1


def test_the_model_is_left_as_it_was() -> None:
    model = small_net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    look(model, random_images(1, height=16, width=16), [Saliency(), GradCAM()])
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("kind", callback_classes(), ids=lambda kind: kind.__name__)
def test_every_callback_can_look(kind: type[VisualizationCallback], tmp_path: Path) -> None:
    net = nn.Sequential()
    net.net = Net()  # type: ignore[assignment]
    seen = look(net, torch.rand(2, 1, 8, 8), cheap(kind), class_names=["circle", "square", "star", "cross"], labels=1)
    assert seen.panels
    assert set(seen.callbacks) == {kind.__name__}


def test_files_and_pictures_are_brought_to_what_a_timm_model_was_made_for(photo: Path) -> None:
    model = timm.create_model("test_resnet")
    seen = look(model, [photo, Image.open(photo), str(photo)], Saliency(), labels=[5, "tench", 5])
    size = model.pretrained_cfg["input_size"][1:]
    assert [panel.all_tiles[0].values.shape[1:] for panel in seen.panels] == [size] * 3
    assert [panel.name for panel in seen.panels] == ["cup_0", "sample_1", "cup_2"]
    assert seen.panels[1].label == "tench, Tinca tinca"
    # The picture is shown as it is.
    pixels = torch.from_numpy(np.array(Image.open(photo))).float().mean(dim=(0, 1)) / 255
    assert torch.allclose(seen.panels[0].all_tiles[0].values.mean(dim=(1, 2)), pixels, atol=0.02)


def test_targets_and_labels_by_name() -> None:
    names = ["cat", "dog", "cow", "pig", "hen"]
    model, images = small_net().eval(), random_images(2, height=16, width=16)
    seen = look(model, images, GradCAM(targets="pig"), labels=["dog", 4], class_names=names)
    assert [panel.label for panel in seen.panels] == ["dog", "hen"]
    assert same(torch.stack([panel.all_tiles[1].values for panel in seen.panels]), grad_cam(model, images, 3))
    one = look(model, images[0], GradCAM(targets="label"), labels=2, class_names=names)
    assert same(one.panels[0].all_tiles[1].values[None], grad_cam(model, images[:1], 2))


def test_a_part_of_a_module_is_looked_at() -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.student, self.teacher = small_net(), small_net()

    module, images = Module(), random_images(1, height=16, width=16)
    nn.init.normal_(module.teacher[0].weight)
    seen = look(module, images, [GradCAM(forward="teacher"), GradCAM(forward="student", name="Student")])
    found = [panel.all_tiles[1].values[None] for panel in seen.panels]
    assert same(found[0], grad_cam(module.teacher, images))
    assert same(found[1], grad_cam(module.student, images))


def test_the_figure_and_the_picture(tmp_path: Path) -> None:
    seen = look(small_net(), random_images(2, height=16, width=16), [GradCAM(), Filters()])
    figure = seen.figure()
    assert isinstance(figure, Figure)
    assert len(figure.axes) == len(seen.panels) == 3
    assert figure.axes[0].get_title(loc="left") == "GradCAM: sample_0"
    path = seen.save(tmp_path / "new" / "seen.png")
    picture = np.asarray(Image.open(path).convert("RGB"))
    # Each panel is in it, in its own size, under its title.
    drawn = np.asarray(figure.axes[0].images[0].get_array()).astype(int)
    part = picture[26 : 26 + len(drawn), : drawn.shape[1]].astype(int)
    assert np.abs(part - drawn).mean() < 2
    assert figure._repr_png_().startswith(b"\x89PNG")


@needs_browser
def test_the_page_opens_in_a_browser_and_in_a_notebook(tmp_path: Path) -> None:
    seen = look(small_net(), random_images(2, height=16, width=16), [GradCAM(), Saliency()], labels=[0, 1])
    path = seen.save(tmp_path / "seen.html")
    shown = tmp_path / "notebook.html"
    shown.write_text(f"<!doctype html><body>{seen._repr_html_()}</body>")
    with launched() as browser, visit(browser, path.as_uri()) as seen_page:
        page = seen_page.page
        assert page.locator("h2").all_inner_texts()[:2] == ["Grad-CAM", "Saliency"]
        assert not page.locator("#slider").is_visible()
        assert not page.locator("#axis").is_visible()
        assert not seen_page.complaints
        assert page.evaluate("[...document.images].filter(one => one.naturalWidth > 50).length") >= 4
    with launched() as browser, visit(browser, shown.as_uri()) as seen_page:
        inside = seen_page.page.frame_locator("iframe")
        assert inside.locator("h2").all_inner_texts()[:2] == ["Grad-CAM", "Saliency"]
        assert inside.locator("img").first.evaluate("one => one.naturalWidth") > 50


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no images": ({"images": []}, ConfigurationError, "images is empty"),
    "no callbacks": ({"callbacks": []}, ConfigurationError, "callbacks is empty"),
    "a class": ({"callbacks": [GradCAM]}, ConfigurationError, "such as GradCAM()"),
    "a mixture": ({"images": [torch.rand(3, 8, 8), "cup.png"]}, ConfigurationError, "all as tensors"),
    "no file": ({"images": "nowhere.png"}, ConfigurationError, "nowhere.png"),
    "labels": ({"labels": [1, 2, 3]}, ConfigurationError, "3 labels for 1 images"),
    "a layer": ({"callbacks": GradCAM(layer="conv9")}, LayerError, "no layer 'conv9'"),
    "a target": ({"callbacks": GradCAM(targets="lemon")}, ConfigurationError, "lemon"),
    "half": ({"mean": 0.5}, ConfigurationError, "give both"),
    "no network": ({"model": nn.Sequential(nn.ReLU())}, SubjectError, "forward="),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors_say_what_was_expected(case: str) -> None:
    changed, kind, says = WRONG[case]
    arguments = {"model": small_net(), "images": torch.rand(1, 3, 16, 16), "callbacks": GradCAM(), **changed}
    with pytest.raises(kind, match=re.escape(says)) as raised:
        look(**arguments)
    assert len(str(raised.value)) < 300


def test_an_ending_without_a_format(tmp_path: Path) -> None:
    seen = look(small_net(), torch.rand(1, 3, 16, 16), GradCAM())
    with pytest.raises(ConfigurationError, match=r"\.html or \.png"):
        seen.save(tmp_path / "seen.xyz")


def test_images_of_inference_mode() -> None:
    model = small_net()
    with torch.inference_mode():
        images: Tensor = torch.rand(1, 3, 16, 16)
        assert look(model, images, Saliency()).panels


def test_what_needs_a_training_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="Diagnostics watches a training: there is none here"):
        look(small_net(), random_images(2, height=16, width=16), Diagnostics())


def test_it_prints_in_one_line() -> None:
    printed = repr(look(small_net(), random_images(), [Saliency(), Filters()]))
    assert re.fullmatch(r"<Look at \w+: \d+ pictures of Saliency, Filters; .{20,60}>", printed)
