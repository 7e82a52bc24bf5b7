"""Receptive fields, measured: equal to the closed form where there is one, and none where units see everything."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from vis_callbacks.errors import LayerError
from vis_callbacks.model.receptive_field import ReceptiveField, Window, receptive_field, receptive_fields
from vis_callbacks.model.summary import layers_table, summarize_layers


def closed_form(layers: Sequence[tuple[int, int, int, int]]) -> Window:
    """Size, stride and offset behind layers of kernel, stride, padding and dilation, by the usual recurrence."""
    size, jump, offset = 1, 1, 0
    for kernel, stride, padding, dilation in layers:
        size += (kernel - 1) * dilation * jump
        offset -= padding * jump
        jump *= stride
    return Window(size, jump, offset)


def stack(layers: Sequence[tuple[int, int, int, int]]) -> nn.Sequential:
    parts: list[nn.Module] = []
    for index, (kernel, stride, padding, dilation) in enumerate(layers):
        parts += [nn.Conv2d(1 if index == 0 else 2, 2, kernel, stride, padding, dilation), nn.BatchNorm2d(2), nn.ReLU()]
    return nn.Sequential(nn.Sequential(*parts), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))


@pytest.mark.parametrize(
    "layers",
    [
        [(3, 1, 1, 1)],
        [(3, 1, 1, 1), (3, 1, 1, 1), (2, 2, 0, 1), (3, 1, 1, 1), (3, 1, 1, 1), (2, 2, 0, 1), (3, 1, 1, 1)],
        [(7, 2, 3, 1), (3, 2, 1, 1)],
        [(3, 1, 2, 2), (3, 1, 4, 4), (3, 1, 8, 8)],
        [(5, 3, 0, 1), (3, 3, 0, 2)],
        [(1, 2, 0, 1), (3, 1, 1, 1)],
        [(4, 4, 0, 1), (2, 2, 0, 1)],
    ],
    ids=["3x3", "vgg", "resnet stem", "dilated", "stride 3", "strided 1x1", "patches"],
)
def test_it_is_the_closed_form(layers: Sequence[tuple[int, int, int, int]]) -> None:
    window = closed_form(layers)
    assert receptive_field(stack(layers), torch.rand(1, 1, 64, 64), "0") == ReceptiveField(window, window)


def test_down_and_across_differ() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, (3, 7), (1, 2), (1, 0), (4, 1)), nn.AdaptiveMaxPool2d(1), nn.Flatten())
    field = receptive_field(model, torch.rand(1, 3, 40, 40), "0")
    assert field == ReceptiveField(Window(9, 1, -1), Window(7, 2, 0))
    assert str(field) == "9x7, stride 1x2"


def test_the_longest_branch_counts() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.short, self.long, self.last = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 5, padding=2), nn.ReLU()
            self.head = nn.Linear(2, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.last(self.short(images) + self.long(images)).mean(dim=(2, 3)))

    model = Branches()
    found = receptive_fields(model, torch.rand(1, 1, 16, 16), ["short", "long", "last"])
    assert {name: field and field.down.size for name, field in found.items()} == {"short": 1, "long": 5, "last": 5}


def test_resnet_18() -> None:
    # Known values, Araujo et al., Distill 2019.
    layers = {"maxpool": 11, "layer1": 43, "layer2": 99, "layer3": 211}
    model = timm.create_model("resnet18", num_classes=3)
    fields = receptive_fields(model, torch.rand(1, 3, 224, 224), list(layers))
    assert {name: field and field.down.size for name, field in fields.items()} == layers
    field = fields["layer3"]
    assert field is not None
    assert field.down == Window(211, 16, -105)


def test_a_head_for_one_image_size_does_not_matter() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3, 2), nn.Flatten(), nn.Linear(2 * 12 * 12, 3))
    field = receptive_field(model, torch.rand(1, 1, 28, 28), "1")
    assert field is not None
    assert field.down == Window(5, 2, 0)


@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (lambda: timm.create_model("test_vit", img_size=64), "blocks.0"),
        (lambda: timm.create_model("swin_tiny_patch4_window7_224", img_size=64, window_size=4), "layers.0.blocks.0"),
        (lambda: timm.create_model("mobilenetv3_small_050"), "blocks.0"),
        (lambda: torchvision.models.resnet18(), "fc"),
    ],
    ids=["attention", "windows", "squeeze and excitation", "logits"],
)
def test_there_is_none_where_units_see_everything_or_no_moving_window(make: object, layer: str) -> None:
    assert callable(make)
    assert receptive_field(make(), torch.rand(1, 3, 64, 64), layer) is None


def test_patches_of_a_transformer_of_fixed_size() -> None:
    field = receptive_field(timm.create_model("test_vit", img_size=64), torch.rand(1, 3, 64, 64), "patch_embed.proj")
    assert field is not None
    assert field.down == Window(16, 16, 0)


def test_group_norm_statistics_are_not_counted() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    field = receptive_field(model, torch.rand(1, 1, 16, 16), "2")
    assert field is not None
    assert field.down.size == 5


def test_boxes_are_cut_at_the_image() -> None:
    field = ReceptiveField(Window(7, 4, -3), Window(5, 2, 0))
    assert field.box(0, 0, (16, 10)) == (0, 0, 5, 4)
    assert field.box(3, 4, (16, 10)) == (8, 9, 10, 16)


def test_nothing_is_left_changed() -> None:
    model = stack([(3, 1, 1, 1)]).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    receptive_field(model, torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)), "0")
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(module.training and not module._forward_hooks for module in model.modules())


def test_an_unknown_layer_is_an_error() -> None:
    with pytest.raises(LayerError, match="no layer 'nowhere'"):
        receptive_field(stack([(3, 1, 1, 1)]), torch.rand(1, 1, 16, 16), "nowhere")


def test_layers_are_listed_with_their_maps_and_fields() -> None:
    model = stack([(3, 1, 1, 1), (3, 2, 1, 1)])
    summary = {layer.name: layer for layer in summarize_layers(model, torch.rand(1, 1, 16, 16))}
    assert list(summary) == ["0.0", "0.1", "0.2", "0.3", "0.4", "0.5", "0", "1", "2", "3"]
    last = summary["0"]
    assert (last.kind, last.shape, last.map_size) == ("Sequential", (1, 2, 8, 8), (8, 8))
    assert str(last.receptive_field) == "5, stride 2"
    assert last.is_default
    assert summary["3"].map_size is None
    lines = layers_table(model, torch.rand(1, 1, 16, 16)).splitlines()
    assert len(lines) == 1 + len(summary)
    assert lines[7].split() == "0 * Sequential 2 x 8 x 8 8 x 8 5, stride 2".split()


def test_a_model_without_maps_is_listed_too() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    assert [layer.map_size for layer in summarize_layers(model, torch.rand(1, 1, 4, 4))] == [None, None]
