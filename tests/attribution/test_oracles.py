"""Every technique against captum, grad-cam or a loop written from its paper, on many architectures."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from captum import attr as captum
from torch import Tensor, nn
from torch.nn import functional as F

from tests.attribution.cases import (
    RELU_NETS,
    FunctionalReLU,
    ReusedReLU,
    functional_densenet,
    network,
    random_images,
    same,
)
from tests.helpers import tiny
from vis_callbacks import Event, Panel, Saliency
from vis_callbacks.attribution.ablation_cam import ablation_cam
from vis_callbacks.attribution.eigen_cam import eigen_cam
from vis_callbacks.attribution.grad_cam import grad_cam
from vis_callbacks.attribution.grad_cam_plus_plus import grad_cam_plus_plus
from vis_callbacks.attribution.gradient import gradient, gradient_x_input
from vis_callbacks.attribution.guided_grad_cam import guided_grad_cam
from vis_callbacks.attribution.hires_cam import hires_cam
from vis_callbacks.attribution.integrated_gradients import integrated_gradients
from vis_callbacks.attribution.layer_cam import layer_cam
from vis_callbacks.attribution.occlusion import occlusion
from vis_callbacks.attribution.relu_rules import deconvnet, guided_backprop
from vis_callbacks.attribution.saliency import saliency
from vis_callbacks.attribution.score_cam import score_cam
from vis_callbacks.attribution.xgrad_cam import xgrad_cam
from vis_callbacks.model.features import default_layer
from vis_callbacks.model.layers import find_layer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pytorch_grad_cam as peer
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection

NETS = [
    *RELU_NETS,
    "mobilenetv3",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("efficientnet_lite0", "convnext")),
]
TARGETS = torch.tensor([3, 7])

pytestmark = [
    pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU activations"),
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients"),
]


@pytest.fixture(scope="module")
def images() -> Tensor:
    return random_images().double()


class Loud(nn.Module):
    """Logits that are so large that peers which add a constant to denominators err little."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return 100_000 * self.model(images)


@pytest.mark.parametrize("name", NETS)
class TestCaptum:
    def test_gradient_and_saliency(self, name: str, images: Tensor) -> None:
        expected = captum.Saliency(network(name)).attribute(images.clone(), target=TARGETS, abs=False).float()
        assert same(gradient(network(name), images, TARGETS), expected)
        assert same(saliency(network(name), images, TARGETS), expected.abs().amax(dim=1, keepdim=True))

    def test_gradient_x_input(self, name: str, images: Tensor) -> None:
        expected = captum.InputXGradient(network(name)).attribute(images.clone(), target=TARGETS)
        assert same(gradient_x_input(network(name), images, TARGETS), expected.float())

    def test_integrated_gradients_with_the_same_nodes(self, name: str, images: Tensor) -> None:
        peer_ig = captum.IntegratedGradients(network(name))
        expected = peer_ig.attribute(images, baselines=0.3, target=TARGETS, n_steps=4)
        found = integrated_gradients(network(name), images, TARGETS, baseline=0.3, steps=4)
        assert same(found, expected.float())

    def test_occlusion_with_cut_windows(self, name: str, images: Tensor) -> None:
        # WindowPartition of 24 at strides of 16 by 20 do not end at the border.
        peer_occlusion = captum.Occlusion(network(name))
        expected = peer_occlusion.attribute(
            images, sliding_window_shapes=(3, 24, 24), strides=(3, 16, 20), target=TARGETS, baselines=0.5
        )
        found = occlusion(network(name), images, TARGETS, window=24, stride=(16, 20), baseline=0.5)
        assert same(found, expected[:, :1].float(), 5e-3)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit"])
def test_saliency_through_a_trainer(name: str, tmp_path: Path) -> None:
    class Kept(Saliency):
        def visualize(self, event: Event) -> Iterable[Panel]:
            self.maps = self.attribute(event)
            return super().visualize(event)

    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=4)
    side = model.pretrained_cfg["input_size"][-1]
    images = torch.randn(2, 3, side, side)
    callback = Kept(samples=images)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, torch.zeros(2).long()), batch_size=2)
    tiny.trainer(tmp_path, [callback]).validate(tiny.module(net=model), loader, verbose=False)
    targets = model.eval()(images).argmax(dim=1)
    expected = captum.Saliency(model).attribute(images.clone(), target=targets).amax(dim=1, keepdim=True)
    assert callback.maps.abs().max() > 0
    torch.testing.assert_close(callback.maps, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(saliency(model.train(), images), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", RELU_NETS)
class TestCaptumRules:
    def test_guided_backprop(self, name: str, images: Tensor) -> None:
        expected = captum.GuidedBackprop(network(name)).attribute(images.clone(), target=TARGETS)
        assert same(guided_backprop(network(name), images, TARGETS), expected.float())

    def test_deconvnet(self, name: str, images: Tensor) -> None:
        expected = captum.Deconvolution(network(name)).attribute(images.clone(), target=TARGETS)
        assert same(deconvnet(network(name), images, TARGETS), expected.float())

    def test_guided_grad_cam(self, name: str, images: Tensor) -> None:
        layer = default_layer(network(name), images)
        peer_cam = captum.GuidedGradCam(network(name), find_layer(network(name), layer)[1])
        expected = peer_cam.attribute(images.clone(), target=TARGETS, interpolate_mode="bilinear")
        assert same(guided_grad_cam(network(name), images, TARGETS), expected.float())


@pytest.mark.parametrize("rule", [guided_backprop, deconvnet])
def test_rules_on_functional_relus_equal_captum_on_module_relus(rule: Any) -> None:
    modules, functional = ReusedReLU(), FunctionalReLU()
    functional.load_state_dict(modules.state_dict())
    images = random_images(height=16, width=20)
    # captum wants each use of a rectifier to be a module of its own.
    convs = [layer for conv in modules.convs for layer in (conv, nn.ReLU())]
    separate = nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), modules.head)
    peer_class = captum.GuidedBackprop if rule is guided_backprop else captum.Deconvolution
    expected = peer_class(separate).attribute(images.clone(), target=2)
    assert same(rule(functional, images, 2), expected)
    assert same(rule(modules, images, 2), expected)


@pytest.mark.parametrize("rule", [guided_backprop, deconvnet])
def test_rules_see_the_functional_in_place_relu_of_torchvisions_densenet(rule: Any, images: Tensor) -> None:
    functional = functional_densenet().double().eval()
    assert same(rule(functional, images, TARGETS), rule(network("densenet"), images, TARGETS))


def peer_map(technique: Any, model: nn.Module, layer: str, images: Tensor, targets: Tensor = TARGETS) -> Tensor:
    with technique(model=model, target_layers=[find_layer(model, layer)[1]]) as cam:
        found = cam(input_tensor=images, targets=[ClassifierOutputTarget(int(target)) for target in targets])
    return torch.from_numpy(np.asarray(found))[:, None]


def stretched(maps: Tensor) -> Tensor:
    """To [0, 1], as grad-cam returns its maps."""
    maps = maps - maps.amin(dim=(1, 2, 3), keepdim=True)
    return maps / (1e-7 + maps.amax(dim=(1, 2, 3), keepdim=True))


@pytest.mark.parametrize("name", NETS)
class TestGradCam:
    @pytest.mark.parametrize(
        ("ours", "theirs", "tolerance"),
        [
            (grad_cam, peer.GradCAM, 1e-3),
            (grad_cam_plus_plus, peer.GradCAMPlusPlus, 1e-3),
            (hires_cam, peer.HiResCAM, 1e-3),
            (layer_cam, peer.LayerCAM, 1e-3),
            # The peer adds 1e-7 to sums that are not much larger in networks of random weights.
            (xgrad_cam, peer.XGradCAM, 1e-2),
        ],
        ids=lambda value: getattr(value, "__name__", ""),
    )
    def test_gradient_cams(self, name: str, images: Tensor, ours: Any, theirs: Any, tolerance: float) -> None:
        model = Loud(network(name))
        expected = peer_map(theirs, model, default_layer(model, images), images)
        assert same(stretched(ours(model, images, TARGETS)), expected, tolerance)

    def test_eigen_cam_up_to_sign(self, name: str, images: Tensor) -> None:
        model = network(name)
        activation = layer_output(model, default_layer(model, images), images)
        projection = torch.from_numpy(get_2d_projection(activation.numpy()))[:, None]
        expected = [F.interpolate((sign * projection).relu(), images.shape[2:], mode="bilinear") for sign in (1, -1)]
        found = eigen_cam(model, images)
        for row in range(len(images)):
            assert any(same(found[row], one[row], 1e-3) for one in expected)


def test_ablation_cam_equals_grad_cam_library_where_the_layer_is_rectified_and_the_logit_positive() -> None:
    # It replaces by a huge negative number, not by zero, where a layer's least value is not zero.
    model, images = network("vgg"), random_images().double()
    with torch.no_grad():
        positive = model(images).argmax(dim=1)
    expected = peer_map(peer.AblationCAM, model, "0.9", images, positive)
    assert same(stretched(ablation_cam(model, images, positive, "0.9")), expected, 1e-2)


@pytest.mark.parametrize("name", ["vgg", "densenet", pytest.param("mobilenetv3", marks=pytest.mark.slow)])
class TestLoops:
    """grad-cam's Score-CAM resizes with aligned corners, and its Ablation-CAM departs from the paper: loops instead."""

    def test_score_cam(self, name: str, images: Tensor) -> None:
        model = network(name)
        layer = default_layer(model, images)
        image, target = images[:1], int(TARGETS[0])
        activation = layer_output(model, layer, image)
        scores = []
        with torch.no_grad():
            baseline = model(torch.zeros_like(image))[0, target]
            for channel in activation[0]:
                mask = F.interpolate(channel[None, None], image.shape[2:], mode="bilinear")
                if channel.max() == channel.min():
                    scores.append(torch.full_like(baseline, -torch.inf))
                    continue
                mask = (mask - mask.min()) / (mask.max() - mask.min())
                scores.append(model(image * mask)[0, target] - baseline)
        cam = (torch.stack(scores).softmax(dim=0)[:, None, None] * activation[0]).sum(dim=0).relu()
        expected = F.interpolate(cam[None, None], image.shape[2:], mode="bilinear").float()
        assert same(score_cam(model, image, target), expected, 1e-3)

    def test_ablation_cam(self, name: str, images: Tensor) -> None:
        model = network(name)
        layer = default_layer(model, images)
        image, target = images[:1], int(TARGETS[0])
        activation = layer_output(model, layer, image)
        with torch.no_grad():
            score = model(image)[0, target]
            weights = []
            for channel in range(activation.shape[1]):

                def ablate(_: nn.Module, __: Any, output: Tensor, channel: int = channel) -> Tensor:
                    output = output.clone()
                    output[:, channel] = 0
                    return output

                handle = find_layer(model, layer)[1].register_forward_hook(ablate)
                weights.append((score - model(image)[0, target]) / score.abs())
                handle.remove()
        cam = (torch.stack(weights)[:, None, None] * activation[0]).sum(dim=0).relu()[None, None]
        expected = F.interpolate(cam, image.shape[2:], mode="bilinear").float()
        assert same(ablation_cam(model, image, target), expected, 1e-2)


def layer_output(model: nn.Module, layer: str, images: Tensor) -> Tensor:
    seen: list[Tensor] = []
    handle = find_layer(model, layer)[1].register_forward_hook(lambda _, __, output: seen.append(output.clone()))
    with torch.no_grad():
        model(images)
    handle.remove()
    return seen[0]
