"""Activations: maps of any layer, the channels that are chosen, and pictures that can be compared over time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from vis_callbacks.data.samples import Samples
from vis_callbacks.errors import ConfigurationError, LayerError
from vis_callbacks.event import Event, Moment, SharedPass
from vis_callbacks.inspection.activations import Activations, activations, choose_channels, scale_end
from vis_callbacks.model.guard import undisturbed
from vis_callbacks.output.render import render
from vis_callbacks.panel import Panel


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


def panels_of(callback: Activations, model: nn.Module, images: Tensor, epoch: int = 0) -> list[Panel]:
    count = len(images)
    samples = Samples(images, torch.zeros(count, dtype=torch.long), tuple(map(str, range(count))))
    with undisturbed(model):
        shared = SharedPass(model, samples, "predicted")
        event = Event(model, Moment(epoch, 0), 0, shared)
        shared.add(callback.needs(event))
        return list(callback.visualize(event))


def test_they_are_what_the_layer_gives() -> None:
    model, images = net().eval(), torch.rand(2, 3, 8, 12)
    with torch.no_grad():
        torch.testing.assert_close(activations(model, images, "0"), model[0](images))
        torch.testing.assert_close(activations(model, images, "3"), model[:4](images))
        torch.testing.assert_close(activations(model, images), model[:6](images))


def test_tokens_come_as_maps_without_the_class_token() -> None:
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=(16, 32), patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=4
    ).eval()
    images = torch.rand(2, 3, 16, 32)
    maps = activations(model, images, "blocks.0")
    assert maps.shape == (2, 24, 2, 4)
    with torch.no_grad():
        tokens = model.blocks[0](model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images)))))
    torch.testing.assert_close(maps[:, :, 1, 2], tokens[:, 1 + 1 * 4 + 2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_any_precision_gives_float32_and_leaves_the_model_in_training(dtype: torch.dtype) -> None:
    model = net().to(dtype).train()
    with torch.inference_mode():
        maps = activations(model, torch.rand(1, 3, 8, 8), "1")
    assert maps.dtype == torch.float32
    assert not maps.requires_grad
    assert all(module.training for module in model.modules())


def test_channels_are_chosen_by_strength_at_random_or_by_number() -> None:
    maps = torch.zeros(2, 5, 2, 2)
    maps[:, 3], maps[0, 1] = -4.0, 6.0
    assert choose_channels(maps, "strongest", 2) == [3, 1]
    assert choose_channels(maps, [4, 0], 1) == [4, 0]
    first, again, other = (choose_channels(torch.zeros(1, 50, 1, 1), "random", 5, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    with pytest.raises(ConfigurationError, match="channel 5: expected a number from 0 to 4"):
        choose_channels(maps, [5], 1)


def test_a_panel_for_each_sample_and_layer() -> None:
    panels = panels_of(Activations(["1", "5"], max_channels=4), net(), torch.rand(2, 3, 8, 8))
    assert [panel.name for panel in panels] == ["0/1", "1/1", "0/5", "1/5"]
    assert len(panels[0].all_tiles) == 5
    assert "4 (strongest at first) of 6 channels of 8×8" in panels[0].caption
    assert all(tile.kind == "response" for tile in panels[0].all_tiles[1:])
    assert render(panels[0]).ndim == 3


def test_layers_are_found_over_the_depth() -> None:
    callback = Activations(depth=2)
    panels = panels_of(callback, net(), torch.rand(1, 3, 8, 8))
    assert [panel.name for panel in panels] == ["0/1", "0/5"]


def test_channels_and_scale_stay_when_the_model_changes_and_after_a_restart() -> None:
    model, images = net(), torch.rand(1, 3, 8, 8)
    callback = Activations("1", max_channels=3)
    untrained = panels_of(callback, model, images, epoch=0)[0].all_tiles[1:]
    model[0].weight.data *= 2
    before = panels_of(callback, model, images, epoch=1)[0].all_tiles[1:]
    assert before[0].limit > untrained[0].limit
    model[0].weight.data = 3 * model[0].weight.flip(0)
    after = panels_of(callback, model, images, epoch=2)[0].all_tiles[1:]
    restarted = Activations("1", max_channels=3)
    restarted.load_state_dict(callback.state_dict())
    resumed = panels_of(restarted, model, images, epoch=3)[0].all_tiles[1:]
    for tiles in (after, resumed):
        assert [tile.caption for tile in tiles] == [tile.caption for tile in before]
        assert [tile.limit for tile in tiles] == [tile.limit for tile in before]
    assert not torch.equal(before[0].values, after[0].values)


@pytest.mark.parametrize(("scale", "same"), [("layer", True), ("channel", False)])
def test_scales_of_the_moment(scale: Any, same: bool) -> None:
    tiles = panels_of(Activations("1", scale=scale), net(), torch.rand(1, 3, 8, 8))[0].all_tiles[1:]
    assert (len({tile.limit for tile in tiles}) == 1) is same
    assert max(tile.limit or 0 for tile in tiles) == pytest.approx(max(float(tile.values.max()) for tile in tiles))


def spread(picture: Any) -> tuple[float, float]:
    """How dark the dark tenth of a picture is, and how bright the bright tenth, from 0 to 1."""
    brightness = torch.from_numpy(picture).float().mean(dim=2) / 255
    return float(brightness.quantile(0.1)), float(brightness.quantile(0.9))


class Outputs(nn.Module):
    """Gives maps like those of a trained layer: a few places respond."""

    def __init__(self, maps: Tensor, after: nn.Module) -> None:
        super().__init__()
        self.maps, self.after, self.head = maps, after, nn.Linear(maps.shape[0], 4)

    def forward(self, images: Tensor) -> Tensor:
        weight = images.mean(dim=(1, 2, 3), keepdim=True)
        return self.head(self.after(weight * 0 + self.maps).mean(dim=(2, 3)))


LAYERS = {"post-ReLU": nn.ReLU(), "GELU": nn.GELU(), "norm": nn.BatchNorm2d(16), "linear": nn.Identity()}


@pytest.mark.parametrize("outliers", [1, 100])
@pytest.mark.parametrize("kind", LAYERS)
def test_maps_are_neither_pale_nor_black(kind: str, outliers: int) -> None:
    torch.manual_seed(0)
    maps = torch.randn(16, 7, 7)
    maps[0] *= outliers  # as single channels of deep transformers do
    (panel,) = panels_of(Activations("after"), Outputs(maps, LAYERS[kind]), torch.rand(1, 3, 8, 8), epoch=1)
    dark, bright = spread(render(replace(panel, tiles=panel.all_tiles[2:]), text=False)[:, :])
    whole = torch.cat([tile.values.flatten() for tile in panel.all_tiles[2:]])
    assert dark < 0.2
    assert bright > 0.4
    # White, which is the page, is none of the colours of a small value.
    small = replace(panel, tiles=[replace(tile, values=tile.values * 0.05) for tile in panel.all_tiles[2:3]])
    assert spread(render(small, text=False))[1] < 0.2
    assert float(whole.abs().quantile(0.99)) <= 2 * (panel.all_tiles[2].limit or 0)


def test_the_scale_is_that_of_the_channels_shown() -> None:
    maps = torch.ones(1, 6, 4, 4)
    maps[:, 5] = 50
    assert scale_end(maps) == 1
    assert scale_end(maps[:, 5:]) == 50
    assert scale_end(torch.zeros(1, 3, 4, 4)) == 0
    assert scale_end(torch.full((1, 1, 2, 2), float("nan"))) == 0
    assert scale_end(torch.rand(2, 1, 1500, 1500)) == pytest.approx(0.99, abs=0.01)
    sparse = torch.zeros(1, 4, 10, 10)
    sparse[:, :, 0, 0] = 3
    assert scale_end(sparse) == 3


def test_a_layer_that_is_silent_at_first_gets_its_scale_later() -> None:
    model, images = net(), torch.rand(1, 3, 8, 8)
    bias = model[0].bias.data.clone()
    model[0].bias.data.fill_(-100)
    callback = Activations("1")
    panels_of(callback, model, images, epoch=1)
    model[0].bias.data.copy_(bias)
    panels_of(callback, model, images, epoch=2)
    assert callback.limits["1"] > 0.01


def test_signed_maps_say_which_colour_is_negative() -> None:
    (panel,) = panels_of(Activations("0"), net(), torch.rand(1, 3, 8, 8))
    assert "(blue: negative)" in panel.caption
    (panel,) = panels_of(Activations("1"), net(), torch.rand(1, 3, 8, 8))
    assert "negative" not in panel.caption


def test_a_wrong_layer_is_named() -> None:
    with pytest.raises(LayerError, match="no layer 'layer9'"):
        Activations("layer9").check(net())
    with pytest.raises(LayerError, match="no spatial map"):
        activations(net(), torch.rand(1, 3, 8, 8), "8")
