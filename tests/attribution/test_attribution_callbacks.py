"""The attribution callbacks: what they show, what they share, and what their options change."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vis_callbacks
from tests.attribution.cases import Technique, network, random_images, same, small_net
from tests.helpers import tiny
from tests.helpers.techniques import attributions, few
from vis_callbacks import AttributionCallback, Event, LayerError, Moment, Samples
from vis_callbacks.attribution.cam import GradientCamCallback
from vis_callbacks.attribution.gradient import InputGradientCallback
from vis_callbacks.attribution.layer_cam import layer_cam
from vis_callbacks.attribution.occlusion import occlusion
from vis_callbacks.attribution.relu_rules import deconvnet, guided_backprop
from vis_callbacks.attribution.score_cam import score_cam
from vis_callbacks.attribution.smoothgrad import smoothgrad
from vis_callbacks.data.normalization import Normalization
from vis_callbacks.event import SharedPass
from vis_callbacks.model.guard import undisturbed

SINGLE_PASS = [
    one
    for one in attributions()
    if issubclass(
        one,
        (
            InputGradientCallback,
            GradientCamCallback,
            vis_callbacks.LayerCAM,
            vis_callbacks.EigenCAM,
            vis_callbacks.FineCAM,
        ),
    )
]
OF_ATTENTION = [vis_callbacks.Attention, vis_callbacks.AttentionRollout, vis_callbacks.AttentionRelevance]
"""Techniques of one pass that need attention."""
HALF = Normalization((0.5,), (0.25,))


def event_for(*callbacks: AttributionCallback, model: nn.Module, images: Tensor) -> Event:
    samples = Samples(images, torch.arange(len(images)), tuple(map(str, range(len(images)))), normalization=HALF)
    event = Event(model, Moment(1, 10), shared=SharedPass(model, samples, callbacks[0].targets))
    assert event.shared is not None
    for callback in callbacks:
        event.shared.add(callback.needs(event))
    return event


def attributed(callback: AttributionCallback, model: nn.Module, images: Tensor) -> Tensor:
    with undisturbed(model):
        return callback.attribute(event_for(callback, model=model, images=images))


@pytest.mark.parametrize("kind", attributions())
@pytest.mark.parametrize("targets", ["predicted", "label", "contrast", 3])
def test_a_callback_shows_what_its_function_returns(kind: type[AttributionCallback], targets: Any) -> None:
    model, images = Technique(kind).net().eval(), random_images(2, height=16, width=12)
    with torch.no_grad():
        ranked = model(images).topk(2, dim=1).indices
    labels = torch.arange(2)
    contrast = torch.stack([ranked[:, 0], torch.where(labels == ranked[:, 0], ranked[:, 1], labels)], dim=1)
    chosen = {"predicted": None, "label": labels, "contrast": contrast, 3: 3}[targets]
    assert same(attributed(kind(targets=targets), model, images), kind.function(model, images, chosen))


@pytest.mark.parametrize("kind", [one for one in attributions() if one not in OF_ATTENTION])
@pytest.mark.parametrize("blind", [True, False])
def test_a_map_that_is_zero_everywhere_is_said_to_be(kind: type[AttributionCallback], blind: bool) -> None:
    class Net(nn.Sequential):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = super().forward(images)
            return logits * (not blind) + torch.arange(3.0)

    model = Net(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    callback = kind(**few(kind), display="heatmap")
    for panel in vis_callbacks.look(model, random_images(2), callback).panels:
        said = panel.caption.endswith(("zero everywhere", "do not depend on this layer", "is positive"))
        assert said != panel.all_tiles[-1].values.any()


@pytest.mark.parametrize("name", ["small", "vgg", "vit", pytest.param("swin", marks=pytest.mark.slow)])
def test_single_pass_techniques_share_one_forward_and_one_backward(name: str) -> None:
    """Also at a model's first event, where the same passes find out about its layers."""
    model = small_net().eval() if name == "small" else copy.deepcopy(network(name)).float()
    images = random_images(2, height=16, width=16) if name == "small" else random_images(2)
    assert len(SINGLE_PASS) >= 9
    makers = [vis_callbacks.Activations, *SINGLE_PASS, *(OF_ATTENTION if name in ("vit", "swin") else [])]
    first = [make() for make in makers]
    assert passes_of(first, model, images) == {"forward": 1, "backward": 1}
    later = [make() for make in makers]
    assert passes_of(later, model, images) == {"forward": 1, "backward": 1}
    with undisturbed(model):
        known = event_for(*later, model=model, images=images)
        unknown = event_for(*first, model=copy.deepcopy(model), images=images)
        for callback, again in zip(first, later, strict=True):
            for panel, same_panel in zip(callback.visualize(unknown), again.visualize(known), strict=True):
                assert panel.caption == same_panel.caption
                for tile, same_tile in zip(panel.all_tiles, same_panel.all_tiles, strict=True):
                    assert same(tile.values, same_tile.values, 1e-5)


def passes_of(callbacks: Sequence[Any], model: nn.Module, images: Tensor) -> Counter[str]:
    passes: Counter[str] = Counter()

    def count(_: nn.Module, __: Any, logits: Tensor) -> None:
        passes.update(["forward"])
        logits.register_hook(lambda _: passes.update(["backward"]))

    counting = model.register_forward_hook(count)
    with undisturbed(model):
        event = event_for(*callbacks, model=model, images=images)
        for callback in callbacks:
            list(callback.visualize(event))
    counting.remove()
    return passes


class TestOptions:
    model = small_net().eval()
    images = random_images(2, height=16, width=16)

    def found(self, callback: AttributionCallback) -> Tensor:
        return attributed(callback, self.model, self.images)

    def test_layer(self) -> None:
        assert not torch.equal(self.found(vis_callbacks.GradCAM(layer="2")), self.found(vis_callbacks.GradCAM()))

    def test_layers(self) -> None:
        for layers in ("2", ["2", "4"]):
            expected = layer_cam(self.model, self.images, layer=layers)
            assert same(self.found(vis_callbacks.LayerCAM(layers=layers)), expected)
            assert same(self.found(vis_callbacks.LayerCAM(layer=layers)), expected)

    def test_top_k(self) -> None:
        assert same(self.found(vis_callbacks.ScoreCAM(top_k=2)), score_cam(self.model, self.images, top_k=2))

    def test_noise(self) -> None:
        found = self.found(vis_callbacks.SmoothGrad(noisy_samples=3, noise_level=0.5))
        assert same(found, smoothgrad(self.model, self.images, samples=3, noise_level=0.5))

    @pytest.mark.parametrize(("name", "rule"), [("GuidedBackprop", guided_backprop), ("Deconvnet", deconvnet)])
    def test_one_channel_of_one_layer(self, name: str, rule: Any) -> None:
        callback = getattr(vis_callbacks, name)(layer="2", channel=3)
        assert same(self.found(callback), rule(self.model, self.images, layer="2", channel=3))
        with undisturbed(self.model):
            event = event_for(callback, model=self.model, images=self.images)
            assert callback.caption(event, 0) == "for channel 3 of 2"

    def test_the_covering_pixel(self) -> None:
        callback = vis_callbacks.Occlusion(window=6, stride=(4, 5), pixel=0.25, score="probability")
        # Of mean 0.5 and deviation 0.25, a pixel of 0.25 is -1 in model space.
        expected = occlusion(self.model, self.images, None, 6, (4, 5), -1.0, score="probability")
        assert same(self.found(callback), expected)


@pytest.mark.parametrize("name", ["GradCAM", "EigenCAM", "LayerCAM", "GuidedBackprop"])
def test_a_wrong_layer_is_said_before_training(name: str, tmp_path: Path) -> None:
    options = {"layers": ["conv1", "conv9"]} if name == "LayerCAM" else {"layer": "conv9"}
    trainer = tiny.trainer(tmp_path, [getattr(vis_callbacks, name)(**options)])
    with pytest.raises(LayerError, match="no layer 'conv9'"):
        trainer.fit(tiny.module(), tiny.loader(), tiny.loader(8))


def test_all_together_in_a_training(tmp_path: Path) -> None:
    callbacks = [kind(samples=2, on_error="raise", **few(kind.__init__)) for kind in attributions()]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=vis_callbacks.VisualizationWarning)
        tiny.trainer(tmp_path, callbacks).fit(tiny.module(), tiny.loader(), tiny.loader(8))
    shown = Counter(record["callback"] for record in tiny.records(tmp_path))
    # Two samples before training and after each of two epochs.
    assert shown == dict.fromkeys([kind.__name__ for kind in attributions()], 6)
