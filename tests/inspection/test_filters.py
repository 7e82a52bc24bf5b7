"""Filters: the weights as they are, of every layer that has any, and what is counted about them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from tests.helpers import tiny
from vis_callbacks import Event, Filters, LayerError, Moment
from vis_callbacks.functional import filters
from vis_callbacks.inspection.filters import dead_filters, duplicate_filters
from vis_callbacks.output.render import render
from vis_callbacks.panel import Panel


def panel_of(callback: Filters, model: nn.Module) -> Panel:
    (panel,) = callback.visualize(Event(model, Moment(0, 0)))
    return panel


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(3, 8, 5), (8, 3, 5, 5)),
        (nn.Conv2d(8, 8, 3, groups=8), (8, 1, 3, 3)),
        (nn.Conv2d(4, 6, 1), (6, 4, 1, 1)),
        (nn.Conv2d(1, 6, (3, 7)), (6, 1, 3, 7)),
        (nn.Conv2d(1, 1, 3), (1, 1, 3, 3)),
        (nn.ConvTranspose2d(2, 3, 4), (2, 3, 4, 4)),
        (nn.Conv1d(2, 5, 9), (5, 2, 1, 9)),
    ],
)
@pytest.mark.parametrize("display", ["auto", "rgb", "channels", "collated"])
def test_any_kernel_is_drawn(layer: nn.Module, shape: tuple[int, ...], display: str) -> None:
    model = nn.Sequential(nn.ReLU(), layer)
    assert filters(model).shape == shape
    torch.testing.assert_close(filters(model).flatten(), layer.weight.detach().flatten())
    picture = render(panel_of(Filters(display=display), model))  # type: ignore[arg-type]
    assert picture.ndim == 3
    assert len(set(map(tuple, picture.reshape(-1, 3)))) > 2


def test_a_linear_layer_is_shown_when_it_is_named() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    torch.testing.assert_close(filters(model, "1")[:, :, 0, 0], model[1].weight.detach())
    (tile,) = panel_of(Filters("1"), model).all_tiles
    assert tile.values.shape == (1, 5, 12)


class TestPixelsIntoALinearLayer:
    def mlp(self, *shape: int) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 6), nn.ReLU(), nn.Linear(6, 5))

    @pytest.mark.parametrize("shape", [(1, 28, 28), (3, 16, 16)])
    def test_its_weights_are_images_without_samples_where_they_can_be_squares(self, shape: tuple[int, ...]) -> None:
        model = self.mlp(*shape)
        tiles = panel_of(Filters(), model).all_tiles
        assert [tile.values.shape for tile in tiles] == [shape] * 6
        assert torch.equal(tiles[2].values, model[1].weight[2].detach().view(shape))
        # Those of another layer are no images.
        assert panel_of(Filters("3"), model).all_tiles[0].values.shape == (1, 5, 6)

    def test_in_a_training_they_have_the_samples_shape(self, tmp_path: Path) -> None:
        shown: list[Panel] = []

        class Kept(Filters):
            def visualize(self, event: Event) -> Iterable[Panel]:
                shown.extend(super().visualize(event))
                return shown[-1:]

        net = self.mlp(1, 8, 8)
        net[3] = nn.Linear(6, len(tiny.CLASSES))
        tiny.trainer(tmp_path, [Kept()], max_epochs=1).fit(tiny.module(net=net), tiny.loader(8), tiny.loader(8))
        assert shown[-1].name == "net.1"
        assert [tile.values.shape for tile in shown[-1].all_tiles] == [(1, 8, 8)] * 6
        assert torch.equal(shown[-1].all_tiles[3].values, net[1].weight[3].detach().view(1, 8, 8))

    def test_behind_a_convolution_there_are_no_pixels(self) -> None:
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, 5))
        assert panel_of(Filters("2"), model).all_tiles[0].values.shape == (1, 5, 64)


def test_a_transformers_patch_embedding_counts() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, num_classes=2)
    assert filters(model).shape == (192, 3, 8, 8)
    assert len(panel_of(Filters(max_filters=16), model).all_tiles) == 16


def test_the_subset_is_random_seeded_and_stays() -> None:
    model = nn.Conv2d(1, 100, 3)
    first, again = (panel_of(Filters(max_filters=10), nn.Sequential(model)) for _ in range(2))
    other = panel_of(Filters(max_filters=10, seed=1), nn.Sequential(model))
    values = [torch.stack([tile.values for tile in panel.all_tiles]) for panel in (first, again, other)]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])
    assert not torch.equal(values[0], model.weight[:10].detach())


def test_the_fixed_scale_stays_when_weights_grow() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    callback = Filters()
    before = panel_of(callback, model)
    with torch.no_grad():
        model[0].weight.mul_(0.5)
    after = panel_of(callback, model)
    assert {tile.limit for tile in before.all_tiles} == {tile.limit for tile in after.all_tiles}
    assert (render(before, text=False) != render(after, text=False)).any()
    own = Filters(scale="layer")
    assert panel_of(own, model).all_tiles[0].limit == pytest.approx(float(model[0].weight.detach().abs().max()))


def test_dead_and_duplicate_filters_are_counted() -> None:
    weight = torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[1] = 0
    weight[4] = 3 * weight[0] + 0.01 * weight[2]
    weight[5] = -weight[3]
    assert dead_filters(weight).tolist() == [False, True, False, False, False, False]
    assert duplicate_filters(weight).tolist() == [False, False, False, False, True, False]
    layer = nn.Conv2d(3, 6, 3)
    layer.weight.data = weight
    panel = panel_of(Filters(), nn.Sequential(layer))
    assert dict(panel.scalars) == {"dead": 1.0, "near_duplicates": 1.0}
    assert "1 dead, 1 near-duplicates" in panel.caption


def test_a_model_without_convolutions_shows_its_first_linear_layer() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
    assert torch.equal(filters(model)[:, :, 0, 0], model[1].weight)


@pytest.mark.parametrize(
    ("model", "layer", "said"),
    [
        (nn.Sequential(nn.ReLU()), None, "no convolution and no linear layer"),
        (nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()), "1", "ReLU and has no filters"),
        (timm.create_model("test_resnet"), "layer1.0.conv9", "nearest: layer1.0.conv"),
        (timm.create_model("test_resnet"), "conv2", "ambiguous"),
    ],
)
def test_a_wrong_layer_is_named_with_the_nearest(model: nn.Module, layer: str | None, said: str) -> None:
    with pytest.raises(LayerError, match=said):
        filters(model, layer)
