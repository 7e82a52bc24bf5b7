"""Models that compute blocks again in the backward, to keep less: techniques give what they give without that."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vis_callbacks import functional as F
from vis_callbacks.model.feature_info import AcrossDepth
from vis_callbacks.model.features import feature_info, trace_layer_choices
from vis_callbacks.model.guard import undisturbed


class Net(nn.Module):
    def __init__(self, *, checkpointed: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3))
        self.b = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.GELU(), nn.Conv2d(16, 16, 3), nn.ReLU())
        self.head = nn.Linear(16, 5)
        self.checkpointed = checkpointed

    def forward(self, x: Tensor) -> Tensor:
        for block in (self.a, self.b):
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointed else block(x)
        return self.head(x.mean(dim=(2, 3)))


CASES: list[tuple[str, dict[str, Any]]] = [
    ("saliency", {}),
    ("integrated_gradients", {"steps": 4}),
    ("guided_backprop", {}),
    ("deconvnet", {}),
    *(("grad_cam", {"layer": layer}) for layer in (None, "a", "b", "a.1", "b.1", "b.3")),
    ("layer_cam", {"layer": "a.0"}),
    ("guided_grad_cam", {"layer": "b.1"}),
    ("activations", {"layer": "b.1"}),
    ("feature_inversion", {"layers": "b.1", "steps": 3, "progress": False}),
    ("deep_dream", {"layer": "b.1", "steps": 2, "octaves": 2, "progress": False}),
]


@pytest.mark.filterwarnings("ignore:.*GELU|.*gelu")
@pytest.mark.parametrize(("technique", "options"), CASES)
def test_a_technique_does_not_mind(technique: str, options: dict[str, Any]) -> None:
    images = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    plain, found = (
        getattr(F, technique)(Net(checkpointed=checkpointed).eval(), images, **options)
        for checkpointed in (False, True)
    )
    torch.testing.assert_close(found, plain)
    assert all(one.abs().max() > 0 for one in (found.values() if isinstance(found, dict) else [found]))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "resnet18", "vit_tiny_patch16_224"])
def test_a_switch_of_timm_is_off_while_looking_and_on_again(name: str) -> None:
    torch.manual_seed(0)
    size = {} if "resnet" in name else {"img_size": 64}
    model, images = timm.create_model(name, num_classes=5, **size).eval(), torch.rand(2, 3, 64, 64)
    again = timm.create_model(name, num_classes=5, **size).eval()
    again.load_state_dict(model.state_dict())
    again.set_grad_checkpointing()
    switches = [module for module in again.modules() if getattr(module, "grad_checkpointing", False)]
    assert switches
    assert feature_info(again, images).layers == feature_info(model, images).layers
    asked: dict[str, Any] = {"input_gradient": True, "activations": [AcrossDepth(3)], "gradients": [None]}
    with undisturbed(model):
        plain = trace_layer_choices(model, images, **asked)
    with undisturbed(again):
        found = trace_layer_choices(again, images, **asked)
        assert not any(module.grad_checkpointing for module in switches)
    assert all(module.grad_checkpointing for module in switches)
    assert found.gradients.keys() == plain.gradients.keys()
    torch.testing.assert_close(found.input_gradient, plain.input_gradient)
    for layer, gradient in plain.gradients.items():
        torch.testing.assert_close(found.gradients[layer], gradient)
        assert gradient.abs().max() > 0


@pytest.mark.parametrize("name", ["grad_checkpointing", "gradient_checkpointing", "use_checkpoint"])
def test_what_is_no_switch_is_left_alone(name: str) -> None:
    switch, table = nn.Identity(), nn.Identity()
    stages = [True, False]
    setattr(switch, name, True)
    setattr(table, name, stages)
    with undisturbed(nn.Sequential(switch, table)):
        assert getattr(switch, name) is False
        assert getattr(table, name) is stages
    assert getattr(switch, name) is True
    assert stages == [True, False]
