"""What every technique promises, whatever it computes."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.attribution.cases import OTHER_NETS, TECHNIQUES, Technique, network, random_images, same
from vis_callbacks import ConfigurationError, LayerError

every = pytest.mark.parametrize("technique", TECHNIQUES, ids=repr)
every_cam = pytest.mark.parametrize("technique", [one for one in TECHNIQUES if one.cam], ids=repr)
every_chunked = pytest.mark.parametrize("technique", [one for one in TECHNIQUES if one.chunked], ids=repr)


@every
def test_gives_finite_float32_maps_of_the_images_size(technique: Technique) -> None:
    images = random_images(2, height=20, width=28)
    maps = technique(technique.net().eval(), images)
    assert maps.shape == ((2, 1, 20, 28) if technique.one_channel else (2, 3, 20, 28))
    assert maps.dtype == torch.float32
    assert not maps.requires_grad
    assert maps.isfinite().all()
    assert maps.std() > 0
    assert technique.signed == bool((maps < 0).any())


@every
@pytest.mark.parametrize("channels", [1, 4])
def test_other_numbers_of_channels(technique: Technique, channels: int) -> None:
    maps = technique(technique.net(channels).eval(), random_images(1, channels, 8, 8))
    assert maps.shape == (1, 1 if technique.one_channel else channels, 8, 8)


@every
def test_a_batch_equals_its_images(technique: Technique) -> None:
    model, images = technique.net().eval(), random_images(3, height=16, width=16)
    targets = torch.tensor([4, 0, 2])
    singles = [technique(model, images[row : row + 1], targets[row : row + 1]) for row in range(3)]
    assert same(technique(model, images, targets), torch.cat(singles))


@every
def test_targets(technique: Technique) -> None:
    model, images = technique.net().eval(), random_images(2, height=16, width=16)
    predicted = model(images).argmax(dim=1)
    assert torch.equal(technique(model, images), technique(model, images, predicted))
    assert torch.equal(technique(model, images, 3), technique(model, images, torch.tensor([3, 3])))
    least = technique(model, images, lambda logits: logits.argmin(dim=1))
    assert torch.equal(least, technique(model, images, model(images).argmin(dim=1)))


@every
def test_the_contrast_of_two_logits(technique: Technique) -> None:
    class Difference(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> Tensor:
            logits = self.model(images)
            return torch.stack([logits[:, 1] - logits[:, 4], logits[:, 0]], dim=1)

    model, images = technique.net().eval(), random_images(2, height=16, width=16)
    contrast = technique(model, images, torch.tensor([[1, 4], [1, 4]]))
    assert same(contrast, technique(Difference(model), images, 0), 1e-3)


@every
def test_a_head_of_one_logit(technique: Technique) -> None:
    model, images = technique.net().eval(), random_images(2, height=16, width=16)
    model[-1] = nn.Linear(12, 1)
    assert technique(model, images).isfinite().all()
    if repr(technique) in ("gradient", "occlusion"):
        assert same(technique(model, images, 0), -technique(model, images, 1))


@every
@pytest.mark.parametrize(
    "setting", ["train", "frozen", "no_grad", "inference_mode", "channels_last", "inference_images", "bfloat16 images"]
)
def test_the_result_does_not_depend_on_the_setting(technique: Technique, setting: str) -> None:
    model, images = technique.net().eval(), random_images(2, height=16, width=16).bfloat16().float()
    expected = technique(model, images, 1)
    if setting == "train":
        model.train()
    elif setting == "frozen":
        model.requires_grad_(False)
    elif setting == "channels_last":
        model, images = model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    elif setting == "inference_images":
        with torch.inference_mode():
            images = images.clone()
    elif setting == "bfloat16 images":
        images = images.bfloat16()
    grad_mode = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}.get(setting, torch.enable_grad)
    with grad_mode():
        found = technique(model, images, 1)
    assert same(found, expected, 1e-2 if setting == "bfloat16 images" else 1e-4)
    assert not found.is_inference()


@every
def test_the_images_may_be_changed_in_place_by_the_model(technique: Technique) -> None:
    class Normalizing(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> Tensor:
            return self.model(images.sub_(0.5).div_(0.25))

    images = random_images(2, height=16, width=16)
    before = images.clone()
    assert technique(Normalizing(technique.net()).eval(), images, 1).isfinite().all()
    assert torch.equal(images, before)


@every
def test_leaves_no_trace(technique: Technique) -> None:
    model, images = technique.net().train(), random_images(2, height=16, width=16)
    model[0].requires_grad_(False)
    model(images).sum().backward()
    modules, state = list(model.modules()), {name: value.clone() for name, value in model.state_dict().items()}
    gradients = [(parameter, parameter.grad, parameter.requires_grad) for parameter in model.parameters()]
    values = [None if grad is None else grad.clone() for _, grad, _ in gradients]
    training = [module.training for module in modules]
    generators = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()

    technique(model, images)

    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    for (parameter, grad, requires_grad), value in zip(gradients, values, strict=True):
        assert parameter.grad is grad
        assert parameter.requires_grad == requires_grad
        assert value is None or torch.equal(grad, value)
    assert [module.training for module in modules] == training
    assert not any(
        hooks
        for module in modules
        for name, hooks in vars(module).items()
        if "hooks" in name and isinstance(hooks, dict)
    )
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert np.array_equal(np.random.get_state()[1], generators[1])
    assert random.getstate() == generators[2]


@every
def test_two_calls_give_the_same(technique: Technique) -> None:
    model, images = technique.net(), random_images(2, height=16, width=16)
    first = technique(model, images)
    torch.manual_seed(99)
    assert torch.equal(first, technique(model, images))


@every_chunked
@pytest.mark.parametrize("chunk_size", [1, 3, 1000])
def test_the_chunk_size_has_no_effect(technique: Technique, chunk_size: int) -> None:
    model, images = technique.net().eval(), random_images(3, height=16, width=16)
    assert same(technique(model, images, 1, chunk_size=chunk_size), technique(model, images, 1))


@every_chunked
def test_chunks_are_halved_when_memory_runs_out(technique: Technique) -> None:
    class Small(nn.Module):
        """A model on a device with memory for three images."""

        def __init__(self) -> None:
            super().__init__()
            self.model = technique.net()

        def forward(self, images: Tensor) -> Tensor:
            if len(images) > 3:
                raise torch.OutOfMemoryError("out of memory. Tried to allocate much.")
            return self.model(images)

    images = random_images(2, height=16, width=16)
    expected = technique(technique.net().eval(), images, 1)
    layer = {"layer": "model.4"} if technique.cam else {}
    assert same(technique(Small().eval(), images, 1, **layer), expected)


@every_cam
def test_a_layer_by_name_and_by_the_end_of_its_name(technique: Technique) -> None:
    model, images = nn.Sequential(technique.net()).eval(), random_images(1, height=16, width=16)
    assert torch.equal(technique(model, images, layer="0.4"), technique(model, images))
    assert not torch.equal(technique(model, images, layer="0.2"), technique(model, images))


@every_cam
def test_negative_evidence_gives_zeros(technique: Technique) -> None:
    model = technique.net().eval()
    with torch.no_grad():
        model[-1].weight.copy_(-model[-1].weight.abs())
        model[-1].bias.fill_(10.0)
    images = random_images(2, height=16, width=16)
    maps = technique(model, images, 1)
    assert maps.isfinite().all()
    if repr(technique) not in ("eigen_cam", "score_cam"):
        assert not maps.any()


@every_cam
def test_a_layer_that_gives_nothing(technique: Technique) -> None:
    model = technique.net().eval()
    with torch.no_grad():
        model[3].weight.zero_()
        model[3].bias.fill_(-1.0)
    assert not technique(model, random_images(2, height=16, width=16), 1).any()


@every_cam
def test_a_wrong_layer_is_named(technique: Technique) -> None:
    with pytest.raises(LayerError, match="no layer 'conv9'"):
        technique(technique.net(), random_images(1, height=16, width=16), layer="conv9")
    with pytest.raises(LayerError, match="no spatial map"):
        technique(technique.net(), random_images(1, height=16, width=16), layer="8")


@every
@pytest.mark.parametrize(
    ("images", "targets", "message"),
    [
        (torch.rand(3, 16, 16), None, r"expected \(N, C, H, W\)"),
        (torch.ones(1, 3, 16, 16, dtype=torch.uint8), None, "floating"),
        (torch.rand(2, 3, 16, 16), torch.tensor([1, 2, 3]), r"expected \(2,\)"),
        (torch.rand(2, 3, 16, 16), 5, "from 0 to 4"),
    ],
)
def test_errors_say_what_was_expected(technique: Technique, images: Tensor, targets: Any, message: str) -> None:
    if repr(technique) in ("eigen_cam", "attention_rollout") and targets is not None:
        pytest.skip("does not look at a class")
    with pytest.raises(ConfigurationError, match=message):
        technique(technique.net(), images, targets)


@pytest.mark.filterwarnings("ignore:.* rule was not made")
@pytest.mark.parametrize("name", OTHER_NETS)
@every
def test_other_architectures(technique: Technique, name: str) -> None:
    if technique.attends and name not in ("vit", "swin"):
        with pytest.raises(ConfigurationError, match="has no attention"):
            technique(network(name), random_images(1).double(), 1)
        return
    options = {"score_cam": {"top_k": 3}, "occlusion": {"window": 32}}.get(repr(technique), {})
    maps = technique(network(name), random_images(1).double(), 1, **options)
    assert maps.shape == (1, 1 if technique.one_channel else 3, 64, 64)
    assert maps.dtype == torch.float32
    assert maps.isfinite().all()
    # Where all evidence is against the class a CAM is zero.
    assert maps.std() > 0 or technique.cam
