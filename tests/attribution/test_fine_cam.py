from __future__ import annotations

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.attribution.cases import random_images, same
from vis_callbacks import FineCAM
from vis_callbacks.attribution.fine_cam import CHOICES, fine_cam, fine_cam_from_trace, finer_layouts
from vis_callbacks.attribution.grad_cam import grad_cam
from vis_callbacks.attribution.hires_cam import hires_cam
from vis_callbacks.event import Event, Moment, Samples, SharedPass
from vis_callbacks.model import Layout, trace_in_chunks
from vis_callbacks.model.features import find_layout
from vis_callbacks.model.guard import undisturbed


def finer_of(model: nn.Module, images: Tensor, deep: Layout) -> list[Layout]:
    return finer_layouts(deep, [find_layout(model, images, choice) for choice in CHOICES])


def outputs_and_gradients(model: nn.Module, images: Tensor, target: int, *layers: str) -> list[tuple[Tensor, Tensor]]:
    """Return what layers give and its gradient, by torch's own hooks."""
    seen: dict[str, Tensor] = {}
    modules = dict(model.named_modules())
    handles = [
        modules[name].register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out))
        for name in layers
    ]
    logits = model(images)
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(logits[:, target].sum(), [seen[name] for name in layers])
    return [(seen[name].detach(), gradient) for name, gradient in zip(layers, gradients, strict=True)]


def test_it_is_the_evidence_beyond_activity_times_that_of_two_finer_layers() -> None:
    torch.manual_seed(0)
    model, images = timm.create_model("test_resnet", num_classes=5).eval(), random_images(2, height=256, width=224)
    coarse = find_layout(model, images)
    assert coarse.layer == "layer4"
    assert [(one.layer, one.size) for one in finer_of(model, images, coarse)] == [
        ("layer1", (64, 56)),
        ("layer2", (32, 28)),
    ]
    signs = set()
    for target in range(5):
        (deep, slope), *finer = outputs_and_gradients(model, images, target, "layer4", "layer1", "layer2")
        expected = []
        for n in range(2):
            evidence, activity = torch.zeros(deep.shape[2:]), torch.zeros(deep.shape[2:])
            for channel, gradient in zip(deep[n], slope[n], strict=True):
                evidence += channel * gradient.mean()
                activity += channel.abs()
            usual = float(evidence.mean())
            signs.add(usual > 0)
            beyond = evidence - max(usual, 0) / 2 * activity / activity.mean()
            found = F.interpolate(beyond.clamp(min=0)[None, None], (256, 224), mode="bilinear")
            for output, gradient in finer:
                detail = (output[n] * gradient[n]).sum(dim=0).clamp(min=0)
                shown = F.interpolate(detail[None, None], (256, 224), mode="bilinear")
                found = found * (shown / (float(shown.mean()) or 1) + 2) / 3
            expected.append(found)
        assert same(fine_cam(model, images, target), torch.cat(expected))
    # Both cases were compared.
    assert signs == {True, False}


class Silent(nn.Module):
    """Its first map counts against every class, where it counts."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.deep, self.head = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 8, 3, 8, 1), nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.deep(-self.fine(images).relu()).relu().mean(dim=(2, 3)))


def test_where_the_fine_layer_has_no_evidence_the_deep_layer_stays() -> None:
    torch.manual_seed(0)
    model, images = Silent().eval(), random_images(2, height=64, width=64)
    for target in range(5):
        found, coarse = fine_cam(model, images, target), grad_cam(model, images, target)
        assert found.isfinite().all()
        assert torch.equal(found.amax(dim=(1, 2, 3)) > 0, coarse.amax(dim=(1, 2, 3)) > 0)
        assert not found[coarse == 0].any()


class TwoObjects(nn.Module):
    """Each channel sees one of two objects; the first class hangs on the first, and a little on the second."""

    def __init__(self) -> None:
        super().__init__()
        self.sees = nn.Conv2d(2, 2, 8, 8, bias=False)
        self.head = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.sees.weight.zero_()
            self.sees.weight[[0, 1], [0, 1]] = 1 / 64
            self.head.weight.copy_(torch.tensor([[1.0, 0.2], [0.0, 1.0]]))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.sees(images).relu().mean(dim=(2, 3)))


def test_an_object_that_hardly_counts_for_the_class_is_dark() -> None:
    images = torch.zeros(1, 2, 64, 64)
    images[:, 0, 8:24, 8:24] = 1
    images[:, 1, 40:56, 40:56] = 1
    model = TwoObjects().eval()
    # The deep layer is the finest as well, and counts once.
    assert [one.layer for one in finer_of(model, images, find_layout(model, images))] == ["sees"]
    coarse, found = grad_cam(model, images, 0), fine_cam(model, images, 0)
    assert coarse[0, 0, 48, 48] > 0
    assert not found[..., 40:56, 40:56].any()
    assert found[0, 0, 16, 16] > 0


def test_a_coarser_layer_draws_nothing() -> None:
    torch.manual_seed(0)
    # Of images of 28x28, the layer of stride 8 has 4x4 places, fewer than the deep one's.
    model, images = timm.create_model("test_resnet", num_classes=5).eval(), random_images(2, height=28, width=28)
    deep = find_layout(model, images)
    assert deep.size == (7, 7)
    assert finer_of(model, images, deep) == [deep]
    detail = hires_cam(model, images, 3, deep.layer)
    found = fine_cam(model, images, 3)
    alone = fine_cam_from_trace(trace_in_chunks(model, images, 3, gradients=[deep]), deep, [])
    assert same(found, alone * (detail / detail.mean(dim=(2, 3), keepdim=True) + 2) / 3)


def test_the_callback_names_the_layers_that_drew_it() -> None:
    model, images = timm.create_model("test_resnet", num_classes=5).eval(), random_images(2, height=256, width=224)
    callback = FineCAM()
    samples = Samples(images, torch.arange(2), ("a", "b"))
    event = Event(model, Moment(1, 10), shared=SharedPass(model, samples, "predicted"))
    assert event.shared is not None
    event.shared.add(callback.needs(event))
    with undisturbed(model):
        shown = callback.attribute(event)
        remark = callback.remark(event, 0, shown[0])
    assert remark.startswith("layer4, 8×7")
    assert remark.endswith("finer by layer1, 64×56 and layer2, 32×28")
