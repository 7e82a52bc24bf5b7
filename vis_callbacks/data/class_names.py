"""Find class names in datasets, data modules, modules and models, and check them against the labels."""

import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vis_callbacks.errors import brief
from vis_callbacks.model.attributes import stated
from vis_callbacks.model.guard import undisturbed
from vis_callbacks.model.pretrained_cfg import pretrained_cfgs

_BY_NAME = ("class_to_idx", "class_to_index", "label_to_idx", "label2id")
_BY_NUMBER = ("idx_to_class", "index_to_class", "idx_to_label", "id2label")
_LISTS = ("classes", "class_names", "classnames", "label_names", "target_names", "categories", "attr_names")
_DOUBTFUL = ("names", "labels")
"""Attributes that may also hold one item for each image; these are no class names."""

_MOST_LEVELS = 10
_MOST_NAMES = 100_000


def find_class_names(
    model: nn.Module, holders: Iterable[Any], *, labels: Iterable[int] = (), width: int | None = None
) -> tuple[tuple[str, ...], str]:
    """Return the class names that a dataset, module or model states, by number, unless something contradicts them.

    Args:
        model: May be a timm model of ImageNet's classes, or have a ``config`` with ``id2label``.
        holders: Datasets, data modules and modules, in the order in which they are asked.
        labels: The labels that were seen; negative ones mean nothing.
        width: Number of classes by the model's outputs or the labels' columns, if known.

    Returns:
        The names, empty if there are none or they are contradicted; and the contradiction as one sentence, or "".

    Example:
        >>> class Pets: class_to_idx = {"dog": 1, "cat": 0}
        >>> find_class_names(nn.Identity(), [Pets()], labels=[0, 1])
        (('cat', 'dog'), '')
        >>> find_class_names(nn.Identity(), [Pets()], labels=[2])[1]
        'Pets names 2 classes (cat, dog), but label 2 was seen: classes are shown by number; give class_names='
    """
    for source, names, problem in _stated(model, holders):
        about = _about(source, names)
        nameless = [label for label in labels if label >= 0 and not "".join(names[label : label + 1])]
        if not problem and nameless:
            problem = f"{about}, but label {max(nameless)} was seen"
        if not problem and width not in (None, len(names)):
            problem = f"{about}, but there are {width}"
        if problem:
            return (), f"{problem}: classes are shown by number; give class_names="
        return tuple(name or str(at) for at, name in enumerate(names)), ""
    return (), ""


def _stated(model: nn.Module, holders: Iterable[Any]) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Yield who states class names, the names, and why they cannot be used."""
    for holder in holders:
        levels: list[Any] = []
        for level in _levels(holder):
            levels.insert(0, level)
            if names := class_names_in(level):
                yield type(level).__name__, *_followed(levels, names)
    for module in model.modules():
        if names := class_names_in(getattr(module, "config", None)):
            yield type(module).__name__, names, ""
    for module, config in pretrained_cfgs(model):
        if config.get("label_names"):
            yield type(module).__name__, tuple(config["label_names"]), ""
        if getattr(module, "num_classes", 0) == config.get("num_classes") == 1000 and (names := _imagenet_names()):
            yield type(module).__name__, names, ""


def _levels(holder: Any) -> Iterator[Any]:
    """Yield a dataset and those inside it: of subsets, concatenations, chains and wrappers."""
    for _ in range(_MOST_LEVELS):
        if holder is None:
            return
        yield holder
        inner = stated(holder, "datasets")
        inner = list(inner.values()) if isinstance(inner, Mapping) else inner
        holder = inner[0] if isinstance(inner, (list, tuple)) and inner else stated(holder, "dataset")


def class_names_in(holder: Any, depth: int = 3) -> tuple[str, ...]:
    """Return the class names that an object states by itself, by number, "" where it skips one; empty without any.

    Example:
        >>> class Scans: info = {"label": {"0": "benign", "1": "malignant"}}
        >>> class_names_in(Scans())
        ('benign', 'malignant')
    """
    if not depth:
        return ()
    for name in _BY_NAME:
        found = stated(holder, name)
        if isinstance(found, Mapping) and all(isinstance(number, Integral) for number in found.values()):
            # Folders may have numbers for names.
            names = _by_number([(number, str(name)) for name, number in found.items()])
        else:
            names = _names_of(found)
        if names:
            return names
    for name in (*_BY_NUMBER, *_LISTS):
        if names := _names_of(stated(holder, name)):
            return names
    for name in _DOUBTFUL:
        names = _names_of(stated(holder, name))
        if len(set(names)) == len(names) != _length(holder) and not all(map(_is_number, names)):
            return names
    # Data sets of Hugging Face describe their columns, and those of MedMNIST themselves.
    features = stated(holder, "features")
    for column in features.values() if isinstance(features, Mapping) else ():
        column = getattr(column, "feature", column)
        if names := _names_of(getattr(column, "names", None)):
            return names
    for name in ("info", "INFO"):
        info = stated(holder, name)
        if isinstance(info, Mapping) and (names := _names_of(info.get("label")) or class_names_in(info, depth - 1)):
            return names
    for name in ("hparams", "config"):
        inner = stated(holder, name)
        if inner is not None and (names := class_names_in(inner, depth - 1)):
            return names
    return ()


def _length(holder: Any) -> int | None:
    try:
        return len(holder)
    except Exception:
        # A dataset that streams may have a length that cannot be told.
        return None


def _names_of(value: Any) -> tuple[str, ...]:
    """Return names from a list, array or dict: of names, of (number, name) in any order, or of dicts with both."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, Mapping):
        return _by_number(list(value.items()))
    if not isinstance(value, (list, tuple)) or not value:
        return ()
    if all(isinstance(one, Mapping) and {"id", "name"} <= one.keys() for one in value):
        return _by_number([(one["id"], one["name"]) for one in value])
    if all(isinstance(one, (list, tuple)) and len(one) == 2 and not all(map(_is_text, one)) for one in value):
        return _by_number(list(value))
    if all(isinstance(one, (list, tuple)) and one and all(isinstance(name, str) for name in one) for one in value):
        # ImageNet's synonyms.
        value = [", ".join(one) for one in value]
    if not all(isinstance(one, (str, Integral)) for one in value):
        return ()
    return _unless_generic(map(str, value))


def _by_number(pairs: list[tuple[Any, Any]]) -> tuple[str, ...]:
    """Return names from pairs of number and name, or of name and number."""
    if all(isinstance(number, Integral) and isinstance(name, str) for name, number in pairs):
        pairs = [(number, name) for name, number in pairs]
    pairs = [(number, name.get("name") if isinstance(name, Mapping) else name) for number, name in pairs]
    if not pairs or not all(_is_number(number) and isinstance(name, (str, Integral)) for number, name in pairs):
        return ()
    found: dict[int, list[str]] = {}
    for number, name in pairs:
        found.setdefault(int(number), []).append(str(name))
    if min(found) < 0 or max(found) >= _MOST_NAMES:
        return ()
    return _unless_generic(", ".join(found.get(number, [])) for number in range(max(found) + 1))


def _is_number(value: Any) -> bool:
    return isinstance(value, Integral) or (isinstance(value, str) and value.isdecimal())


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not value.isdecimal()


def _unless_generic(names: Iterable[str]) -> tuple[str, ...]:
    found = tuple(names)
    # What transformers call classes whose names they were not told.
    return () if all(re.fullmatch(r"(LABEL_\d+)?", name) for name in found) else found


def _followed(levels: Sequence[Any], names: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """Return the names in the order of the labels after each ``target_transform``, or why that cannot be known."""
    changes = [level.target_transform for level in levels if callable(getattr(level, "target_transform", None))]
    if not changes:
        return names, ""
    about = f"{_about(type(levels[0]).__name__, names)}, but its target_transform"
    try:
        with undisturbed(nn.Identity()):
            labels = [_label_of(reduce(lambda label, change: change(label), changes, at)) for at in range(len(names))]
    except Exception as error:
        return names, f"{about} cannot be followed ({brief(error, 80)})"
    if len(set(labels)) < len(names):
        return names, f"{about} gives several of them one label"
    moved = _by_number(list(zip(labels, names, strict=True)))
    return (moved, "") if moved else (names, f"{about} gives other labels")


def _label_of(value: Any) -> int:
    if isinstance(value, (Tensor, np.ndarray)) and math.prod(value.shape) > 1:
        row = torch.as_tensor(value).flatten()
        if int((row == 1).sum()) != 1 or int((row == 0).sum()) != len(row) - 1:
            raise ValueError("no one-hot label")
        return int(row.argmax())
    if int(value) != value:
        raise ValueError("no class")
    return int(value)


def _about(source: str, names: tuple[str, ...]) -> str:
    known = [name for name in names if name]
    text = ", ".join(known[:3]) + (", …" if len(known) > 3 else "")
    return f"{source} names {len(known)} classes ({text if len(text) <= 60 else text[:59] + '…'})"


def _imagenet_names() -> tuple[str, ...]:
    # A model with a timm configuration comes from timm, so timm is loaded already.
    data = sys.modules.get("timm.data")
    if data is None:
        return ()
    info = data.ImageNetInfo()
    return tuple(info.index_to_description(index) for index in range(1000))
