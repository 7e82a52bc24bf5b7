"""Gradients pass ``no_grad`` inside a model; where the forward cuts them, that is said and takes nothing else along."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers import tiny
from vis_callbacks import (
    AblationCAM,
    ConfigurationError,
    EigenCAM,
    FoolModel,
    GradCAM,
    Gradient,
    IntegratedGradients,
    Occlusion,
    VisualizationWarning,
    functional as V,
)
from vis_callbacks.errors import CutError, LayerError
from vis_callbacks.model.guard import undisturbed
from vis_callbacks.model.trace import depends_on, trace

TECHNIQUES: dict[str, dict[str, Any]] = {
    "gradient": {},
    "saliency": {},
    "gradient_x_input": {},
    "integrated_gradients": {"steps": 4},
    "smoothgrad": {"samples": 3},
    "guided_backprop": {},
    "deconvnet": {},
    "grad_cam": {},
    "layer_cam": {"layer": "body.0"},
    "guided_grad_cam": {},
    "score_cam": {},
    "eigen_cam": {},
    "occlusion": {},
}


class Net(nn.Module):
    """A frozen body and a trained head."""

    around: Any = nullcontext

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.head = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))

    def forward(self, images: Tensor) -> Tensor:
        with self.around():
            features = self.body(images)
        return self.head(features)


class UnderNoGrad(Net):
    around = torch.no_grad


class Disabled(Net):
    around = staticmethod(lambda: torch.set_grad_enabled(False))


class Decorated(Net):
    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)


class LeftDisabled(Net):
    def forward(self, images: Tensor) -> Tensor:
        torch.set_grad_enabled(False)
        return super().forward(images)


class Nested(Net):
    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            with torch.enable_grad():
                features = self.body[:2](images)
            with torch.set_grad_enabled(self.training):
                features = self.body[2:](features)
        return self.head(features)


class FillsABuffer(Net):
    """Writes what it sees into buffers, also with another size, as observers and caches do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("least", torch.tensor([]))
        self.register_buffer("cache", torch.zeros(1, 8, 1, 1))
        self.register_buffer("view", torch.zeros(4, 8)[1])
        self.count, self.plain = 0, torch.zeros(8)

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.body(images)
            self.mean.mul_(0.9).add_(features.mean((0, 2, 3)), alpha=0.1)
            self.least.resize_(8).copy_(features.amin((0, 2, 3)))
            self.view.add_(features.mean())
            self.plain.add_(features.mean())
            self.cache = features.detach()
            self.count += 1
        return self.head(features)


LIFTED = [UnderNoGrad, Disabled, Decorated, LeftDisabled, Nested, FillsABuffer]


def images() -> Tensor:
    return torch.rand(3, 3, 14, 14, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("net", LIFTED)
def test_maps_are_those_of_the_net_without_it(net: type[Net], technique: str) -> None:
    expected = getattr(V, technique)(Net().eval(), images(), 2, **TECHNIQUES[technique])
    found = getattr(V, technique)(net().eval(), images(), 2, **TECHNIQUES[technique])
    torch.testing.assert_close(found, expected)
    assert expected.abs().max() > 0


@pytest.mark.parametrize("outside", [True, False])
@pytest.mark.parametrize("net", [*LIFTED, Net])
def test_gradients_are_as_enabled_afterwards_as_before(net: type[Net], outside: bool) -> None:
    model = net().eval()
    with torch.set_grad_enabled(outside):
        V.gradient(model, images(), 1)
        assert torch.is_grad_enabled() == outside
        with pytest.raises(RuntimeError):
            V.gradient(model, torch.rand(2, 4, 14, 14), 1)
        assert torch.is_grad_enabled() == outside
    with undisturbed(model), torch.no_grad():
        trace(model, images())
        assert not torch.is_grad_enabled()


def test_buffers_are_what_they_were() -> None:
    model = FillsABuffer().train()
    before = {name: (buffer, buffer.clone(), _place(buffer)) for name, buffer in model.named_buffers()}
    plain, values = model.plain, model.plain.clone()
    for _ in range(2):
        V.gradient(model, images(), 1), V.grad_cam(model, images(), 1), V.score_cam(model, images(), 1)
    after = dict(model.named_buffers())
    assert after.keys() == before.keys()
    for name, (buffer, numbers, place) in before.items():
        assert after[name] is buffer
        assert torch.equal(buffer, numbers)
        assert _place(buffer) == place
        assert buffer.grad_fn is None
        assert not buffer.requires_grad
    assert model.plain is plain
    assert torch.equal(plain, values)
    assert plain.grad_fn is None
    assert model.count == 0


def _place(buffer: Tensor) -> tuple[Any, ...]:
    return buffer.data_ptr(), buffer.shape, buffer.stride(), buffer.untyped_storage().nbytes(), buffer.dtype


def test_a_cache_under_no_grad_carries_the_gradient() -> None:
    class Cached(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("keys", torch.zeros(3, 8, 10, 10))

        def forward(self, images: Tensor) -> Tensor:
            with torch.no_grad():
                self.keys[: len(images)] = self.body(images)
                features = self.keys[: len(images)] * 1
            return self.head(features)

    model = Cached().eval()
    for _ in range(2):
        torch.testing.assert_close(V.gradient(model, images(), 2), V.gradient(Net().eval(), images(), 2))
    assert model.keys.count_nonzero() == 0


def test_code_that_only_runs_without_gradients_still_runs() -> None:
    class ChangesALeaf(Net):
        """Changes, under ``no_grad``, what a gradient needs."""

        def forward(self, images: Tensor) -> Tensor:
            with torch.no_grad():
                features = self.body(images).exp()
                features.log_()
            return self.head(features)

    model = ChangesALeaf().eval()
    with pytest.raises(ConfigurationError, match="no gradient at the images"):
        V.gradient(model, images(), 1)
    torch.testing.assert_close(
        V.grad_cam(model, images(), 1, layer="head.0"), V.grad_cam(Net().eval(), images(), 1, layer="head.0")
    )
    assert V.occlusion(model, images(), 1).abs().max() > 0

    class Asserts(Net):
        def forward(self, images: Tensor) -> Tensor:
            with torch.no_grad():
                if torch.is_grad_enabled():
                    raise RuntimeError("this runs without gradients only")
                features = self.body(images)
            return self.head(features)

    assert V.occlusion(Asserts().eval(), images(), 1).abs().max() > 0
    found = V.grad_cam(Asserts().eval(), images(), 1, layer="head.1")
    torch.testing.assert_close(found, V.grad_cam(Net().eval(), images(), 1, layer="head.1"))


# What cuts the gradient for good.


class Detached(Net):
    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).detach())


class Data(Net):
    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).data)


class Inference(Net):
    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)


@pytest.mark.parametrize("technique", ["gradient", "saliency", "integrated_gradients", "smoothgrad", "guided_backprop"])
@pytest.mark.parametrize("net", [Detached, Data, Inference])
def test_a_cut_gradient_is_said_in_one_sentence(net: type[Net], technique: str) -> None:
    with pytest.raises(ConfigurationError, match="the logits have no gradient at the images: the forward cuts it") as e:
        getattr(V, technique)(net().eval(), images(), 1)
    assert len(str(e.value)) < 300


@pytest.mark.parametrize("net", [Detached, Data])
def test_layers_behind_the_cut_have_their_maps(net: type[Net]) -> None:
    model, plain = net().eval(), Net().eval()
    for technique in ("grad_cam", "layer_cam", "hires_cam", "xgrad_cam", "grad_cam_plus_plus"):
        expected = getattr(V, technique)(plain, images(), 1, layer="head.1")
        torch.testing.assert_close(getattr(V, technique)(model, images(), 1, layer="head.1"), expected)
    # The default layer is one of them.
    torch.testing.assert_close(V.grad_cam(model, images(), 1), V.grad_cam(plain, images(), 1))
    assert V.occlusion(model, images(), 1).abs().max() > 0
    assert V.eigen_cam(model, images(), 1).abs().max() > 0
    with pytest.raises(ConfigurationError, match=r"no gradient at body\.0: the forward cuts it"):
        V.grad_cam(model, images(), 1, layer="body.0")
    with pytest.raises(ConfigurationError, match="no gradient at the images"):
        V.class_appearance(model, 1, image_size=14, steps=2, progress=False)


@pytest.mark.parametrize("net", [Detached, Data])
def test_the_error_names_the_place_of_the_cut(net: type[Net]) -> None:
    line = net.forward.__code__.co_firstlineno + 1
    what = "detach()" if net is Detached else ".data"
    place = re.escape(f"the forward cuts it ({what} in test_no_grad.py, line {line}); put what is before it under")
    calls: list[Callable[[nn.Module], Any]] = [
        lambda model: V.gradient(model, images(), 1),
        lambda model: V.grad_cam(model, images(), 1, layer="body.3"),
        lambda model: V.class_appearance(model, 1, image_size=14, steps=2, progress=False),
        lambda model: V.fool(model, images(), 1, steps=2, progress=False),
    ]
    for call in calls:
        with pytest.raises(CutError, match=place) as caught:
            call(net().eval())
        assert len(str(caught.value)) < 280


class Beside(Net):
    """Has layers that the logits do not depend on, of which it keeps what it saw, and draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.beside = nn.Conv2d(8, 8, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.body(images)
        self.seen = self.beside(features).detach()
        return self.head(F.dropout(features, 0.5, training=True))


@pytest.mark.parametrize("technique", ["grad_cam", "layer_cam", "hires_cam", "xgrad_cam", "grad_cam_plus_plus"])
def test_a_layer_that_the_logits_do_not_depend_on_has_a_map_of_zeros(technique: str) -> None:
    model = Beside().eval()
    assert not getattr(V, technique)(model, images(), 1, layer="beside").any()
    assert getattr(V, technique)(model, images(), 1, layer="body.4").any()
    assert V.gradient(model, images(), 1).any()


def test_only_other_values_tell_whether_logits_depend_on_a_layer_behind_which_the_gradient_is_cut() -> None:
    for net, layer, expected in (
        (Detached, "body.0", True),
        (Data, "body.4", True),
        (Inference, "body.0", True),
        (Net, "head.1", True),
        (Beside, "beside", False),
        (Beside, "body.1", True),
    ):
        model = net().eval()
        with undisturbed(model):
            state = torch.get_rng_state()
            assert depends_on(model, images(), layer) is expected
            assert torch.equal(torch.get_rng_state(), state)


class TinyNoGrad(tiny.Net):
    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            x = torch.relu(self.bn1(self.conv1(images)))
        return self.head((x + self.branch(x)).amax(dim=(2, 3)))


class TinyDetached(tiny.Net):
    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(images))).detach()
        return self.head((x + self.branch(x)).amax(dim=(2, 3)))


def fitted(folder: Path, net: nn.Module, *callbacks: Any) -> dict[str, list[dict[str, Any]]]:
    tiny.trainer(folder, callbacks, max_epochs=1, logger=True).fit(tiny.module(net=net), tiny.loader(), tiny.loader(16))
    found: dict[str, list[dict[str, Any]]] = {}
    for record in tiny.records(folder):
        found.setdefault(record["callback"], []).append(record)
    return found


def test_in_a_trainer_a_frozen_backbone_under_no_grad_gets_every_picture(tmp_path: Path) -> None:
    callbacks = [Gradient(samples=2), IntegratedGradients(samples=2, steps=2), GradCAM(samples=2), Occlusion(samples=2)]
    found = fitted(tmp_path, TinyNoGrad(), *callbacks)
    assert len(found) == 4
    assert not [record["error"] for records in found.values() for record in records if record["error"]]


@pytest.mark.filterwarnings("ignore::vis_callbacks.errors.VisualizationWarning")
def test_in_a_trainer_a_failing_technique_takes_no_other_along(tmp_path: Path) -> None:
    callbacks = [
        Gradient(samples=2),
        GradCAM(samples=2),
        EigenCAM(samples=2),
        Occlusion(samples=2),
    ]
    found = fitted(tmp_path, TinyDetached(), *callbacks)
    errors = {name: [record["error"] for record in records] for name, records in found.items()}
    assert all("no gradient at the images" in error for error in errors["Gradient"])
    for name in ("GradCAM", "EigenCAM", "Occlusion"):
        assert errors[name]
        assert not any(errors[name])


# TorchScript and quantised layers.


class TinyBeside(tiny.Net):
    """Its second convolution leads nowhere."""

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(images)))
        self.seen = self.branch(x).detach()
        return self.head(x.amax(dim=(2, 3)))


def test_in_a_trainer_a_map_of_zeros_says_that_the_logits_do_not_depend_on_the_layer(tmp_path: Path) -> None:
    callbacks = [kind(samples=2, layer="conv2") for kind in (GradCAM, AblationCAM)]
    for records in fitted(tmp_path, TinyBeside(), *callbacks).values():
        assert records
        for record in records:
            assert not record["error"]
            assert record["caption"].endswith("the logits do not depend on this layer")


def test_in_a_trainer_a_cut_gradient_is_one_sentence(tmp_path: Path) -> None:
    callbacks = [
        Gradient(samples=2),
        IntegratedGradients(samples=2, steps=2),
        GradCAM(samples=2, layer="conv1"),
        FoolModel(samples=2, steps=2),
        AblationCAM(samples=2, layer="conv1"),
    ]
    with pytest.warns(VisualizationWarning) as caught:
        found = fitted(tmp_path, TinyDetached(), *callbacks)
    said = [str(one.message) for one in caught if one.category is VisualizationWarning]
    assert len(said) == 1
    assert "detach() in test_no_grad.py, line" in said[0]
    assert len(said[0]) < 300
    errors = {name: [record["error"] for record in records] for name, records in found.items()}
    for name in ("Gradient", "IntegratedGradients", "GradCAM", "FoolModel"):
        assert all(error.startswith("CutError: ") for error in errors[name])
    assert not any(errors["AblationCAM"])


@pytest.mark.filterwarnings("ignore:.*torch.jit:", "ignore:.*torch.ao", "ignore:.*quantiz")
@pytest.mark.parametrize("scripted", [torch.jit.script, lambda net: torch.jit.trace(net, images())])
def test_a_scripted_model_has_gradients_and_says_that_its_layers_are_hidden(scripted: Callable[..., Any]) -> None:
    plain, model = Net().body, scripted(nn.Sequential(*Net().eval().body, *Net().eval().head).eval())
    whole = nn.Sequential(*plain, *Net().head).eval()
    for _ in range(3):
        torch.testing.assert_close(V.gradient(model, images(), 1), V.gradient(whole, images(), 1))
    torch.testing.assert_close(V.occlusion(model, images(), 1), V.occlusion(whole, images(), 1))
    for technique in ("grad_cam", "score_cam", "eigen_cam", "ablation_cam", "activations"):
        with pytest.raises(LayerError, match="is scripted or traced, so no layer inside can be seen: give the module"):
            getattr(V, technique)(model, images())
    with pytest.raises(LayerError, match="scripted or traced"):
        V.grad_cam(model, images(), 1, layer="0")
    # Its ReLUs are seen until TorchScript joins them with other operations.
    with suppress(ConfigurationError):
        torch.testing.assert_close(V.guided_backprop(model, images(), 1), V.guided_backprop(whole, images(), 1))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_quantised_layers_have_no_gradient_and_no_map_is_all_zero() -> None:
    model = torch.ao.quantization.quantize_dynamic(Net().eval(), {nn.Linear}, dtype=torch.qint8)
    for technique in ("gradient", "smoothgrad", "guided_backprop", "deconvnet"):
        with pytest.raises(ConfigurationError, match="no gradient at the images"):
            getattr(V, technique)(model, images(), 1)
    with pytest.raises(ConfigurationError, match=r"no gradient passes Linear.* of Net"):
        V.grad_cam(model, images(), 1)
    with pytest.raises(ConfigurationError, match="no gradient"):
        V.class_appearance(model, 1, image_size=14, steps=2, progress=False)
    for technique in ("occlusion", "eigen_cam", "score_cam", "ablation_cam"):
        assert getattr(V, technique)(model, images()).abs().max() > 0


@pytest.mark.filterwarnings("ignore:.*torch.jit:")
def test_at_setup_a_scripted_part_is_said_once(tmp_path: Path) -> None:
    module = tiny.module(net=torch.jit.trace(tiny.Net().eval(), torch.rand(2, 1, 8, 8)))
    with pytest.warns(match=r"scripted or traced part \(Net\): layers inside it cannot be seen") as caught:
        tiny.trainer(tmp_path, [Gradient(samples=2), Occlusion(samples=2)], max_epochs=1).fit(
            module, tiny.loader(), tiny.loader(16)
        )
    assert len([one for one in caught if "scripted or traced part" in str(one.message)]) == 1
    assert not [record["error"] for record in tiny.records(tmp_path) if record["error"]]


def test_tensors_of_subclasses_are_plain_inside() -> None:
    class Special(torch.Tensor):
        pass

    model, kinds = Net().eval(), []
    model.body[0].register_forward_hook(lambda _, inputs, output: kinds.extend(map(type, (*inputs, output))))
    special = images().as_subclass(Special)
    for technique in ("gradient_x_input", "grad_cam", "occlusion", "guided_backprop", "smoothgrad"):
        found = getattr(V, technique)(model, special, 1)
        assert type(found) is Tensor
        torch.testing.assert_close(found, getattr(V, technique)(model, images(), 1))
    assert set(kinds) == {Tensor}


def test_a_function_of_the_users_own_with_gradients_inside_is_left_alone() -> None:
    modes = []

    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, inputs: Tensor) -> Tensor:
            modes.append(torch.is_grad_enabled())
            with torch.enable_grad():
                modes.append(torch.is_grad_enabled())
                with torch.no_grad():
                    modes.append(torch.is_grad_enabled())
            modes.append(torch.is_grad_enabled())
            return inputs.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            return gradients[0]

    class Uses(Net):
        def forward(self, images: Tensor) -> Tensor:
            with torch.no_grad():
                features = Own.apply(F.relu(self.body(images)))
            return self.head(features)

    torch.testing.assert_close(V.gradient(Uses().eval(), images(), 1), V.gradient(Net().eval(), images(), 1))
    assert modes == [False, True, False, False]
