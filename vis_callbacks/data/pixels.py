"""Find how images in model space become pixels: what is stated, which known statistics fit, or the range of values."""

import inspect
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from vis_callbacks.data.normalization import Normalization, normalization_of, numbers_of
from vis_callbacks.model.attributes import stated

KNOWN: Mapping[str, Normalization] = {
    "values in [0, 1]": Normalization(),
    "values in [0, 255]": Normalization((0.0,), (1 / 255,)),
    "ImageNet statistics": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "values in [-1, 1]": Normalization((0.5,), (0.5,)),
    "CLIP statistics": Normalization((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "CIFAR-10 statistics": Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR-10 statistics, std 0.2": Normalization((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "CIFAR-100 statistics": Normalization((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "MNIST statistics": Normalization((0.1307,), (0.3081,)),
    "Fashion-MNIST statistics": Normalization((0.2860,), (0.3530,)),
}
"""Statistics by which images are commonly normalised."""

_ANY_COLOUR = ("values in [0, 1]", "values in [0, 255]", "values in [-1, 1]")
"""Those that colour images may have too, though they are the same for each channel."""

_ATTRIBUTES = (
    ("mean", "std"),
    ("pixel_mean", "pixel_std"),
    ("image_mean", "image_std"),
    ("img_mean", "img_std"),
    ("norm_mean", "norm_std"),
    ("MEAN", "STD"),
    ("means", "stds"),
    ("subtrahend", "divisor"),
)
"""Attributes that state a normalization; the last are MONAI's."""

_LEADS = re.compile("transform|aug|normal|process|pipeline|dataset|collate|format|lambd|hparams|config|cfg", re.I)
"""Attributes that may lead to a normalization."""

_OTHERS = re.compile("noise|blur|eras|dropout|jitter", re.I)
"""Classes whose mean and standard deviation are something else."""

_MOST_OBJECTS = 20_000
_MOST_ITEMS = 100
_MOST_VALUES = 1_000_000
_OUTSIDE = 0.001
"""Share of the values that may lie outside of what is shown, at each end."""

_TOLERANCE = 0.02
"""How far pixels may lie outside of [0, 1], as a share of their range: resizing overshoots."""

_HALF = 0.5
"""Pixels that fill this share of [0, 1] need no normalization."""

_TIGHT = 0.6
"""The share of [0, 1] that pixels must fill for known statistics to count."""


def find_normalization(
    images: Tensor, model: nn.Module, holders: Iterable[Any], *, bands: Sequence[int] | None = None
) -> tuple[Normalization, str]:
    """Return the normalization of images, and where it is from, by evidence that the values do not contradict.

    In this order: what datasets, data modules, modules and the model state, by transforms and by attributes such as
    ``mean`` and ``std``; the known statistics that give pixels in [0, 1]; the range of the values without outliers.

    Args:
        images: ``(N, C, H, W)`` in model space, of the type that they had in the batch.
        model: May have a ``pretrained_cfg``.
        holders: Datasets, data modules and modules, in the order in which they are asked.
        bands: The channels that are shown, which alone count. None: the first three.

    Example:
        >>> find_normalization(torch.tensor([-1.0, 1.0]).view(1, 1, 1, 2), nn.Identity(), [])
        (Normalization(mean=(0.5,), std=(0.5,)), 'values in [-1, 1]')
    """
    if images.dtype == torch.uint8:
        return KNOWN["values in [0, 255]"], "8 bit"
    values = _Values(images, bands)
    plain = values.filled(Normalization()) if values.finite else None
    # Pixels are not normalised, whatever the model was trained with or does to them itself.
    pixels = plain is not None and (plain >= _HALF or values.in_8_bit(Normalization()))
    for holder in () if pixels else holders:
        if plain is None or not isinstance(holder, nn.Module):
            for found, source in stated_by(holder):
                if values.allow(found):
                    return found, source
    own = normalization_of(model) if plain is None else None
    if own is not None and values.allow(own):
        return own, "the model's pretrained_cfg"
    return values.guess()


def stated_by(holder: Any) -> Iterator[tuple[Normalization, str]]:
    """Yield what a dataset, data module or module states: the last ``Normalize`` of its transforms first.

    Example:
        >>> from torchvision.transforms import Compose, Normalize
        >>> class Photos: transform = Compose([Normalize((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))])
        >>> next(stated_by(Photos()))[0].mean
        (0.5, 0.4, 0.3)
    """
    for owner, part in reversed(list(_parts(holder, holder, set()))):
        for mean, std in _pairs(part):
            # Some are meant for pixels from 0 to 255.
            unit = 255 if max(mean) > 1.5 else 1
            numbers = Normalization(tuple(one / unit for one in mean), tuple(one / unit for one in std))
            what = type(part).__name__ if "normal" in type(part).__name__.lower() else "mean and std"
            yield numbers, f"{what} of {type(owner).__name__}"


class _Values:
    """The values of the channels that are shown.

    Args:
        images: ``(N, C, H, W)``.
        bands: The channels that are shown. None: the first three.
    """

    def __init__(self, images: Tensor, bands: Sequence[int] | None) -> None:
        self.channels = images.shape[1]
        self.shown = list(range(min(self.channels, 3)) if bands is None else bands)
        maps = images[:, self.shown].detach().float()
        every = maps.transpose(0, 1).flatten(1)
        sparse = every[:, :: max(1, every.shape[1] // _MOST_VALUES)]
        found = [row[row.isfinite()] for row in sparse]
        self.finite = bool(every.isfinite().any())
        self.rows = sparse
        limits = torch.tensor([_limits(row) for row in found], dtype=torch.float64)
        # A channel without any number says nothing.
        self.low, self.high = (limits[:, at].nan_to_num(float(limits[:, at].nanmean())) for at in (0, 1))
        whole = every[every.isfinite()]
        self.least, self.most = (float(whole.min()), float(whole.max())) if self.finite else (0.0, 0.0)
        self.gray = len(self.shown) == 1 or bool((sparse == sparse[:1]).all())

    def filled(self, normalization: Normalization) -> float | None:
        """Return which share of [0, 1] the pixels fill, or None if they do not lie in it."""
        if not normalization.suits(self.channels):
            return None
        if not self.finite:
            return 1.0
        mean, std = (self._of_shown(one) for one in (normalization.mean, normalization.std))
        low, high = self.low * std + mean, self.high * std + mean
        beyond = _TOLERANCE * float((high - low).max())
        if low.min() < -beyond or high.max() > 1 + beyond:
            return None
        return float((high - low).mean())

    def allow(self, stated: Normalization) -> bool:
        """Return whether the values do not contradict what is stated: by lying outside, or by what fits far better."""
        filled = self.filled(stated)
        if filled is None:
            return False
        best = max((fit for known in KNOWN.values() if (fit := self.filled(known)) is not None), default=0.0)
        return filled >= _TIGHT or best < 0.9 or self.in_8_bit(stated)

    def in_8_bit(self, normalization: Normalization) -> bool:
        """Return whether the pixels are whole multiples of 1/255."""
        steps = 255 * self._pixels(normalization)
        steps = steps[steps.isfinite()]
        return len(steps) > 0 and bool(((steps - steps.round()).abs() < 0.01).float().mean() > 0.95)

    def guess(self) -> tuple[Normalization, str]:
        """Return the known statistics that fit best, else what brings the range of the values to [0, 1]."""
        if self.filled(Normalization()) is not None or not self.finite:
            return Normalization(), "values in [0, 1]"
        fitting = {}
        for name, known in KNOWN.items():
            gray = len(set(known.mean)) == 1
            # Statistics of colours would tint what is gray, and those of gray images do not suit colours.
            if self.gray != gray and name not in _ANY_COLOUR:
                continue
            if (filled := self.filled(known)) is not None:
                fitting[name] = filled + self._agrees(known) + self.in_8_bit(known)
        best = max(fitting, key=fitting.__getitem__, default="")
        if best and (fitting[best] >= _TIGHT or (best == "values in [0, 255]" and fitting[best] > 0.2)):
            return KNOWN[best], best if best in _ANY_COLOUR else f"{best}, by values"
        return self._range()

    def _agrees(self, normalization: Normalization) -> bool:
        """Whether all channels become the same, which only the right statistics of colours do."""
        if len(set(normalization.mean)) == 1:
            return False
        pixels = self._pixels(normalization)
        return bool((pixels - pixels[:1]).abs().nan_to_num().max() < 0.01)

    def _range(self) -> tuple[Normalization, str]:
        low, high = float(self.low.min()), float(self.high.max())
        source = f"{_OUTSIDE:.1%} to {1 - _OUTSIDE:.1%} of the values, without outliers"
        if self.most - self.least <= 2 * (high - low):
            low, high, source = self.least, self.most, f"the range of the values, {self.least:.3g} to {self.most:.3g}"
        if high <= low:
            return Normalization((0.5 - low,), (1.0,)), "a constant, shown as gray"
        # With low -> 0 and high -> 1, pixels = images / (high - low) - low / (high - low).
        return Normalization((-low / (high - low),), (1 / (high - low),)), source

    def _pixels(self, normalization: Normalization) -> Tensor:
        mean, std = (self._of_shown(one)[:, None] for one in (normalization.mean, normalization.std))
        return self.rows[:, :: max(1, self.rows.shape[1] // 20_000)].double() * std + mean

    def _of_shown(self, numbers: Sequence[float]) -> Tensor:
        every = torch.tensor(numbers, dtype=torch.float64)
        return (every if len(every) > 1 else every.expand(self.channels))[self.shown]


def _limits(row: Tensor) -> tuple[float, float]:
    """Return the lowest and the highest value without the share that may lie outside, which is one value at least."""
    if not len(row):
        return math.nan, math.nan
    ordered = row.sort().values
    outside = min(math.ceil(_OUTSIDE * len(ordered)), (len(ordered) - 1) // 8)
    return float(ordered[outside]), float(ordered[-1 - outside])


def _pairs(owner: Any) -> Iterator[tuple[tuple[float, ...], tuple[float, ...]]]:
    """Yield the means and standard deviations that an object has as attributes or items."""
    if _OTHERS.search(type(owner).__name__):
        return
    flags = getattr(owner, "flags", None)
    for holder in (owner, flags) if isinstance(flags, Mapping) else (owner,):
        for names in _ATTRIBUTES:
            mean, std = (stated(holder, name) for name in names)
            with_both = mean is not None and std is not None
            numbers = [_numbers(one) for one in (mean, std)] if with_both else []
            if numbers and all(numbers) and min(numbers[1]) > 0:
                yield numbers[0], numbers[1]


def _numbers(value: Any) -> tuple[float, ...]:
    try:
        found = numbers_of(value)
    except (TypeError, ValueError, RuntimeError):
        return ()
    return found if 0 < len(found) <= _MOST_ITEMS and all(map(math.isfinite, found)) else ()


def _parts(owner: Any, holder: Any, seen: set[int]) -> Iterator[tuple[Any, Any]]:
    """Yield an object and what may lead from it to a normalization, in the order in which transforms are applied.

    With each comes its owner: the innermost dataset that it is a part of, or the first object.
    """
    if holder is None or isinstance(holder, (str, bytes, int, float, Tensor, type, ModuleType)) or id(holder) in seen:
        return
    if len(seen) < _MOST_OBJECTS:
        seen.add(id(holder))
        owner = holder if isinstance(holder, Dataset) else owner
        yield owner, holder
        for part in _inner(holder):
            yield from _parts(owner, part, seen)


def _inner(holder: Any) -> list[Any]:
    if isinstance(holder, Mapping):
        return list(holder.values()) if len(holder) <= _MOST_ITEMS else []
    if isinstance(holder, (list, tuple)):
        return list(holder) if len(holder) <= _MOST_ITEMS else []
    if isinstance(holder, partial):
        return [holder.func, *holder.args, *holder.keywords.values()]
    if isinstance(holder, FunctionType):
        # What it uses of the function or file around it.
        try:
            used = inspect.getclosurevars(holder)
        except ValueError:
            # A variable that has no value yet.
            return []
        return [*used.nonlocals.values(), *(value for name, value in used.globals.items() if _LEADS.search(name))]
    classes = [vars(cls) for cls in reversed(type(holder).__mro__)]
    named = {name: value for part in (*classes, getattr(holder, "__dict__", {})) for name, value in part.items()}
    found = [
        value
        for name, value in named.items()
        if _LEADS.search(name) and not isinstance(value, (property, classmethod, staticmethod))
    ]
    return [*found, *holder.children()] if isinstance(holder, nn.Module) else found
