"""Charts of metrics over training steps, as SVG paths in a unit square, with labels."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from statistics import median
from typing import TypeAlias

from vis_callbacks.report.history import Point

_MOST_POINTS = 600
_FEW_POINTS = 40  # lines with no more points get a dot per point
_STAGE = re.compile(r"(?<![a-z])(train(?:ing)?|val(?:id(?:ation)?)?|test)(?![a-z])[\W_]*", re.IGNORECASE)
_STAGE_NAMES = {"train": "train", "training": "train", "val": "validation", "test": "test"}
_STAGE_ORDER = ("validation", "train", "test", "")
_LOADER = re.compile(r"/dataloader_idx_\d+$")

COLOURS, DASHES = 8, 4
"""How many colours and dash patterns the page's style sheet has."""

_OF_STAGE = {"validation": (0, 0), "train": (1, 1), "test": (2, 2)}
_OTHERS = [(colour, (colour + 1 + turn) % DASHES) for turn in range(DASHES) for colour in range(3, COLOURS)]
_OTHERS += [(colour, (colour + turn) % DASHES) for turn in range(1, DASHES) for colour in range(3)]


Member: TypeAlias = tuple[str, str, Sequence[Point]]
"""Stage, name and points of a metric."""


@dataclass(frozen=True)
class Scale:
    """Maps values to heights.

    Example:
        >>> Scale(0.0, 2.0).height(0.5)
        0.25
    """

    low: float
    high: float
    logarithmic: bool = False

    def height(self, value: float) -> float:
        """Return the height of a value: 0 at the low end of the scale, 1 at the high end."""
        low, high, value = (math.log10(v) if self.logarithmic else v for v in (self.low, self.high, value))
        return (value - low) / (high - low)


@dataclass(frozen=True)
class Line:
    """One curve of a chart.

    Attributes:
        name: Name in the legend.
        metric: Full name of the metric.
        colour: Number of its colour, below `COLOURS`.
        dash: Number of its dash pattern, below `DASHES`.
        steps: Steps of its points.
        values: Values of its points; None breaks the line.
        path: SVG path of the line, in a 100 by 100 square with y downwards.
        dots: SVG path of its points; empty if there are many.
        heights: Heights of its points, from 0 to 1.
    """

    name: str
    metric: str
    colour: int
    dash: int
    steps: tuple[int, ...]
    values: tuple[float | None, ...]
    path: str
    dots: str
    heights: tuple[float | None, ...]


@dataclass(frozen=True)
class Chart:
    """Metrics of one quantity, such as the training loss and the validation loss."""

    title: str
    lines: tuple[Line, ...]
    first_step: int
    last_step: int
    ticks: tuple[tuple[float, str], ...]
    logarithmic: bool


def charts(metrics: Mapping[str, Sequence[Point]]) -> list[Chart]:
    """Return one chart per quantity; the stages of a quantity share a chart, and so do its data loaders.

    The first curve of validation, training and test looks the same in all charts, as does one that is alone. No two
    curves of a chart have the same colour and dash pattern, up to 29.

    Example:
        >>> [chart.title for chart in charts({"train_loss": [Point(1, 9, 0.5)], "val_loss": [Point(1, 9, 0.6)]})]
        ['loss']
    """
    return [_chart(title, members) for title, members in _grouped(metrics).items()]


def compared_charts(runs: Mapping[str, Mapping[str, Sequence[Point]]]) -> list[Chart]:
    """Return one chart per quantity with the curves of several runs, a colour for each run, a pattern for each stage.

    Args:
        runs: The metrics of each run, by its name.
    """
    grouped = {name: _grouped(metrics) for name, metrics in runs.items()}
    titles = dict.fromkeys(title for groups in grouped.values() for title in groups)
    return [_compared(title, {name: groups.get(title, []) for name, groups in grouped.items()}) for title in titles]


def _grouped(metrics: Mapping[str, Sequence[Point]]) -> dict[str, list[Member]]:
    groups: dict[str, list[Member]] = {}
    for name, points in metrics.items():
        if any(point.value is not None for point in points):
            title, stage = split_stage(name)
            stem = name.removesuffix("_epoch").removesuffix("_step")
            if not stage and len(metrics.keys() & {stem, f"{stem}_step", f"{stem}_epoch"}) > 1:
                title = stem
            groups.setdefault(title, []).append((stage, name, points))
    return groups


def split_stage(name: str) -> tuple[str, str]:
    """Split the name of a metric into quantity and stage.

    Example:
        >>> split_stage("val/acc"), split_stage("train_loss_epoch"), split_stage("lr-Adam")
        (('acc', 'validation'), ('loss', 'train'), ('lr-Adam', ''))
    """
    stem = _LOADER.sub("", name).removesuffix("_epoch").removesuffix("_step")
    found = _STAGE.search(stem)
    if not found:
        return name, ""
    word = found.group(1).lower()
    quantity = (stem[: found.start()] + stem[found.end() :]).strip("_-/. ")
    return (quantity, _STAGE_NAMES.get(word, "validation")) if quantity else (name, "")


def path_of(points: Sequence[tuple[float, float | None]]) -> str:
    """Return an SVG path through points of a unit square with y upwards; None breaks the line."""
    parts, pen_down = [], False
    for x, height in points:
        if height is None:
            pen_down = False
            continue
        parts.append(f"{'L' if pen_down else 'M'}{x * 100:.2f} {(1 - height) * 100:.2f}")
        pen_down = True
    return "".join(parts)


def scale_of(values: Sequence[float]) -> Scale:
    """Return a scale with room for all values.

    It is logarithmic if one large value, such as the first loss of a run, would flatten all others.
    """
    low, high = min(values), max(values)
    if low > 0 and high / low >= 100 and high / median(values) >= 10:
        return Scale(low / 1.1, high * 1.1, logarithmic=True)
    room = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return Scale(low - room, high + room)


def _chart(title: str, members: list[Member]) -> Chart:
    members = sorted(members, key=lambda member: _STAGE_ORDER.index(member[0]))
    stages = [stage for stage, _, _ in members]
    names = [stage if stage and stages.count(stage) == 1 else name for stage, name, _ in members]
    return _drawn(title, list(zip(names, members, _looks(stages), strict=True)))


def _compared(title: str, runs: Mapping[str, list[Member]]) -> Chart:
    several = any(len(members) > 1 for members in runs.values())
    curves: list[tuple[str, Member, tuple[int, int]]] = []
    for colour, (run, members) in enumerate(runs.items()):
        for number, member in enumerate(sorted(members, key=lambda member: _STAGE_ORDER.index(member[0]))):
            name = f"{run} {member[0] or member[1]}" if several else run
            curves.append((name, member, (colour % COLOURS, number % DASHES)))
    return _drawn(title, curves)


def _drawn(title: str, curves: Sequence[tuple[str, Member, tuple[int, int]]]) -> Chart:
    every = [point for _, (_, _, points), _ in curves for point in points]
    scale = scale_of([point.value for point in every if point.value is not None])
    first, last = min(point.step for point in every), max(point.step for point in every)
    lines = tuple(
        _line(name, metric, look, _thinned(points), scale, first, last) for name, (_, metric, points), look in curves
    )
    ticks = tuple((scale.height(value), number(value)) for value in _ticks(scale))
    return Chart(title, lines, first, last, ticks, scale.logarithmic)


def _looks(stages: Sequence[str]) -> list[tuple[int, int]]:
    """Return the colour and dash pattern of each curve of a chart."""
    if list(stages) == [""]:
        return [_OF_STAGE["validation"]]
    others = cycle(_OTHERS)
    return [
        _OF_STAGE[stage] if stage and stage not in stages[:index] else next(others)
        for index, stage in enumerate(stages)
    ]


def _line(
    name: str, metric: str, look: tuple[int, int], points: Sequence[Point], scale: Scale, first: int, last: int
) -> Line:
    heights = tuple(None if point.value is None else round(scale.height(point.value), 4) for point in points)
    places = [(0.5 if last == first else (point.step - first) / (last - first)) for point in points]
    marks = [(x, height) for x, height in zip(places, heights, strict=True) if height is not None]
    dots = "".join(f"M{x * 100:.2f} {(1 - height) * 100:.2f}h0" for x, height in marks)
    return Line(
        name=name,
        metric=metric,
        colour=look[0],
        dash=look[1],
        steps=tuple(point.step for point in points),
        values=tuple(point.value for point in points),
        path=path_of(list(zip(places, heights, strict=True))),
        dots=dots if len(marks) <= _FEW_POINTS else "",
        heights=heights,
    )


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    """Keep the lowest and the highest point of each stretch, so that every spike stays visible."""
    if len(points) <= _MOST_POINTS:
        return points
    stretch = math.ceil(2 * len(points) / _MOST_POINTS)
    kept: dict[int, Point] = {points[-1].step: points[-1]}
    for start in range(0, len(points), stretch):
        known = [point for point in points[start : start + stretch] if point.value is not None]
        for pick in (min, max):
            if known:
                point = pick(known, key=lambda point: point.value or 0.0)
                kept[point.step] = point
    return [kept[step] for step in sorted(kept)]


def _ticks(scale: Scale) -> list[float]:
    if scale.logarithmic:
        powers = range(math.ceil(math.log10(scale.low)), math.floor(math.log10(scale.high)) + 1)
        return [10.0**power for power in powers][:: max(1, len(powers) // 4)]
    rough = (scale.high - scale.low) / 4.5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(scale.low / step)
    return [count * step for count in range(first, math.floor(scale.high / step) + 1)]


def number(value: float) -> str:
    """Return a number as text for an axis or a sentence.

    Example:
        >>> number(0.25), number(1e-5), number(12000.0), number(0.30000000000000004)
        ('0.25', '1e-5', '12,000', '0.3')
    """
    if value == 0:
        return "0"
    if abs(value) < 1e-3 or abs(value) >= 1e7:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    digits = max(0, 3 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
