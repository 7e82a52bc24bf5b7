from __future__ import annotations

import re
import time

import pytest
import timm
import torch
from torch import nn

from tests.synthesis.models import HALF
from vis_callbacks.data.normalization import Normalization
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.model import undisturbed
from vis_callbacks.synthesis.class_appearance import class_appearance
from vis_callbacks.synthesis.deep_dream import deep_dream
from vis_callbacks.synthesis.optimization.recipes import RECIPES


def own_logits(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(HALF.to_model(pixels))


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_works_with_every_kind_of_model(case, recipe):
    model, shape, _ = case
    images = class_appearance(model, [0, 3], image_size=shape, recipe=recipe, steps=3, normalization=HALF)
    assert images.shape == (2, *shape)
    assert images.dtype == torch.float32
    assert torch.isfinite(images).all()
    assert images.min() >= 0
    assert images.max() <= 1


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_images_of_a_class_score_higher_than_those_of_others(model, recipe):
    images = class_appearance(model, range(5), image_size=32, recipe=recipe, steps=30, normalization=HALF)
    scores = own_logits(model, images)
    own, others = scores.diag(), (scores.sum(dim=0) - scores.diag()) / 4
    assert own.mean() > others.mean()


def test_the_score_rises(model):
    first, last = (
        class_appearance(model, range(5), image_size=32, recipe="simonyan", steps=steps, normalization=HALF)
        for steps in (0, 30)
    )
    assert (own_logits(model, last).diag() > own_logits(model, first).diag()).all()


def test_a_huge_decay_gives_the_mean_image(model):
    images = class_appearance(
        model, [1], image_size=16, recipe="simonyan", decay=1e6, steps=40, normalization=Normalization((0.4,), (0.2,))
    )
    assert (images - 0.4).abs().max() < 0.01


def test_leaves_model_and_random_state_alone(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    class_appearance(model, [0], image_size=16, steps=2)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_a_seed_gives_the_same_images_and_another_seed_others(model):
    first, again, other = (class_appearance(model, [0, 1], image_size=16, steps=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize("recipe", ["simonyan", "fourier", "best"])
def test_starts_from_given_images(model, recipe):
    first = class_appearance(model, [0, 1], image_size=32, recipe=recipe, steps=10)
    again = class_appearance(model, [0, 1], image_size=32, recipe=recipe, steps=0, init=first)
    assert (again - first).abs().mean() < 0.01


@pytest.mark.parametrize("name", ["SGD", "Adam", "LBFGS", "RMSprop"])
def test_any_optimizer_works(model, name):
    optimizer = getattr(torch.optim, name)
    images = class_appearance(
        model,
        [2],
        image_size=16,
        recipe="simonyan",
        steps=3,
        optimizer=lambda parameters: optimizer(parameters, lr=0.1),
    )
    assert own_logits(model, images)[0, 2] > own_logits(model, torch.full_like(images, 0.5))[0, 2]


def test_any_scheduler_works(model):
    frozen = class_appearance(
        model,
        [2],
        image_size=16,
        recipe="simonyan",
        steps=3,
        normalization=HALF,
        scheduler=lambda optimizer, steps: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0),
    )
    assert torch.equal(frozen, torch.full_like(frozen, 0.5))


def test_stops_at_a_probability(model):
    images = class_appearance(
        model, [0, 4], image_size=16, recipe="simonyan", steps=200, min_probability=0.3, normalization=HALF
    )
    found = own_logits(model, images).softmax(dim=1)
    assert 0.3 < found[0, 0] < 0.5
    assert 0.3 < found[1, 4] < 0.5


def test_takes_the_shape_as_int_pair_or_triple(model):
    assert class_appearance(model, 0, image_size=12, steps=1).shape == (1, 3, 12, 12)
    assert class_appearance(model, 0, image_size=(12, 16), steps=1).shape == (1, 3, 12, 16)
    assert class_appearance(model, torch.tensor([0, 1]), image_size=(3, 12, 16), steps=1).shape == (2, 3, 12, 16)


def test_uses_the_normalization_of_a_timm_model():
    model = timm.create_model("resnet10t", num_classes=4)
    images = class_appearance(model, [0], image_size=32, recipe="simonyan", steps=0)
    assert torch.allclose(images[0, :, 0, 0], torch.tensor(model.pretrained_cfg["mean"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "simonian"}, "nearest: simonyan"),
        ({"image_size": (1, 2, 3, 4)}, "image_size"),
        ({"init": torch.rand(3, 9, 9)}, "init of shape"),
        ({"steps": -1}, "steps=-1"),
        ({"classes": [7]}, "target 7: expected a class from 0 to 4"),
    ],
)
def test_errors_name_the_wrong_option(model, options, message):
    with pytest.raises(ConfigurationError, match=message):
        class_appearance(model, **{"classes": [0], "image_size": 16, "steps": 2, **options})


def test_a_progress_bar_appears_only_after_a_delay_and_is_cleared(model, capsys, monkeypatch):
    model.head.register_forward_hook(lambda *_: time.sleep(0.02))
    class_appearance(model, [0], image_size=16, steps=2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("vis_callbacks.synthesis.optimization.loop.DELAY", 0.1)
    class_appearance(model, [0], image_size=16, steps=20)
    first, *_, last = capsys.readouterr().err.split("\r")[1:]
    assert re.match(r"class appearance: .* [1-9]\d?/20 ", first)
    assert last == ""
    class_appearance(model, [0], image_size=16, steps=20, progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("classes", "steps", "passes"),
    # 51 steps per image are reserved, unless these are too few for a new attempt, or the steps too few in all.
    [([0, 0], 256, 410), ([0, 1], 256, 512), ([1], 256, 256), ([0, 1], 255, 510)],
)
def test_images_of_low_robustness_are_made_again_within_the_passes(classes, steps, passes):
    seen: list[int] = []
    # Every image is of class 0, and none of class 1.
    head = nn.Linear(3 * 8 * 8, 3)
    nn.init.normal_(head.weight, std=1e-3)
    head.bias = nn.Parameter(torch.tensor([20.0, 0.0, 0.0]))
    model = nn.Sequential(nn.Flatten(), head)
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0]) * inputs[0].requires_grad))
    images = class_appearance(model, classes, image_size=8, recipe="persistent", steps=steps)
    assert sum(seen) == passes
    if steps == 256:
        first = class_appearance(model, classes, image_size=8, recipe="best", steps=205)
        assert all(torch.equal(images[at], first[at]) for at, index in enumerate(classes) if index == 0)


class OneSize(nn.Module):
    """Reads images of one size, or of sizes that some numbers divide, and may adapt to the last ones."""

    def __init__(self, divisor: int = 1, only: int | None = None, adapts: bool = False) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)
        self.divisor, self.only, self.adapts, self.window = divisor, only, adapts, 1000

    def forward(self, images):
        side = images.shape[-1]
        if side % self.divisor or side != (self.only or side):
            raise RuntimeError(f"images of {side} pixels")
        if self.adapts:
            # As Hugging Face's Swin does: what fits smaller images stays.
            self.window = min(self.window, side)
            if side != self.window:
                raise RuntimeError(f"windows of {self.window} in images of {side} pixels")
        return self.head(self.convolution(images).relu().mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("model", "side"),
    [
        (OneSize(7), 98),
        (OneSize(14), 98),
        (OneSize(3), 81),
        (OneSize(2), 84),
        (OneSize(only=84), 84),
        (OneSize(adapts=True), 84),
    ],
)
@pytest.mark.parametrize("recipe", ["best", "draft"])
def test_only_sizes_that_the_model_takes_are_given_to_it(model, side, recipe):
    images = class_appearance(model, [0, 3], image_size=side, recipe=recipe, steps=12, normalization=HALF)
    assert images.shape == (2, 3, side, side)
    assert model.window == 1000


def test_a_model_that_takes_all_sizes_gets_several():
    model, sizes = OneSize(), set()
    model.convolution.register_forward_pre_hook(lambda _, inputs: sizes.add(inputs[0].shape[-1]))
    class_appearance(model, [0], image_size=84, steps=12, normalization=HALF)
    assert len(sizes) > 4


def test_dreams_leave_a_model_that_adapts_to_sizes_as_it_was():
    model = OneSize(adapts=True)
    images = torch.rand(2, 3, 40, 40)
    with undisturbed(model):
        dreams = deep_dream(model, images, "convolution", octaves=3, steps=2)
        assert dreams.shape == images.shape
        assert model(images).isfinite().all()
