"""Saliency on timm models equals captum's, as a function and through a Trainer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import captum.attr
import pytest
import timm
import torch
from torch import Tensor

from tests.helpers import tiny
from vis_callbacks import Event, Panel, Saliency
from vis_callbacks.functional import saliency

MODELS = ("test_resnet", "test_efficientnet", "test_vit")


def theirs(model: torch.nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    return captum.attr.Saliency(model).attribute(images.clone().requires_grad_(), targets).amax(dim=1, keepdim=True)


def build(name: str) -> tuple[torch.nn.Module, Tensor]:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=4)
    side = model.pretrained_cfg["input_size"][-1]
    return model, torch.randn(2, 3, side, side)


@pytest.mark.parametrize("name", MODELS)
def test_the_function_equals_captum(name: str) -> None:
    model, images = build(name)
    targets = torch.tensor([3, 1])
    found = saliency(model.train(), images, targets)
    assert found.abs().max() > 0
    torch.testing.assert_close(found, theirs(model.eval(), images, targets), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_the_callback_equals_captum(name: str, tmp_path: Path) -> None:
    class Kept(Saliency):
        def visualize(self, event: Event) -> Iterable[Panel]:
            self.maps = self.attribute(event)
            return super().visualize(event)

    model, images = build(name)
    callback = Kept(samples=images)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, torch.zeros(2).long()), batch_size=2)
    tiny.trainer(tmp_path, [callback]).validate(tiny.module(net=model), loader, verbose=False)
    model.eval()
    expected = theirs(model, images, model(images).argmax(dim=1))
    torch.testing.assert_close(callback.maps, expected, rtol=1e-4, atol=1e-6)
