"""Maximal patches: by occlusion they find what is planted, inside the image; by channel the strongest crops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers.tiny import Net, loader as batches, module, records, trainer
from vis_callbacks.data.samples import Samples
from vis_callbacks.errors import ConfigurationError, LayerError, VisualizationWarning
from vis_callbacks.event import Event, Moment, SharedPass
from vis_callbacks.inspection.channel_patches import ChannelPatches, unit_boxes
from vis_callbacks.inspection.maximal_patches import MaximalPatches, maximal_patches, outlined, patch_boxes
from vis_callbacks.model.guard import undisturbed
from vis_callbacks.model.receptive_field import ReceptiveField, Window
from vis_callbacks.panel import Panel


class Bright(nn.Module):
    """The logit of class 1 is the sum of all pixels times weights of their own."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, images: Tensor) -> Tensor:
        score = (images * self.weights).sum(dim=(1, 2, 3))
        return torch.stack([-score, score], dim=1)


def event_of(callback: MaximalPatches, model: nn.Module, images: Tensor) -> Event:
    count = len(images)
    samples = Samples(images, torch.zeros(count, dtype=torch.long), tuple(map(str, range(count))))
    shared = SharedPass(model, samples, "predicted")
    event = Event(model, Moment(0, 0), 0, shared)
    shared.add(callback.needs(event))
    return event


def panels_of(callback: MaximalPatches, model: nn.Module, images: Tensor) -> list[Panel]:
    with undisturbed(model):
        return list(callback.visualize(event_of(callback, model, images)))


@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 17), (9, 5), (13, 19)])
def test_a_planted_pixel_is_found_also_in_a_corner_and_off_the_square(row: int, column: int) -> None:
    weights = torch.zeros(14, 20)
    weights[row, column] = 3.0
    boxes, scores = maximal_patches(Bright(weights), torch.ones(2, 1, 14, 20), 1, patch=(3, 4), stride=2, top=1)
    for left, up, right, down in boxes[:, 0].tolist():
        assert left <= column < right
        assert up <= row < down
        assert (right - left, down - up) == (4, 3)
    torch.testing.assert_close(scores, torch.full((2, 1), 3.0))


def test_scores_are_the_drops_of_the_logit_in_order() -> None:
    torch.manual_seed(0)
    model, images = Bright(torch.randn(6, 9)), torch.randn(3, 1, 6, 9)
    boxes, scores = maximal_patches(model, images, torch.tensor([0, 1, 1]), patch=3, stride=3, top=6)
    assert (scores[:, :-1] >= scores[:, 1:]).all()
    for index, target in enumerate([0, 1, 1]):
        for (left, up, right, down), score in zip(boxes[index].tolist(), scores[index], strict=True):
            covered = images[index].clone()
            covered[:, up:down, left:right] = 0
            drop = model(images[index : index + 1])[0, target] - model(covered[None])[0, target]
            torch.testing.assert_close(score, drop.detach())


@pytest.mark.parametrize("size", [(8, 8), (7, 13), (30, 11)])
@pytest.mark.parametrize("patch", [1, 3, (2, 5), 50, None])
@pytest.mark.parametrize("stride", [1, 4, 100, None])
def test_boxes_lie_inside_the_image_and_reach_its_far_edges(size: Any, patch: Any, stride: Any) -> None:
    boxes = patch_boxes(size, patch, stride)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= size[1]).all()
    assert (boxes[:, 3] <= size[0]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert boxes[:, 2].max() == size[1]
    assert boxes[:, 3].max() == size[0]
    assert len({tuple(box) for box in boxes.tolist()}) == len(boxes)
    assert len({(x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes.tolist()}) == 1


def test_more_patches_than_there_are_gives_all() -> None:
    boxes, scores = maximal_patches(Bright(torch.ones(4, 4)), torch.ones(1, 1, 4, 4), patch=9, stride=1, top=5)
    assert boxes.tolist() == [[[0, 0, 4, 4]]]
    assert scores.shape == (1, 1)


def test_neither_the_chunk_nor_the_batch_changes_anything() -> None:
    torch.manual_seed(0)
    model, images = Net(), torch.rand(3, 1, 8, 8)
    whole = maximal_patches(model, images, patch=3, stride=2)
    for chunk in (1, 7):
        cut = maximal_patches(model, images, patch=3, stride=2, chunk_size=chunk)
        assert torch.equal(cut[0], whole[0])
        torch.testing.assert_close(cut[1], whole[1])
    single = maximal_patches(model, images[1:2], patch=3, stride=2)
    torch.testing.assert_close(single[1], whole[1][1:2])


def test_the_baseline_is_what_covers() -> None:
    model, images = Bright(torch.ones(4, 4)), torch.ones(1, 1, 4, 4)
    _, scores = maximal_patches(model, images, 1, patch=2, stride=2, top=1, baseline=1.0)
    assert scores.item() == 0
    _, scores = maximal_patches(model, images, 1, patch=2, stride=2, top=1, baseline=-1.0)
    assert scores.item() == 8


@pytest.mark.parametrize("options", [{"patch": 0}, {"stride": 0}, {"top": 0}])
def test_sizes_below_one_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        maximal_patches(Bright(torch.ones(4, 4)), torch.ones(1, 1, 4, 4), **{"patch": 2, "stride": 2, **options})


FIELD = ReceptiveField(Window(3, 1, -1), Window(3, 1, -1))


def test_crops_are_those_of_all_batches_together() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(1, 4, 3, padding=1)
    images = torch.rand(12, 1, 9, 7)
    maps = convolution(images)
    whole, parts = (ChannelPatches([3, 0], top=5, field=FIELD) for _ in range(2))
    whole.update(images, maps)
    for start in range(0, 12, 5):
        parts.update(images[start : start + 5], maps[start : start + 5])
    for name in ("scores", "images", "boxes", "crops"):
        assert torch.equal(getattr(whole, name), getattr(parts, name))
    expected = maps.detach()[:, [3, 0]].flatten(2).amax(dim=2).topk(5, dim=0)
    torch.testing.assert_close(whole.scores, expected.values.T)
    assert torch.equal(whole.images, expected.indices.T)


def test_a_crop_holds_what_its_unit_sees() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(1, 2, 3, padding=1)
    images = torch.rand(6, 1, 9, 7)
    patches = ChannelPatches([1], top=3, field=FIELD)
    # Units at the edges see padding, which no crop can hold.
    inner = convolution(images)
    inner[:, :, [0, -1]] = inner[:, :, :, [0, -1]] = -9
    patches.update(images, inner)
    again = F.conv2d(patches.crops[0], convolution.weight[1:], convolution.bias[1:])
    torch.testing.assert_close(again.flatten(), patches.scores[0])
    for crop, (left, up, right, down), image in zip(patches.crops[0], patches.boxes[0], patches.images[0], strict=True):
        assert torch.equal(crop, images[image, :, up:down, left:right])


def test_memory_is_bounded_and_holds_no_batch() -> None:
    patches = ChannelPatches([0, 1], top=2, field=FIELD)
    images = torch.rand(50, 3, 16, 16)
    patches.update(images, torch.rand(50, 4, 16, 16))
    assert patches.crops.shape == (2, 2, 3, 3, 3)
    assert patches.crops.untyped_storage().nbytes() == patches.crops.numel() * 4


def test_boxes_of_units_have_one_size_and_stay_inside() -> None:
    large = ReceptiveField(Window(9, 4, -4), Window(50, 4, -20))
    for field, patch, size in ((FIELD, None, (3, 3)), (large, None, (9, 16)), (None, None, (3, 4)), (FIELD, 5, (5, 5))):
        boxes = unit_boxes((10, 16), (3, 4), field, patch)
        assert boxes.shape == (12, 4)
        assert {(y1 - y0, x1 - x0) for x0, y0, x1, y1 in boxes.tolist()} == {size}
        assert boxes.min() >= 0
        assert boxes[:, 2].max() <= 16
        assert boxes[:, 3].max() <= 10


def test_a_panel_for_each_sample_shows_the_patches() -> None:
    weights = torch.zeros(8, 8)
    weights[6, 1] = 1.0
    images = 0.5 * torch.ones(2, 1, 8, 8)
    panels = panels_of(MaximalPatches(2, 2, top=3), Bright(weights), images)
    assert [panel.name for panel in panels] == ["0", "1"]
    sample, marked, *crops = panels[0].all_tiles
    assert sample.values.shape == (1, 8, 8)
    assert [crop.values.shape for crop in crops] == [(1, 2, 2)] * 3
    assert crops[0].caption == "+0.5"
    assert marked.values[:, 6:8, 0:2].tolist() == [[[1.0] * 2] * 2, [[0.0] * 2] * 2, [[0.0] * 2] * 2]


def test_edges_are_drawn_within_the_picture() -> None:
    picture = outlined(torch.full((3, 5, 6), 0.5), torch.tensor([[1, 1, 6, 5]]))
    assert picture[0].tolist()[1] == [0.5, 1, 1, 1, 1, 1]
    assert picture[1, 2].tolist() == [0.5, 0, 0.5, 0.5, 0.5, 0]


def test_a_row_for_each_channel() -> None:
    torch.manual_seed(0)
    callback = MaximalPatches(layer="conv1", channels=[2, 0], top=3)
    (panel,) = panels_of(callback, Net(), torch.rand(4, 1, 8, 8))
    assert panel.name == "conv1"
    assert panel.columns == 3
    assert [tile.caption.split(":")[0] for tile in panel.all_tiles] == ["2"] * 3 + ["0"] * 3
    assert "receptive field 3, stride 1" in panel.caption
    assert panel.all_tiles[0].values.shape == (1, 3, 3)


def test_fewer_images_than_crops_leave_blanks() -> None:
    (panel,) = panels_of(MaximalPatches(channels="strongest", max_channels=1, top=3), Net(), torch.rand(2, 1, 8, 8))
    assert [bool(tile.caption) for tile in panel.all_tiles] == [True, True, False]


def test_channels_stay_after_a_restart() -> None:
    torch.manual_seed(0)
    callback = MaximalPatches(layer="conv2", max_channels=2)
    model, images = Net(), torch.rand(4, 1, 8, 8)
    panels_of(callback, model, images)
    restarted = MaximalPatches(layer="conv2", max_channels=2)
    restarted.load_state_dict(callback.state_dict())
    model.conv2.weight.data = -model.conv2.weight.data
    panels_of(restarted, model, images)
    assert restarted.chosen == callback.chosen


def test_a_run_searches_more_validation_images_than_are_shown(tmp_path: Path) -> None:
    callback = MaximalPatches(layer="conv1", channels=[0], images=20, top=2, samples=2, on_error="raise")
    trainer(tmp_path, [callback], max_epochs=1).fit(module(), batches(), batches(seed=1))
    found = records(tmp_path)
    assert {record["tag"] for record in found} == {"MaximalPatches/net.conv1"}
    assert "crops of 20 images" in found[-1]["caption"]


def test_a_layer_that_is_not_there_is_told_before_training() -> None:
    with pytest.raises(LayerError, match="no layer 'layer9'"):
        MaximalPatches(layer="layer9").check(Net())


def test_batches_that_cannot_be_read_are_said_once_and_the_samples_serve(tmp_path: Path) -> None:
    def read(batch: Any) -> Any:
        raise KeyError("pixel_values")

    callback = MaximalPatches(layer="conv2", samples=torch.rand(4, 1, 8, 8), batch_to_images=read, on_error="raise")
    with pytest.warns(VisualizationWarning, match="MaximalPatches cuts its crops from the samples alone") as caught:
        trainer(tmp_path, [callback], max_epochs=2).fit(module(), batches(32), batches(16))
    assert len([one for one in caught if one.category is VisualizationWarning]) == 1
    assert {record["epoch"] for record in records(tmp_path) if record["file"]} == {0, 1, 2}
