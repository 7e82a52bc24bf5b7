"""The pictures that prove a verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict
from vis_callbacks.panel import Panel, Tile

_ACROSS = 8
_BAR, _LENGTH = 6, 240  # pixels
_GREEN, _RED, _PALE = (0.2, 0.55, 0.35), (0.75, 0.2, 0.15), (0.93, 0.93, 0.92)
_MOST_ROWS = 48


@dataclass(frozen=True)
class Shown:
    """Some images of a stage, as they are displayed.

    Attributes:
        pixels: ``(N, 1 or 3, H, W)`` in [0, 1].
        labels: Their classes.
    """

    pixels: Tensor
    labels: Sequence[int]


@dataclass(frozen=True)
class Exhibits:
    """What pictures can be made of.

    Attributes:
        shown: Images by stage, ``"training"`` and ``"validation"``.
        doubted: Images whose label is denied with the most confidence.
        answers: What these are called instead.
        outputs: Outputs ``(N, K)`` of the first step.
        means: Mean image of each class, ``(K, 1 or 3, h, w)`` in [0, 1], of small copies.
        arrivals: Share of each class in equal parts of an epoch of training, ``(K, columns)``.
    """

    shown: Mapping[str, Shown]
    doubted: Shown | None = None
    answers: Sequence[int] = ()
    outputs: Tensor | None = None
    means: Tensor = field(default_factory=lambda: torch.zeros(0, 1, 1, 1))
    arrivals: Tensor = field(default_factory=lambda: torch.zeros(0, 0))


def where_is(box: tuple[float, float, float, float]) -> str:
    """Return the place of a box ``(left, top, right, bottom)`` in words.

    Example:
        >>> where_is((0.8, 0.8, 1.0, 1.0)), where_is((0.4, 0.0, 0.6, 0.2)), where_is((0.4, 0.4, 0.6, 0.6))
        ('bottom right', 'top', 'centre')
    """
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    row = "top" if y < 1 / 3 else "bottom" if y > 2 / 3 else ""
    column = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
    return f"{row} {column}".strip() or "centre"


def both_sets(exhibits: Exhibits, facts: Facts, _: Verdict) -> list[Panel]:
    """Show training images above validation images of the same classes."""
    stages = [shown for shown in exhibits.shown.values() if len(shown.labels)]
    if not stages:
        return []
    wanted = _spread(stages[-1].labels, _ACROSS)
    tiles = []
    for shown in stages:
        for label, place in wanted:
            index = _of_class(shown.labels, label, place)
            tiles.append(Tile(shown.pixels[index], caption=facts.name(shown.labels[index])))
    names = " below ".join(reversed(list(exhibits.shown))) if len(stages) == 2 else next(iter(exhibits.shown))
    return [Panel("images", tiles, columns=len(wanted), caption=f"{names} images, as the network gets them")]


def confusion(exhibits: Exhibits, facts: Facts, verdict: Verdict) -> list[Panel]:
    """Show how often each class is called each other, and images of the classes that the verdict names."""
    panels = []
    for stage, found in facts.stages.items():
        if found.answers:
            counts = torch.tensor(found.confusion, dtype=torch.float32)
            shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
            caption = f"{stage}: rows are labels, columns answers"
            if verdict.classes:
                caption += f"; look at {' and '.join(facts.name(number) for number in verdict.classes)}"
            panels.append(Panel(f"confusion in {stage}", Tile(shares[None], "heat", limit=1.0), caption=caption))
    for stage, shown in exhibits.shown.items():
        tiles = [
            Tile(shown.pixels[index], caption=facts.name(label))
            for number in verdict.classes
            for index, label in enumerate(shown.labels)
            if label == number
        ]
        if tiles:
            panels.append(Panel(f"{stage} images", tiles[: 2 * _ACROSS], columns=_ACROSS, caption=f"{stage} images"))
    return panels


def doubted(exhibits: Exhibits, facts: Facts, _: Verdict) -> list[Panel]:
    """Show the images whose label is denied with the most confidence."""
    shown = exhibits.doubted
    if shown is None or not len(shown.labels):
        return []
    tiles = [
        Tile(pixels, caption=f"{facts.name(label)} → {facts.name(answer)}")
        for pixels, label, answer in zip(shown.pixels, shown.labels, exhibits.answers, strict=True)
    ]
    return [Panel("images", tiles, columns=_ACROSS, caption="label → answer, the most confident first")]


def answers(exhibits: Exhibits, _: Facts, __: Verdict) -> list[Panel]:
    """Show the outputs of the first step."""
    if exhibits.outputs is None:
        return []
    outputs = exhibits.outputs[:16]
    total = float(outputs.sum(dim=1).mean())
    caption = f"outputs of the first step, a row for each image; they sum to {total:.2f}"
    return [Panel("outputs", Tile(outputs[None], "gray", limit=1.0), caption=caption)]


def arrivals(exhibits: Exhibits, _: Facts, __: Verdict) -> list[Panel]:
    """Show when each class came in an epoch of training."""
    shares = exhibits.arrivals
    if not shares.numel():
        return []
    rows, columns = (max(1, _LENGTH // count) for count in shares.shape)
    large = shares.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    caption = "a row for each class, from the start of the epoch to its end; in random order each comes all the time"
    return [Panel("order", Tile(large[None], "heat", limit=1.0), caption=caption)]


def modes(_: Exhibits, facts: Facts, __: Verdict) -> list[Panel]:
    """Show a bar for each BatchNorm and Dropout of each stage, red where its mode is that of the other stage."""
    panels = []
    for stage, layers in facts.modes.items():
        right = [one.training == (stage == "training") for one in layers[:: max(1, -(-len(layers) // _MOST_ROWS))]]
        if right:
            bars = _bars([(1.0, _GREEN if one else _RED) for one in right])
            caption = f"{stage}: a bar for each BatchNorm and Dropout, red: in the mode of the other stage"
            panels.append((all(right), Panel(stage, Tile(bars, caption="input at the top"), caption=caption)))
    return [panel for _, panel in sorted(panels, key=lambda one: one[0])]


def weights(_: Exhibits, facts: Facts, __: Verdict) -> list[Panel]:
    """Show a bar for each kernel and matrix: its norm as a multiple of that at the start; red did not change."""
    rows = [one for one in facts.weights if one.dimensions >= 2] or list(facts.weights)
    stride = -(-len(rows) // _MOST_ROWS)
    bars = []
    for one in rows[::stride]:
        if not one.finite:
            bars.append((1.0, (1.0, 0.0, 1.0)))
            continue
        growth = 1.0 if one.growth is None else one.growth
        bars.append((min(1.0, 0.25 * growth), _GREEN if one.changed else _RED))
    panels = [
        Panel(
            "weights",
            Tile(_bars(bars), caption="input at the top"),
            caption="a bar for each layer: norm, a quarter is as at the start; red: unchanged, magenta: not finite",
        )
    ]
    dead = [layer for layer in facts.layers if layer.dead]
    if dead:
        shares = [(layer.dead / layer.channels, _RED) for layer in facts.layers]
        caption = "a bar for each layer: share of channels that are the same for all images"
        panels.append(Panel("dead", Tile(_bars(shares), caption="input at the top"), caption=caption))
    return panels


def place(exhibits: Exhibits, facts: Facts, verdict: Verdict) -> list[Panel]:
    """Show the mean image of classes less that of all, and training images, with the place framed."""
    return _at(exhibits, facts, verdict, facts.place.box)


def border(exhibits: Exhibits, facts: Facts, verdict: Verdict) -> list[Panel]:
    """Show the mean image of classes less that of all, and training images."""
    return _at(exhibits, facts, verdict, None)


def _at(
    exhibits: Exhibits, facts: Facts, verdict: Verdict, box: tuple[float, float, float, float] | None
) -> list[Panel]:
    panels, means = [], exhibits.means
    classes = list(verdict.classes) or list(range(min(len(means), _ACROSS)))
    if len(means) > 1:
        apart = (means - means.mean(dim=0)).mean(dim=1, keepdim=True)
        side = max(1, 112 // apart.shape[-1])
        large = apart.repeat_interleave(side, 2).repeat_interleave(side, 3)
        limit = float(apart.abs().max())
        tiles = [
            Tile(_framed(large[number], box, limit), "signed", facts.name(number), limit=limit)
            for number in classes
            if number < len(means)
        ]
        if tiles:
            caption = "the mean of a class less that of all, red is brighter"
            panels.append(Panel("means", tiles, columns=min(len(tiles), _ACROSS), caption=caption))
    shown = exhibits.shown.get("training")
    if shown is not None and len(shown.labels):
        order = [index for number in classes for index, label in enumerate(shown.labels) if label == number]
        tiles = [
            Tile(_framed(shown.pixels[index], box, 1.0), caption=facts.name(shown.labels[index]))
            for index in order[: 2 * _ACROSS]
        ]
        if tiles:
            panels.append(Panel("images", tiles, columns=_ACROSS, caption="training images, as the network gets them"))
    return panels


def _framed(values: Tensor, box: tuple[float, float, float, float] | None, ink: float) -> Tensor:
    """Return an image ``(C, H, W)`` with a line around a box."""
    if box is None:
        return values
    framed = values.clone()
    height, width = values.shape[-2:]
    left, right = int(box[0] * width), min(width - 1, round(box[2] * width))
    top, bottom = int(box[1] * height), min(height - 1, round(box[3] * height))
    framed[:, [top, bottom], left : right + 1] = ink
    framed[:, top : bottom + 1, [left, right]] = ink
    return framed


def _bars(bars: Sequence[tuple[float, tuple[float, float, float]]]) -> Tensor:
    picture = torch.ones(3, len(bars) * (_BAR + 2), _LENGTH)
    for number, (share, colour) in enumerate(bars):
        rows = slice(number * (_BAR + 2), number * (_BAR + 2) + _BAR)
        picture[:, rows] = torch.tensor(_PALE)[:, None, None]
        picture[:, rows, : round(share * _LENGTH)] = torch.tensor(colour)[:, None, None]
    return picture


def _spread(labels: Sequence[int], count: int) -> list[tuple[int, int]]:
    """Return classes in turn, each with how often it came before."""
    kinds = list(dict.fromkeys(labels))
    return [(kinds[number % len(kinds)], number // len(kinds)) for number in range(min(count, len(labels)))]


def _of_class(labels: Sequence[int], label: int, place: int) -> int:
    found = [index for index, one in enumerate(labels) if one == label]
    return found[place % len(found)] if found else place % len(labels)
