import re
from pathlib import Path

import pytest

from vis_callbacks import report
from vis_callbacks.report.charts import COLOURS, DASHES, Chart, charts, number, path_of, scale_of, split_stage
from vis_callbacks.report.history import Point


@pytest.mark.parametrize(
    ("name", "quantity", "stage"),
    [
        ("train_loss", "loss", "train"),
        ("train_loss_epoch", "loss", "train"),
        ("train_loss_step", "loss", "train"),
        ("val_acc/dataloader_idx_1", "acc", "validation"),
        ("loss/train", "loss", "train"),
        ("Val Accuracy", "Accuracy", "validation"),
        ("validation.f1", "f1", "validation"),
        ("valid-top5", "top5", "validation"),
        ("test_acc", "acc", "test"),
        ("value", "value", ""),
        ("trained_on", "trained_on", ""),
        ("contest", "contest", ""),
        ("val", "val", ""),
        ("lr-AdamW/pg1", "lr-AdamW/pg1", ""),
    ],
)
def test_stages_are_found_in_names(name: str, quantity: str, stage: str) -> None:
    assert split_stage(name) == (quantity, stage)


def test_stages_of_one_quantity_share_a_chart_with_validation_first() -> None:
    points = [Point(1, 9, 0.5), Point(2, 19, 0.25)]
    first, second = charts({"train_loss": points, "lr": points, "val_loss": points})
    assert (first.title, [line.name for line in first.lines]) == ("loss", ["validation", "train"])
    assert (second.title, looks(second)) == ("lr", [(0, 0)])


VALUES = [Point(1, 9, 0.5), Point(2, 19, 0.25)]


@pytest.mark.parametrize(
    ("names", "charts_of", "named"),
    [
        (["loss", "val_loss"], ["loss"], ["validation", "loss"]),
        (["val_loss", "train_loss"], ["loss"], ["validation", "train"]),
        (["loss", "train_loss", "val_loss", "test_loss"], ["loss"], ["validation", "train", "test", "loss"]),
        (["loss_step", "loss_epoch"], ["loss"], ["loss_step", "loss_epoch"]),
        (["loss", "loss_step", "loss_epoch"], ["loss"], ["loss", "loss_step", "loss_epoch"]),
        (["train_loss_step", "train_loss_epoch"], ["loss"], ["train_loss_step", "train_loss_epoch"]),
        (["val/acc", "valid_acc", "validation acc"], ["acc"], ["val/acc", "valid_acc", "validation acc"]),
        ([f"val_f1/dataloader_idx_{n}" for n in range(30)], ["f1"], [f"val_f1/dataloader_idx_{n}" for n in range(30)]),
        (["step", "epoch", "time_step"], ["step", "epoch", "time_step"], ["step", "epoch", "time_step"]),
    ],
)
def test_no_two_curves_of_a_chart_look_the_same(names: list[str], charts_of: list[str], named: list[str]) -> None:
    found = charts(dict.fromkeys(names, VALUES))
    assert [chart.title for chart in found] == charts_of
    assert [line.name for chart in found for line in chart.lines] == named
    for chart in found:
        assert len(set(looks(chart))) == len(chart.lines)
        assert all(colour < COLOURS and dash < DASHES for colour, dash in looks(chart))


def test_stages_look_the_same_in_every_chart() -> None:
    metrics = ["loss", "val_loss", "train_loss", "acc", "val_acc", "test_acc", "train_f1"]
    of_stage: dict[str, set[tuple[int, int]]] = {}
    for chart in charts(dict.fromkeys(metrics, VALUES)):
        for line in chart.lines:
            of_stage.setdefault(line.name, set()).add((line.colour, line.dash))
    assert all(len(of_stage[name]) == 1 for name in ("validation", "train", "test"))


def test_the_style_sheet_has_every_colour_and_dash_pattern() -> None:
    css = (Path(report.__file__).parent / "page" / "style.css").read_text()
    assert all(f".c{colour} {{ --line: " in css or f".c{colour}, " in css for colour in range(COLOURS))
    # In the light, as on paper, and in the dark.
    assert all(len(re.findall(rf"--c{colour}: light-dark\(#\w+, #\w+\);", css)) == 1 for colour in range(1, COLOURS))
    assert all(f".line.d{dash}, .legend .d{dash} path" in css for dash in range(1, DASHES))


def looks(chart: Chart) -> list[tuple[int, int]]:
    return [(line.colour, line.dash) for line in chart.lines]


def test_two_metrics_that_would_have_the_same_name_keep_their_own() -> None:
    (chart,) = charts({"val_loss": [Point(1, 9, 0.5)], "valid_loss": [Point(1, 9, 0.4)]})
    assert [line.name for line in chart.lines] == ["val_loss", "valid_loss"]


def test_a_missing_value_breaks_the_line() -> None:
    (chart,) = charts({"acc": [Point(0, 0, 0.0), Point(1, 1, None), Point(2, 2, 1.0), Point(3, 4, 1.0)]})
    path = chart.lines[0].path
    assert (path.count("M"), path.count("L")) == (2, 1)
    assert chart.lines[0].heights[1] is None


def test_a_metric_without_any_number_has_no_chart() -> None:
    assert charts({"acc": [Point(0, 0, None)]}) == []


@pytest.mark.parametrize("values", [[0.0], [3.0], [-2.0, -2.0], [1e-12, 1e12], [0.1, 0.97], [-5.0, 5.0]])
def test_ticks_and_points_lie_on_the_chart(values: list[float]) -> None:
    (chart,) = charts({"x": [Point(0, step, value) for step, value in enumerate(values)]})
    assert 2 <= len(chart.ticks) <= 8
    assert all(0 <= height <= 1 for height, _ in chart.ticks)
    assert all(height is not None and 0 <= height <= 1 for height in chart.lines[0].heights)
    assert len({label for _, label in chart.ticks}) == len(chart.ticks)


def test_the_scale_is_logarithmic_where_one_value_would_press_the_rest_flat() -> None:
    assert scale_of([1000.0, 3.0, 2.0, 1.0]).logarithmic
    assert not scale_of([0.005, 0.5, 0.9]).logarithmic
    assert not scale_of([1000.0, 3.0, 0.0]).logarithmic
    assert scale_of([1000.0, 3.0, 2.0, 1.0]).height(1000.0) == pytest.approx(1, abs=0.05)


def test_no_spike_is_lost_when_points_are_thinned() -> None:
    points = [Point(1, step, 0.5) for step in range(50_000)]
    points[31_234] = Point(1, 31_234, 9.0)
    points[7] = Point(1, 7, -9.0)
    (chart,) = charts({"loss": points})
    line = chart.lines[0]
    assert len(line.steps) <= 601
    assert dict(zip(line.steps, line.values, strict=True)) | {31_234: 9.0, 7: -9.0, 49_999: 0.5} == dict(
        zip(line.steps, line.values, strict=True)
    )


def test_a_path_has_its_y_downwards() -> None:
    assert path_of([(0, 0.0), (1, 1.0)]) == "M0.00 100.00L100.00 0.00"


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (-0.5, "-0.5"), (1e-9, "1e-9"), (1.5e8, "1.5e8"), (999.96, "1,000")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text
