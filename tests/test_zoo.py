"""Every technique by default on classifiers of many kinds: finite, of the right size, and nothing left changed."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from tests.helpers.zoo import families, settle, try_family, try_model
from vis_callbacks import functional

# Said once for models without ReLU, as it should be.
pytestmark = pytest.mark.filterwarnings("ignore:.*rule was not made")

# The whole zoo is in benchmarks/zoo.py; these differ most in how they hold their maps.
VARIED = (
    "byobnet",
    "convnext",
    "edgenext",
    "efficientnet",
    "levit",
    "mambaout",
    "maxxvit",
    "nfnet",
    "pvt_v2",
    "resnet",
    "vision_transformer",
    "vision_transformer_relpos",
)
ATTENDING = ("levit", "maxxvit", "pvt_v2", "vision_transformer", "vision_transformer_relpos")


class Small(nn.Module):
    def __init__(
        self, channels: int = 3, outputs: int = 5, wrap: Callable[[Tensor], Any] = lambda logits: logits
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.relu = nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(inplace=True)
        self.head = nn.Linear(16, outputs)
        self.wrap = wrap

    def features(self, images: Tensor) -> Tensor:
        return self.relu(self.conv2(self.relu(self.bn1(self.conv1(images)))))

    def forward(self, images: Tensor) -> Any:
        return self.wrap(self.head(self.features(images).mean(dim=(2, 3))))


class Frozen(Small):
    def __init__(self) -> None:
        super().__init__()
        for parameter in [*self.conv1.parameters(), *self.bn1.parameters()]:
            parameter.requires_grad_(False)


KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "grayscale": (lambda: Small(1), (1, 28, 28)),
    "four channels": (lambda: Small(4), (4, 32, 32)),
    "one logit": (lambda: Small(outputs=1), (3, 32, 32)),
    "one logit, squeezed": (lambda: Small(outputs=1, wrap=lambda logits: logits[:, 0]), (3, 32, 32)),
    "multi-label": (lambda: Small(outputs=20), (3, 32, 32)),
    "with .logits": (lambda: Small(wrap=lambda logits: SimpleNamespace(loss=None, logits=logits)), (3, 32, 32)),
    "dict": (lambda: Small(wrap=lambda logits: {"logits": logits}), (3, 32, 32)),
    "tuple": (lambda: Small(wrap=lambda logits: (logits, logits[:, :2])), (3, 32, 32)),
    "non-square": (Small, (3, 24, 40)),
    "8x8": (lambda: Small(1), (1, 8, 8)),
    "frozen": (Frozen, (3, 32, 32)),
    "channels_last": (lambda: Small().to(memory_format=torch.channels_last), (3, 32, 32)),  # type: ignore[call-overload]
    "non-square transformer": (
        lambda: timm.create_model("test_vit", img_size=(32, 64), patch_size=8, num_classes=5),
        (3, 32, 64),
    ),
    "torchvision transformer": (
        lambda: torchvision.models.VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=5),
        (3, 32, 32),
    ),
    "torchvision swin": (
        lambda: torchvision.models.SwinTransformer([2, 2], 24, [2, 2], [2, 2], [4, 4], num_classes=5),
        (3, 32, 32),
    ),
    "googlenet with auxiliary heads": (
        lambda: torchvision.models.googlenet(weights=None, init_weights=False, num_classes=5),
        (3, 64, 64),
    ),
    "inception with auxiliary heads": (
        lambda: torchvision.models.inception_v3(weights=None, init_weights=False, num_classes=5),
        (3, 96, 96),
    ),
}


@pytest.mark.parametrize("family", VARIED)
def test_every_technique_on_a_family(family: str) -> None:
    outcome = try_family(family)
    assert outcome.failures == {}
    # EdgeNeXt's is between channels: it has weights, but no map.
    flows = ["attention_relevance", "attention_rollout"]
    without = {"edgenext": flows}.get(family, [] if family in ATTENDING else ["attention", *flows])
    assert sorted(outcome.unattended) == without


@pytest.mark.parametrize("kind", KINDS)
def test_every_technique_on_a_kind_of_classifier(kind: str) -> None:
    make, shape = KINDS[kind]
    torch.manual_seed(0)
    model = make()
    images = torch.rand(1, *shape) * 2 - 1
    if kind == "channels_last":
        images = images.to(memory_format=torch.channels_last)
    if kind == "non-square transformer":
        try:
            model.eval()(images)
        except RuntimeError as error:
            pytest.skip(f"timm {timm.__version__} cannot run it: {error}")
    settle(model.eval(), images)
    assert try_model(model, images).failures == {}


def test_the_runner_tells_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def bad(model: nn.Module, images: Tensor) -> Tensor:
        model.train(False)
        return torch.full_like(images, torch.nan)

    monkeypatch.setattr(functional, "saliency", bad)
    monkeypatch.setattr(functional, "__all__", ["saliency", "filters"])
    failures = try_model(Small(), torch.rand(1, 3, 16, 16)).failures
    assert list(failures) == ["saliency"]
    assert "changed" in failures["saliency"]
    monkeypatch.setattr(functional, "saliency", lambda model, images: images[:, :1] * torch.nan)
    assert "finite" in try_model(Small(), torch.rand(1, 3, 16, 16)).failures["saliency"]


def test_all_families_are_known() -> None:
    assert set(VARIED) <= set(families())
    assert len(families()) > 80
