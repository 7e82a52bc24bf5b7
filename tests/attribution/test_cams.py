from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.attribution.cases import network, random_images, same, small_net
from vis_callbacks.attribution import ablation_cam as ablation
from vis_callbacks.attribution.ablation_cam import ablation_cam
from vis_callbacks.attribution.eigen_cam import eigen_cam_rule
from vis_callbacks.attribution.grad_cam import grad_cam
from vis_callbacks.attribution.grad_cam_plus_plus import grad_cam_plus_plus_rule
from vis_callbacks.attribution.layer_cam import layer_cam
from vis_callbacks.attribution.score_cam import score_cam
from vis_callbacks.attribution.xgrad_cam import xgrad_cam_rule
from vis_callbacks.inspection.activations import activations
from vis_callbacks.model.features import find_layout


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_grad_cam_plus_plus_is_the_loop_of_its_paper() -> None:
    activation, gradient = maps(2, 3, 4, 5).relu(), maps(2, 3, 4, 5, seed=1)
    gradient[0, 0, 0, 0] = 0
    expected = torch.zeros(2, 1, 4, 5)
    for n in range(2):
        for k in range(3):
            g, total = gradient[n, k], activation[n, k].sum()
            alpha = torch.where(g == 0, 0, g**2 / (2 * g**2 + total * g**3))
            expected[n, 0] += (alpha * g.relu()).sum() * activation[n, k]
    assert same(grad_cam_plus_plus_rule(activation, gradient), expected.relu())


def test_grad_cam_plus_plus_does_not_lose_small_gradients() -> None:
    activation, gradient = maps(1, 3, 4, 5).relu(), 1e-25 * maps(1, 3, 4, 5, seed=1)
    assert (grad_cam_plus_plus_rule(activation, gradient) > 0).any()


def test_xgrad_cam_is_finite_where_channels_cancel() -> None:
    activation = torch.tensor([[[[1.0, -1.0]], [[2.0, 1.0]], [[0.0, 0.0]]]])
    found = xgrad_cam_rule(activation, torch.ones_like(activation))
    # Weights 0, 1 and 0.
    assert torch.equal(found, torch.tensor([[[[2.0, 1.0]]]]))


class TestLayerCam:
    def test_several_layers_are_scaled_and_the_largest_taken(self) -> None:
        model, images = small_net().eval(), random_images(height=16, width=16)
        shallow, deep = (layer_cam(model, images, 1, layer) for layer in ("2", "4"))
        joined = layer_cam(model, images, 1, ["2", "4"])
        assert joined.max() < 1
        # The shallow map is of the images' own size: no resizing comes between.
        scaled = torch.tanh(2 * shallow / shallow.amax(dim=(1, 2, 3), keepdim=True))
        assert (joined >= scaled - 1e-6).all()
        assert same(layer_cam(model, images, 1, ["2", "2"]), scaled)
        assert not same(joined, scaled)
        assert deep.shape == joined.shape

    def test_one_layer_in_a_list_is_that_layer(self) -> None:
        model, images = small_net().eval(), random_images(height=16, width=16)
        assert torch.equal(layer_cam(model, images, 1, ["2"]), layer_cam(model, images, 1, "2"))

    def test_no_layer(self) -> None:
        with pytest.raises(ValueError, match="no layer named"):
            layer_cam(small_net(), random_images(height=16, width=16), 1, [])


class TestEigenCam:
    @pytest.mark.parametrize("shape", [(2, 30, 3, 4), (2, 5, 6, 7)], ids=["more channels", "more positions"])
    def test_is_the_projection_on_the_first_right_singular_vector(self, shape: tuple[int, ...]) -> None:
        activation = maps(*shape)
        found = eigen_cam_rule(activation)
        for row in range(2):
            matrix = activation[row].flatten(1).T
            matrix = matrix - matrix.mean(dim=0)
            projection = matrix @ torch.linalg.svd(matrix, full_matrices=False).Vh[0]
            projection = projection * projection[projection.abs().argmax()].sign()
            assert same(found[row].flatten(), projection.relu())

    def test_the_largest_value_is_positive(self) -> None:
        activation = maps(1, 6, 5, 5)
        assert torch.allclose(eigen_cam_rule(activation), eigen_cam_rule(-activation), atol=1e-5)

    def test_the_same_everywhere_gives_nothing(self) -> None:
        assert not eigen_cam_rule(torch.ones(1, 6, 5, 5)).any()


class TestScoreCam:
    def test_channels_that_are_constant_give_nothing(self) -> None:
        model, images = small_net().eval(), random_images(height=16, width=16)
        with torch.no_grad():
            # The first channels of the layer are a constant of 5.
            model[3].weight[:6] = 0
            model[3].bias[:6] = 5.0
        maps = score_cam(model, images, 1)
        with torch.no_grad():
            varying = model[:5](images)[:, 6:]
        # A weighted mean of the others cannot exceed their largest values.
        assert (maps <= varying.amax(dim=(1, 2, 3), keepdim=True)).all()

    def test_top_k_channels_by_variance(self) -> None:
        model, images = small_net().eval(), random_images(height=16, width=16)
        assert torch.equal(score_cam(model, images, 1, top_k=100), score_cam(model, images, 1))
        one = score_cam(model, images, 1, top_k=1)
        with torch.no_grad():
            activation = model[:5](images)
        best = activation.flatten(2).var(dim=2).argmax(dim=1)
        expected = activation[torch.arange(2), best][:, None]
        assert same(one, nn.functional.interpolate(expected, (16, 16), mode="bilinear"))

    def test_no_channels(self) -> None:
        with pytest.raises(ValueError, match="top_k=0: expected a whole number from 1"):
            score_cam(small_net(), random_images(height=16, width=16), 1, top_k=0)


class TestAblationCam:
    def test_the_sign_is_kept_where_the_logit_is_negative(self) -> None:
        model, images = small_net().eval(), random_images(1, height=16, width=16)
        with torch.no_grad():
            model[-1].bias.zero_()
            model[-1].weight[2] = -model[-1].weight[1]
            score = model(images)[0, 1]
            activation = model[:5](images)
        # Ablating a channel behind which is pooling and one linear layer takes its term from the logit.
        terms = model[-1].weight[1, :, None, None] * activation[0].mean(dim=(1, 2), keepdim=True)
        for target, sign in ((1, 1), (2, -1)):
            cam = (sign * terms / score.abs() * activation[0]).sum(dim=0).relu()[None, None]
            expected = nn.functional.interpolate(cam, (16, 16), mode="bilinear")
            assert same(ablation_cam(model, images, target), expected, 1e-3)

    @pytest.mark.parametrize(
        "name", ["vgg", "vit", *(pytest.param(n, marks=pytest.mark.slow) for n in ("swin", "convnext"))]
    )
    def test_repeating_the_layers_output_equals_whole_passes(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        model, images = network(name), random_images(1).double()
        fast = ablation_cam(model, images, 1, chunk_size=50)
        monkeypatch.setattr(ablation, "_is_repeatable", lambda *_: False)
        whole = ablation_cam(model, images, 1, chunk_size=50)
        assert same(fast, whole, 1e-2)

    def test_one_image_goes_through_the_part_before_the_layer(self) -> None:
        model, seen = small_net().eval(), []
        model[0].register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
        ablation_cam(model, random_images(1, height=16, width=16), 1)
        # Shapes of two images and a graph of one for the feature info, the trace, the probe, and one chunk of channels.
        assert seen == [2, 1, 1, 1, 1]

    def test_what_rounding_changes_is_no_evidence(self) -> None:
        class Beside(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.beside, self.head = nn.Conv2d(3, 4, 3), nn.Linear(3, 4)

            def forward(self, images: Tensor) -> Tensor:
                self.beside(images)
                # Kernels for batches of other sizes round otherwise.
                return self.head(images.mean(dim=(2, 3))) * (1 + torch.finfo().eps * len(images))

        assert not ablation_cam(Beside(), random_images(1, height=8, width=8), 1, "beside").any()

    def test_a_module_that_runs_twice_is_ablated_the_last_time(self) -> None:
        class Twice(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.first, self.second = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 8, 3)
                self.relu, self.head = nn.ReLU(), nn.Linear(8, 4)

            def forward(self, images: Tensor) -> Tensor:
                return self.head(self.relu(self.second(self.relu(self.first(images)))).mean(dim=(2, 3)))

        class Once(Twice):
            def forward(self, images: Tensor) -> Tensor:
                return self.head(self.relu(self.second(self.first(images).relu())).mean(dim=(2, 3)))

        images = random_images(2, height=16, width=16)
        assert same(ablation_cam(Twice(), images, 1, "relu"), ablation_cam(Once(), images, 1, "relu"), 1e-4)

    @pytest.mark.slow
    def test_channels_of_windows_are_ablated_in_all_windows(self) -> None:
        """A channel of the projection that is zero in all windows is one that its weights and bias leave zero."""
        model, images = copy.deepcopy(network("swin")).double(), random_images(1).double()
        layer = "layers.0.blocks.0.attn.proj"
        assert find_layout(model, images, layer).windows == 9
        found = ablation_cam(model, images, 1, layer)
        trace_of = activations(model, images, layer)
        score = model(images)[0, 1]
        weights = []
        for channel in range(trace_of.shape[1]):
            without = copy.deepcopy(model)
            with torch.no_grad():
                projection = without.get_submodule(layer)
                projection.weight[channel] = 0
                projection.bias[channel] = 0
                weights.append((score - without(images)[0, 1]) / score.abs())
        cam = (torch.stack(weights)[:, None, None] * trace_of[0]).sum(dim=0).relu()[None, None]
        expected = nn.functional.interpolate(cam.float(), images.shape[-2:], mode="bilinear")
        assert same(found, expected, 1e-2)

    @pytest.mark.parametrize("kind", ["concatenates", "remembers its batch"])
    def test_models_whose_layers_cannot_be_repeated(self, kind: str) -> None:
        class Joined(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.first = nn.Conv2d(3, 6, 3, padding=1)
                self.second = nn.Conv2d(6, 6, 3, padding=1)
                self.head = nn.Linear(12, 4)

            def forward(self, images: Tensor) -> Tensor:
                count = len(images)
                first = self.first(images).relu()
                second = self.second(first).relu()
                if kind == "concatenates":
                    joined = torch.cat([first, second], dim=1).mean(dim=(2, 3))
                else:
                    joined = torch.cat([second, -second], dim=1).view(count, 12, -1).mean(dim=2)
                return self.head(joined)

        model, images = Joined(), random_images(2, height=8, width=8)
        found = ablation_cam(model, images, 1, "second")
        with torch.no_grad():
            first = model.first(images).relu()
            activation = model.second(first)
            score = model(images)[:, 1]
            weights = []
            for channel in range(6):
                handle = model.second.register_forward_hook(zero(channel))
                weights.append((score - model(images)[:, 1]) / score.abs())
                handle.remove()
        cam = (torch.stack(weights, dim=1)[:, :, None, None] * activation).sum(dim=1, keepdim=True).relu()
        assert same(found, cam, 1e-3)


def zero(channel: int) -> Any:
    def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[:, channel] = 0
        return output

    return hook


def test_an_exchanged_module_is_seen() -> None:
    model, images = small_net().eval(), random_images(1, height=24, width=24)
    grad_cam(model, images)
    model[4] = nn.Sequential(nn.ReLU(), nn.Conv2d(12, 12, 3))
    assert grad_cam(model, images).isfinite().all()
    assert torch.equal(grad_cam(model, images), grad_cam(model, images, layer="4"))
