"""How attribution callbacks show their maps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vis_callbacks import ConfigurationError, Event, Gradient, Moment, Saliency, Samples
from vis_callbacks.attribution.callback import display_tile
from vis_callbacks.event import SharedPass
from vis_callbacks.model.guard import undisturbed
from vis_callbacks.panel import Panel

VALUES = torch.tensor([[[1.0, -4.0]], [[2.0, 1.0]], [[0.5, 1.0]]])
IMAGE = torch.rand(3, 1, 2)


@pytest.mark.parametrize(
    ("mode", "kind", "values"),
    [
        ("heatmap", "signed", [[3.5, -2.0]]),
        ("overlay", "signed", [[3.5, -2.0]]),
        ("gray", "gray", [[3.5, 6.0]]),
        ("positive", "heat", [[3.5, 0.0]]),
        ("negative", "heat", [[0.0, 2.0]]),
    ],
)
def test_each_mode_keeps_what_it_says(mode: str, kind: str, values: list[list[float]]) -> None:
    tile = display_tile(VALUES, IMAGE, mode, 0.3)  # type: ignore[arg-type]
    assert tile.kind == kind
    assert tile.values[0].tolist() == values
    assert (tile.backdrop is not None) == (mode == "overlay")


def test_colour_shows_the_three_channels_around_zero() -> None:
    tile = display_tile(VALUES, IMAGE, "color", 0.5)
    assert tile.kind == "signed"
    assert torch.equal(tile.values, VALUES)


def test_evidence_that_is_never_negative_is_sequential() -> None:
    assert display_tile(VALUES.abs(), IMAGE, "heatmap", 0.5, signed=False).kind == "heat"


def test_the_technique_and_not_the_image_decides_about_the_scale() -> None:
    assert display_tile(VALUES.abs(), IMAGE, "heatmap", 0.5).kind == "signed"


def dust(side: int) -> torch.Tensor:
    """Signs that alternate from pixel to pixel, and more evidence for than against in the upper half."""
    checkers = (-1.0) ** (torch.arange(side)[:, None] + torch.arange(side))
    return (checkers + torch.where(torch.arange(side) < side // 2, 0.2, -0.2)[:, None])[None]


@pytest.mark.parametrize("mode", ["heatmap", "overlay"])
def test_signs_too_fine_to_see_are_drawn_as_what_they_sum_to(mode: str) -> None:
    values = dust(224)
    drawn = display_tile(values, torch.rand(3, 224, 224), mode, 0.5).values  # type: ignore[arg-type]
    assert drawn.shape == values.shape
    assert bool((drawn[:, :104] > 0.15).all())
    assert bool((drawn[:, 120:] < -0.15).all())
    assert torch.equal(values, dust(224))


def test_both_signs_are_smoothed_before_they_are_told_apart() -> None:
    values, image = dust(224), torch.rand(3, 224, 224)
    assert float(display_tile(values, image, "positive", 0.5).values[:, 120:].max()) == 0
    assert float(display_tile(values, image, "negative", 0.5).values[:, :104].max()) == 0
    assert float(display_tile(values, image, "gray", 0.5).values.min()) > 0.9


def test_colours_are_drawn_pixel_by_pixel() -> None:
    values = dust(224).repeat(3, 1, 1)
    assert torch.equal(display_tile(values, torch.rand(3, 224, 224), "color", 0.5).values, values)


@pytest.mark.parametrize(("side", "options"), [(28, {}), (64, {}), (224, {"smooth": 0.0})])
def test_small_maps_and_those_of_smooth_0_are_drawn_pixel_by_pixel(side: int, options: dict[str, float]) -> None:
    values = dust(side)
    assert torch.equal(display_tile(values, torch.rand(3, side, side), "heatmap", 0.5, **options).values, values)


def test_a_pixel_that_is_not_finite_is_drawn_where_it_is() -> None:
    values = dust(224)
    values[0, 5, 5] = torch.nan
    drawn = display_tile(values, torch.rand(3, 224, 224), "heatmap", 0.5).values
    assert drawn.isnan().nonzero().tolist() == [[0, 5, 5]]


def panels(callback: Saliency | Gradient, labels: list[int]) -> list[Panel]:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 3))
    images = torch.rand(len(labels), 3, 4, 4)
    names = tuple(map(str, range(len(labels))))
    samples = Samples(images, torch.tensor(labels), names, ("ant", "bee", "cat"))
    with undisturbed(model):
        event = Event(model, Moment(1, 10), shared=SharedPass(model, samples, callback.targets))
        assert event.shared is not None
        event.shared.add(callback.needs(event))
        return list(callback.visualize(event))


def test_the_map_stands_beside_the_image_with_label_prediction_and_probability() -> None:
    made = panels(Saliency(), [0, 1])
    assert [panel.label for panel in made] == ["ant", "bee"]
    for panel in made:
        assert [tile.kind for tile in panel.all_tiles] == ["image", "heat"]
        assert panel.predicted in ("ant", "bee", "cat")
        assert panel.probability is not None
        assert 1 / 3 <= panel.probability <= 1


def test_several_displays_stand_side_by_side() -> None:
    (panel,) = panels(Gradient(display=["color", "gray", "positive", "negative", "overlay"]), [0])
    assert [tile.kind for tile in panel.all_tiles] == ["image", "signed", "gray", "heat", "heat", "signed"]


def test_the_caption_names_another_target_than_the_predicted() -> None:
    for label in range(3):
        (panel,) = panels(Gradient(targets="label"), [label])
        wanted = "" if panel.predicted == panel.label else f"for {panel.label}"
        assert panel.caption == wanted
    (contrast,) = panels(Gradient(targets="contrast"), [0])
    assert "against" in contrast.caption


@pytest.mark.parametrize(
    ("wrong", "said"), [({"display": "rainbow"}, "'heatmap'"), ({"alpha": 2.0}, "0 to 1"), ({"smooth": -1}, "0 to 1")]
)
def test_a_wrong_display_is_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Saliency(**wrong)  # type: ignore[arg-type]
