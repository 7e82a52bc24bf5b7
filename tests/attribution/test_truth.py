"""Maps show what is true: a planted cause, the sum of a path, the weights of a model that is simple enough to read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.attribution.cases import TECHNIQUES, Technique, network, random_images, same, small_net
from tests.attribution.truth import Planted, planted_net
from vis_callbacks.attribution.grad_cam import grad_cam
from vis_callbacks.attribution.gradient import gradient, gradient_x_input
from vis_callbacks.attribution.integrated_gradients import integrated_gradients
from vis_callbacks.attribution.relu_rules import deconvnet, guided_backprop
from vis_callbacks.attribution.saliency import saliency
from vis_callbacks.attribution.smoothgrad import smoothgrad

BY_NAME = {repr(technique): technique for technique in TECHNIQUES}


HIT_RATES = {
    "ablation_cam": 0.8,
    "eigen_cam": 0.8,
    "grad_cam": 0.8,
    "grad_cam_plus_plus": 0.8,
    "gradient": 0.9,
    "gradient_x_input": 0.95,
    "guided_backprop": 0.95,
    "guided_grad_cam": 0.95,
    "hires_cam": 0.8,
    "integrated_gradients": 0.95,
    "layer_cam": 0.8,
    "occlusion": 0.99,
    "saliency": 0.9,
    "score_cam": 0.8,
    "smoothgrad": 0.9,
    "xgrad_cam": 0.8,
}
"""How often each technique finds the cause at least; a guess finds it in 8 % of the images."""
OPTIONS: dict[str, dict[str, float]] = {
    "integrated_gradients": {"steps": 8},
    "occlusion": {"window": 5, "stride": 2},
    "smoothgrad": {"samples": 8, "noise_level": 0.05},
}


@pytest.mark.parametrize("technique", [one for one in TECHNIQUES if not one.attends], ids=repr)
def test_points_at_the_planted_cause(planted: Planted, technique: Technique) -> None:
    name = repr(technique)
    few = slice(100 if name == "occlusion" or name not in HIT_RATES else None)
    shown = Planted(planted.model, planted.images[few], planted.labels[few], planted.corners[few])
    rate = shown.hit_rate(technique.function(shown.model, shown.images, shown.labels, **OPTIONS.get(name, {})))
    print(f"{name}: {rate:.3f}")
    assert rate >= HIT_RATES.get(name, 0.5)


@pytest.mark.parametrize("technique", [one for one in TECHNIQUES if not one.attends], ids=repr)
def test_randomised_weights_change_the_map(planted: Planted, technique: Technique) -> None:
    """The sanity check of Adebayo et al., 2018: a map that stays the same does not explain the model."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        randomised = planted_net().eval()
    images, labels = planted.images[:16], planted.labels[:16]
    options = {"window": 5, "stride": 3} if repr(technique) == "occlusion" else {}
    trained = technique.function(planted.model, images, labels, **options)
    other = technique.function(randomised, images, labels, **options)
    correlations = [spearman(one, two) for one, two in zip(trained, other, strict=True)]
    median = torch.tensor(correlations).median().item()
    print(f"{technique!r}: {median:.2f}")
    assert abs(median) < 0.5


def spearman(one: Tensor, two: Tensor) -> float:
    ranks = torch.stack([values.flatten().argsort().argsort().double() for values in (one, two)])
    return torch.corrcoef(ranks)[0, 1].item()


class TestIntegratedGradients:
    def test_sums_to_the_rise_of_the_logit(self, planted: Planted) -> None:
        with torch.no_grad():
            ends = planted.model(planted.images), planted.model(torch.zeros_like(planted.images))
        rise = (ends[0] - ends[1]).gather(1, planted.labels[:, None])[:, 0]
        total = integrated_gradients(planted.model, planted.images, planted.labels, steps=32).sum((1, 2, 3))
        error = ((total - rise).abs() / rise.abs()).median().item()
        print(f"completeness error: {error:.2%}")
        assert error < 0.01

    def test_is_exact_on_a_linear_net_with_any_steps(self) -> None:
        model, images = linear_net(), random_images(2, height=6, width=5)
        baseline = torch.rand(3, 1, 1)
        expected = (images - baseline) * model[1].weight[2].view(3, 6, 5)
        assert same(integrated_gradients(model, images, 2, baseline=baseline, steps=1), expected)

    def test_two_steps_are_exact_on_fourth_powers(self) -> None:
        class FourthPowers(nn.Module):
            def forward(self, images: Tensor) -> Tensor:
                return torch.stack([(images**4).sum((1, 2, 3)), images.sum((1, 2, 3))], dim=1)

        images = random_images(2, height=6, width=5)
        found = integrated_gradients(FourthPowers(), images, 0, baseline=-0.5, steps=2)
        assert same(found, images**4 - 0.5**4)

    @pytest.mark.parametrize("baseline", [0.3, torch.full((3, 1, 1), 0.3), torch.full((2, 3, 8, 8), 0.3)])
    def test_baselines_broadcast(self, baseline: float | Tensor) -> None:
        model, images = small_net(), random_images(2, height=8, width=8)
        expected = integrated_gradients(model, images, 1, torch.full((1, 3, 8, 8), 0.3), 4)
        assert torch.equal(integrated_gradients(model, images, 1, baseline, 4), expected)

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match="steps=0: expected a whole number from 1"):
            integrated_gradients(small_net(), random_images(1, height=8, width=8), steps=0)
        with pytest.raises(ValueError, match=r"baseline of shape \(2,\)"):
            integrated_gradients(small_net(), random_images(1, height=8, width=8), baseline=torch.zeros(2))


class TestSmoothGrad:
    def test_without_noise_it_is_the_gradient(self) -> None:
        model, images = small_net(), random_images(2, height=8, width=8)
        assert same(smoothgrad(model, images, 1, samples=3, noise_level=0), gradient(model, images, 1))

    def test_the_seed_decides(self) -> None:
        model, images = small_net(), random_images(2, height=8, width=8)
        assert torch.equal(smoothgrad(model, images, seed=4), smoothgrad(model, images, seed=4))
        assert not torch.equal(smoothgrad(model, images, seed=4), smoothgrad(model, images, seed=5))

    def test_noise_is_scaled_by_the_range_of_each_image(self) -> None:
        seen: list[Tensor] = []
        model = linear_net()
        model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
        images = torch.stack([torch.linspace(0, 1, 90), torch.linspace(-20, 20, 90)]).view(2, 3, 6, 5)
        smoothgrad(model, images, 1, samples=400, noise_level=0.1)
        noise = torch.cat(seen).view(2, 400, 3, 6, 5) - images[:, None]
        assert torch.allclose(noise.std(dim=(1, 2, 3, 4)), torch.tensor([0.1, 4.0]), rtol=0.02)

    def test_errors(self) -> None:
        images = random_images(1, height=8, width=8)
        with pytest.raises(ValueError, match="samples=0"):
            smoothgrad(small_net(), images, samples=0)
        with pytest.raises(ValueError, match="noise_level=-1"):
            smoothgrad(small_net(), images, noise_level=-1)


def linear_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(90, 4))


@pytest.mark.filterwarnings("ignore:no ReLU was met")
@pytest.mark.parametrize("technique", [gradient, guided_backprop, deconvnet, smoothgrad])
def test_gradients_of_a_linear_net_are_its_weights(technique: Technique) -> None:
    model, images = linear_net(), random_images(2, height=6, width=5)
    assert same(technique(model, images, 2), model[1].weight[2].view(1, 3, 6, 5).expand(2, -1, -1, -1))


def test_saliency_of_a_linear_net_is_its_largest_weight() -> None:
    model, images = linear_net(), random_images(2, height=6, width=5)
    expected = model[1].weight[2].view(1, 3, 6, 5).abs().amax(dim=1, keepdim=True)
    assert same(saliency(model, images, 2), expected.expand(2, -1, -1, -1))


def test_gradient_x_input_of_a_linear_net_sums_to_the_logit() -> None:
    model, images = linear_net(), random_images(2, height=6, width=5)
    with torch.no_grad():
        expected = model(images)[:, 2] - model[1].bias[2]
    assert torch.allclose(gradient_x_input(model, images, 2).sum((1, 2, 3)), expected, atol=1e-5)


def test_a_saturated_net_keeps_its_saliency() -> None:
    # Logits are differentiated: probabilities of 1 - 1e-30 would have no gradient.
    model, images = linear_net(), random_images(2, height=6, width=5)
    with torch.no_grad():
        model[1].bias[2] = 100.0
    assert (saliency(model, images, 2) > 0).any()


def test_grad_cam_behind_global_average_pooling_is_cam() -> None:
    model, images = small_net().eval(), random_images(2, height=16, width=16)
    with torch.no_grad():
        activation = model[:5](images)
    cam = torch.einsum("c,nchw->nhw", model[-1].weight[3], activation).relu()[:, None] / activation[0, 0].numel()
    expected = nn.functional.interpolate(cam, (16, 16), mode="bilinear")
    assert same(grad_cam(model, images, 3), expected)


def test_one_pass_techniques_agree_with_each_other_in_float32_and_float64() -> None:
    images = random_images(1)
    for name in ("gradient", "grad_cam"):
        single = BY_NAME[name](small_net().eval(), images, 1)
        assert same(single, BY_NAME[name](small_net().double().eval(), images.double(), 1))


def test_real_networks_are_complete_too() -> None:
    model, images = network("vgg"), random_images().double()
    with torch.no_grad():
        rise = (model(images) - model(torch.zeros_like(images)))[:, 1]
    total = integrated_gradients(model, images, 1, steps=32).sum((1, 2, 3))
    assert torch.allclose(total.double(), rise, rtol=0.05)
