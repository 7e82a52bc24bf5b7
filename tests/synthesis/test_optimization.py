from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from vis_callbacks.data.blur import gaussian_blur
from vis_callbacks.data.normalization import Normalization
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.model.guard import undisturbed
from vis_callbacks.synthesis.class_appearance import class_appearance
from vis_callbacks.synthesis.optimization.feature_prior import (
    FeatureMoments,
    _Moments,
    batchnorm_statistics,
    collect_statistics,
    feature_prior,
    running_layers,
)
from vis_callbacks.synthesis.optimization.image_statistics import BANDS, ImageStatistics, band_index
from vis_callbacks.synthesis.optimization.loop import Method, ascend
from vis_callbacks.synthesis.optimization.objectives import Objective, View
from vis_callbacks.synthesis.optimization.parameterizations import (
    BandEnergy,
    Fourier,
    ImageSpec,
    Maco,
    Parameterization,
    Pixels,
)
from vis_callbacks.synthesis.optimization.recipes import find_recipe, warm_hold_cosine
from vis_callbacks.synthesis.optimization.redirected_relu import RedirectedGradients
from vis_callbacks.synthesis.optimization.regularizers import (
    Blur,
    GradientClipping,
    GradientScaling,
    alpha_norm,
    l1,
    l2,
    total_variation,
)
from vis_callbacks.synthesis.optimization.robustness import robustness
from vis_callbacks.synthesis.optimization.transforms import (
    Affine,
    Colour,
    GaussianBlur,
    Grayscale,
    Jitter,
    Noise,
    Resolution,
    Step,
)

KINDS = [Pixels, Fourier, Maco, BandEnergy]


def spec(shape: tuple[int, int, int, int] = (2, 3, 16, 20), **options: object) -> ImageSpec:
    values = {
        "normalization": Normalization(),
        "statistics": ImageStatistics(shape[1]),
        "generator": torch.Generator().manual_seed(0),
        "device": torch.device("cpu"),
    }
    return ImageSpec(shape, **{**values, **options})


def step(**options: object) -> Step:
    return Step(torch.Generator().manual_seed(0), **options)


def smooth(*shape: int) -> torch.Tensor:
    return gaussian_blur(torch.rand(shape, generator=torch.Generator().manual_seed(1)), 2.0) * 0.8 + 0.1


@pytest.mark.parametrize("shape", [(2, 3, 16, 20), (1, 1, 8, 8), (1, 3, 9, 15), (2, 1, 1, 7), (1, 5, 6, 6)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_parameterization_is_in_range_and_differentiable(kind: type[Parameterization], shape):
    image = kind(spec(shape))
    pixels = image.pixels()
    assert pixels.shape == shape
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    (gradient,) = torch.autograd.grad((pixels * torch.rand(shape)).sum(), image.parameters)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("kind", [Pixels, Fourier])
def test_an_image_to_start_from_comes_back(kind):
    init = smooth(2, 3, 16, 20)
    assert torch.allclose(kind(spec(init=init)).pixels(), init, atol=1e-4)


@pytest.mark.parametrize("kind", [Maco, BandEnergy])
def test_an_image_made_by_a_parameterization_comes_back(kind):
    first = kind(spec()).pixels().detach()
    assert (kind(spec(init=first)).pixels() - first).abs().mean() < 0.01


def test_band_energies_are_those_of_the_statistics():
    statistics = ImageStatistics(3)
    statistics.update(smooth(8, 3, 32, 32))
    made = ImageStatistics(3)
    made.update(BandEnergy(spec((8, 3, 32, 32), statistics=statistics)).pixels().detach())
    contrasts = (made.colours().square().sum(dim=1), statistics.colours().square().sum(dim=1))
    assert torch.allclose(*contrasts, rtol=0.2)
    assert torch.allclose(made.energies(32, 32), statistics.energies(32, 32), atol=0.06)


def test_the_size_of_the_initial_noise_does_not_show_and_an_image_to_start_from_keeps_its_own():
    usual, small = BandEnergy(spec()), BandEnergy(spec(), noise=0.3)
    assert torch.allclose(small.parameters[0], 0.3 * usual.parameters[0])
    assert torch.allclose(small.pixels(), usual.pixels(), atol=1e-5)
    init = smooth(2, 3, 16, 20)
    assert torch.equal(BandEnergy(spec(init=init), noise=0.3).parameters[0], BandEnergy(spec(init=init)).parameters[0])


def test_parameters_decay_with_the_learning_rate():
    image = BandEnergy(spec())
    start, pixels = image.parameters[0].detach().clone(), image.pixels().detach()
    steps, nothing = 8, Objective(lambda view: 0 * view.pixels.sum(dim=(1, 2, 3)))
    method = Method(steps, lambda made: torch.optim.SGD(made, lr=0.2), warm_hold_cosine, parameter_decay=2.0)
    generator = torch.Generator().manual_seed(0)
    made = ascend(
        nn.Flatten(), image, nothing, method, normalization=Normalization(), generator=generator, progress=False
    )
    # Two steps of warm-up, a constant rate up to three fifths, and half a cosine.
    rates = [1 / 3, 2 / 3, 1, 1, 1, *(0.5 + 0.5 * math.cos(math.pi * (step / 8 - 0.6) / 0.4) for step in (5, 6, 7))]
    assert torch.allclose(image.parameters[0], start * math.prod(1 - 2 / steps * rate for rate in rates))
    # What is fixed is the energy of each band: decay alone changes nothing.
    assert torch.allclose(made.pixels, pixels, atol=1e-5)


def test_statistics_of_batches_are_those_of_all_images_and_survive_a_checkpoint():
    images = smooth(6, 3, 16, 16)
    whole, parts = ImageStatistics(3), ImageStatistics(3)
    whole.update(images)
    parts.update(images[:2])
    again = ImageStatistics(3)
    again.load_state_dict(parts.state_dict())
    again.update(images[2:])
    assert again.count == whole.count == 6
    assert torch.allclose(again.energies(16, 16), whole.energies(16, 16), atol=0.05)


@pytest.mark.parametrize("kind", ["gray in three channels", "two channels alike", "one channel empty", "flat"])
def test_images_that_do_not_have_all_colours_can_be_learned_from(kind):
    torch.manual_seed(0)
    real = torch.rand(256, 3, 32, 32)
    if kind == "gray in three channels":
        real = real[:, :1].repeat(1, 3, 1, 1)
    elif kind == "two channels alike":
        real[:, 1] = real[:, 0]
    else:
        real[:, 2 if kind == "one channel empty" else slice(None)] = 0
    statistics = ImageStatistics(3)
    statistics.update(real)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    for recipe in ("draft", "maco", "fourier"):
        made = class_appearance(
            model, [0, 3], image_size=32, steps=4, recipe=recipe, image_statistics=statistics, progress=False
        )
        assert torch.isfinite(made).all(), recipe


def test_statistics_are_even_where_nothing_is_known():
    statistics = ImageStatistics(1)
    statistics.update(torch.zeros(4, 1, 8, 8))
    assert torch.isfinite(statistics.energies(8, 8)).all()
    assert torch.isfinite(statistics.colours()).all()
    assert ImageStatistics(3).energies(8, 8).sum(dim=1).allclose(torch.ones(3))
    assert band_index(8, 8).max() <= BANDS
    with pytest.raises(ConfigurationError, match="expected \\(N, 1, H, W\\)"):
        statistics.update(torch.zeros(4, 3, 8, 8))


@pytest.mark.parametrize(
    "transform",
    [
        Jitter(0.3),
        Affine((0.8, 1.2), 15, 0.1, flip=True),
        Colour(),
        Grayscale(1.0),
        GaussianBlur(1.0, 0.1),
        Noise(),
        Resolution(least=4),
    ],
)
def test_transforms_are_random_differentiable_and_repeatable(transform):
    pixels = smooth(2, 3, 16, 24).requires_grad_()
    once, again = transform(pixels, step()), transform(pixels, step())
    assert torch.equal(once, again)
    assert once.shape[:2] == pixels.shape[:2]
    assert not torch.equal(once, pixels)
    (gradient,) = torch.autograd.grad(once.square().sum(), pixels)
    assert gradient.abs().sum() > 0


def test_an_affine_of_nothing_changes_nothing_and_a_turn_of_90_degrees_keeps_proportions():
    pixels = smooth(1, 1, 16, 24)
    assert torch.allclose(Affine()(pixels, step()), pixels, atol=1e-5)
    square = torch.zeros(1, 1, 21, 41)
    square[..., 8:13, 18:23] = 1
    turned = Affine(degrees=90)(square, step()).detach()
    assert abs(float(turned.sum()) - 25) < 4


def test_grayscale_and_blur_apply_to_about_the_given_share():
    pixels, one = torch.rand(400, 3, 4, 4), torch.rand(1, 1, 32, 32)
    found = Grayscale(0.25)(pixels, step())
    colourless = (found.amax(dim=1) == found.amin(dim=1)).flatten(1).all(dim=1)
    assert 0.18 < colourless.float().mean() < 0.32
    assert torch.equal(found[~colourless], pixels[~colourless])
    assert torch.equal(Grayscale(1.0)(one, step()), one)
    at = step()
    steps = [GaussianBlur(0.25, 0.1)(one, at) for _ in range(400)]
    assert 0.18 < sum(blurred is not one for blurred in steps) / 400 < 0.32
    assert all(blurred is one or blurred.std() < 0.9 * one.std() for blurred in steps)


def test_a_resolution_for_models_of_one_size_keeps_the_size():
    pixels = smooth(1, 3, 64, 64)
    assert Resolution()(pixels, step(any_size=False)).shape == pixels.shape
    assert Resolution()(pixels, step()).shape[-1] < 64
    assert Resolution()(pixels, step(fraction_done=0.9)) is pixels


def test_penalties():
    view = View(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]]))
    assert l1().score(view).item() == 2
    assert l2().score(view).item() == 2
    assert alpha_norm().score(view).item() == 0.5
    assert total_variation().score(view).item() == 0.5


def test_objectives_add_and_scale():
    one, two = (Objective(lambda view, value=value: view.pixels.new_full((2,), value)) for value in (1.0, 2.0))
    assert (2 * one - two + two * 0.5).score(View(torch.zeros(2, 1, 2, 2))).tolist() == [1.0, 1.0]


def test_step_hooks():
    image = Pixels(spec((2, 1, 8, 8), init=torch.rand(2, 1, 8, 8)))
    image.parameters[0].grad = torch.ones(2, 1, 8, 8)
    GradientClipping(0.1).before_step(image)
    assert torch.allclose(image.parameters[0].grad.flatten(1).norm(dim=1), torch.tensor(0.1))
    GradientScaling().before_step(image)
    assert torch.allclose(image.parameters[0].grad, torch.ones(2, 1, 8, 8))
    before = image.pixels().detach().clone()
    Blur(every=2).after_step(image, 1)
    assert torch.equal(image.pixels(), before)
    Blur(every=2).after_step(image, 2)
    assert image.pixels().std() < before.std()


def prior_of(statistics, images, inputs):
    """Return the prior of images, given the inputs of the layers."""
    prior = feature_prior(statistics)
    found = {name: read(inputs[name], len(images)) for name, read in prior.input_readers.items()}
    return prior.score(View(images, inputs=found))


def test_the_prior_is_small_for_what_the_statistics_were_taken_from(case):
    model, shape, _ = case
    images = torch.rand(16, *shape)
    statistics = collect_statistics(model, images)
    assert statistics
    with undisturbed(model):
        seen: dict[str, torch.Tensor] = {}
        layers = dict(model.named_modules())
        for name in statistics:
            layers[name].register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs[0]}))
        values = []
        for batch in (images, 5 * images + 3):
            model(batch)
            values.append(prior_of(statistics, batch, seen).mean())
    assert values[0] < values[1]
    made = class_appearance(model, [0], image_size=shape, steps=2, feature_statistics=statistics)
    assert torch.isfinite(made).all()


def test_statistics_of_images_that_go_in_groups_are_those_of_all():
    model, images = (
        nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(4 * 16 * 16, 3)),
        [],
    )
    for brightness in range(7):
        images.append(torch.rand(3, 128, 128) * brightness)
    batch = torch.stack(images)
    groups = []
    handle = model[1].register_forward_pre_hook(lambda _, inputs: groups.append(len(inputs[0])))
    found = collect_statistics(model, batch)["1"]
    handle.remove()
    assert groups == [6, 1]
    with torch.no_grad():
        var, mean = torch.var_mean(model[0](batch), dim=(0, 2, 3), correction=0)
    assert torch.allclose(found.mean, mean, rtol=1e-4)
    assert torch.allclose(found.var, var, rtol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_moments_and_their_gradients_are_right(layout):
    features = (3 + 2 * torch.randn(2, 3, 4, 5, dtype=torch.float64)).contiguous(memory_format=layout).requires_grad_()
    mean, var = _Moments.apply(features, [2, 3])
    wanted_var, wanted_mean = torch.var_mean(features, dim=(2, 3), correction=0, keepdim=True)
    assert torch.allclose(mean, wanted_mean)
    assert torch.allclose(var, wanted_var)
    assert torch.autograd.gradcheck(lambda features: _Moments.apply(features, [2, 3]), features)


def test_the_prior_is_what_its_definition_says():
    statistics = {
        "maps": FeatureMoments(torch.tensor([1.0, 2.0]), torch.tensor([4.0, 1.0])),
        "tokens": FeatureMoments(torch.tensor([0.5, 0.0, -1.0]), torch.tensor([1.0, 9.0, 4.0]), -1),
        "tokens first": FeatureMoments(torch.tensor([0.5, 0.0, -1.0]), torch.tensor([1.0, 9.0, 4.0]), -1, batch=1),
    }
    entries = {
        "maps": torch.randn(5, 2, 3, 3),
        "tokens": torch.randn(5, 7, 3),
        "tokens first": torch.randn(10, 5, 3),
    }
    wanted = torch.zeros(5)
    for name, axes in (("maps", (2, 3)), ("tokens", (1,)), ("tokens first", (0,))):
        var, mean = torch.var_mean(entries[name], dim=axes, correction=0)
        known = statistics[name]
        wanted += (((mean - known.mean) ** 2 / known.var) + (var.sqrt() / known.var.sqrt() - 1) ** 2).mean(dim=1)
    found = prior_of(statistics, torch.zeros(5, 1, 1, 1), entries)
    assert torch.allclose(found, wanted, rtol=1e-3)


class SequenceFirst(nn.Module):
    """Tokens as (L, N, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm, self.head = nn.Conv2d(3, 12, 4, 4), nn.LayerNorm(12), nn.Linear(12, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(images).flatten(2).permute(2, 0, 1)
        return self.head(self.norm(tokens).mean(dim=0))


@pytest.mark.parametrize("count", [1, 3, 4])
def test_images_do_not_influence_each_other_where_tokens_come_first(count):
    model, real = SequenceFirst(), torch.rand(8, 3, 16, 16)
    statistics = collect_statistics(model, real)
    options = {"image_size": 16, "steps": 3, "recipe": replace(find_recipe("best"), prior=50.0)}
    alike = class_appearance(model, [2] * count, **options, feature_statistics=statistics, progress=False)
    assert alike.shape == (count, 3, 16, 16)
    known = running_layers(model, statistics, real[:1])
    assert {one.batch for one in known.values()} == {1}
    entries = dict.fromkeys(known, torch.randn(16, count, 12))
    alone = dict.fromkeys(known, entries["norm"][:, :1])
    together = prior_of(known, real[:count], entries)
    assert torch.allclose(together[:1], prior_of(known, real[:1], alone))


class ChannelNorm(nn.LayerNorm):
    """A LayerNorm of one's own, whose name says nothing of the order of the axes."""

    def __init__(self, channels: int, axis: int) -> None:
        super().__init__(channels)
        self.axis = axis

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(features.movedim(self.axis, -1)).movedim(-1, self.axis)


class GammaNorm(nn.Module):
    """An RMSNorm for maps with channels first, with weights ``(C, 1, 1)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features / features.square().mean(dim=1, keepdim=True).sqrt() * self.weight


class Normed(nn.Module):
    def __init__(self, norm: nn.Module, axis: int) -> None:
        super().__init__()
        self.conv, self.norm, self.axis, self.head = nn.Conv2d(3, 6, 4, 4), norm, axis, nn.Linear(6, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.conv(images) + torch.arange(6.0).view(6, 1, 1)
        return self.head(self.norm(maps.movedim(1, self.axis)).movedim(self.axis, 1).mean(dim=(2, 3)))


NORMS = {
    "own, channels first": (lambda: ChannelNorm(6, 1), 1),
    "own, channels last": (lambda: ChannelNorm(6, -1), -1),
    "torch's": (lambda: nn.LayerNorm(6), -1),
    "torch's without weights": (lambda: nn.LayerNorm(6, elementwise_affine=False), -1),
    "RMS of torch": (lambda: nn.RMSNorm(6), -1),
    "RMS with weights (C, 1, 1)": (lambda: GammaNorm(6), 1),
    "groups": (lambda: nn.GroupNorm(2, 6), 1),
}


@pytest.mark.parametrize("side", [20, 24])
@pytest.mark.parametrize("kind", NORMS)
def test_channels_are_found_by_the_length_of_the_weights_whatever_a_norm_is_called(kind, side):
    # Of 24 pixels the map is as wide as it has channels.
    make, axis = NORMS[kind]
    torch.manual_seed(0)
    model, images = Normed(make(), axis), torch.rand(8, 3, side, side)
    for parameter in model.norm.parameters():
        nn.init.uniform_(parameter, 0.2, 2.0)
    found = collect_statistics(model, images)["norm"]
    with torch.no_grad():
        maps = model.conv(images) + torch.arange(6.0).view(6, 1, 1)
    assert torch.allclose(found.mean, maps.mean(dim=(0, 2, 3)), atol=1e-5)
    made = class_appearance(model, [0], image_size=side, steps=2, feature_statistics={"norm": found}, progress=False)
    assert torch.isfinite(made).all()


def test_a_convnext_of_hugging_face_makes_class_images():
    transformers = pytest.importorskip("transformers")
    config = transformers.ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[1, 1], num_labels=5)
    torch.manual_seed(0)
    model, images = transformers.ConvNextForImageClassification(config).eval(), torch.rand(6, 3, 32, 32)
    statistics = collect_statistics(model, images)
    lengths = {name: len(moments.mean) for name, moments in statistics.items()}
    layers = dict(model.named_modules())
    assert lengths == {name: len(layers[name].weight) for name in lengths}
    assert {statistics[name].axis for name in lengths} == {1, -1}
    made = class_appearance(
        model, [0, 4], image_size=32, steps=3, feature_statistics=statistics, normalization=Normalization()
    )
    assert made.shape == (2, 3, 32, 32)


def test_batchnorm_is_found_and_only_some_of_it_is_used():
    def block() -> nn.Module:
        return nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

    model = nn.Sequential(nn.BatchNorm2d(4), block(), block(), block())
    assert list(batchnorm_statistics(model)) == ["0", "1.1", "1.3", "2.3", "3.3"]
    assert not batchnorm_statistics(nn.Sequential(nn.Conv2d(3, 3, 1)))


@pytest.mark.parametrize(
    "relu", [nn.ReLU(), nn.ReLU(inplace=True), torch.relu, nn.functional.relu, torch.relu_, nn.ReLU6()]
)
def test_dead_relus_pass_what_raises_them_and_living_ones_are_left_alone(relu):
    dead = torch.full((1, 3), -1.0, requires_grad=True)
    living = torch.tensor([[-1.0, 1.0, 1.0]], requires_grad=True)
    for inputs, wanted in ((dead, [-1.0, -1.0, -1.0]), (living, [0.0, -1.0, -1.0])):
        with RedirectedGradients():
            outputs = relu(inputs.clone())
        assert torch.equal(outputs, inputs.detach().clamp(0))
        assert torch.autograd.grad(-outputs.sum(), inputs)[0][0].tolist() == wanted


def test_robustness_of_a_class_that_every_image_has_is_high():
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    nn.init.constant_(model[2].weight, 0)
    nn.init.constant_(model[2].bias[0:1], 10.0)
    seen = robustness(model, torch.rand(2, 3, 16, 16), 0)
    assert (seen.score > 0.99).all()
    assert seen.logits.shape == seen.probabilities.shape == (2,)
