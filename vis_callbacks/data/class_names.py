"""Find class names in datasets, modules and models."""

import sys
from collections.abc import Iterable
from typing import Any

from torch import nn

from vis_callbacks.model.pretrained_cfg import pretrained_cfgs


def find_class_names(model: nn.Module, holders: Iterable[Any]) -> tuple[str, ...]:
    """Return the class names of a dataset or module, or those of ImageNet for a timm model with 1,000 classes."""
    for holder in holders:
        if names := class_names_in(holder):
            return names
    for module, config in pretrained_cfgs(model):
        if config.get("label_names"):
            return tuple(config["label_names"])
        if getattr(module, "num_classes", 0) == config.get("num_classes") == 1000:
            return _imagenet_names()
    return ()


def class_names_in(holder: Any) -> tuple[str, ...]:
    """Return the ``classes`` of a dataset, also inside subsets and concatenations."""
    for _ in range(10):
        classes = getattr(holder, "classes", None)
        if isinstance(classes, (list, tuple)) and classes and all(isinstance(name, (str, int)) for name in classes):
            return tuple(map(str, classes))
        datasets = getattr(holder, "datasets", None)
        holder = datasets[0] if isinstance(datasets, (list, tuple)) and datasets else getattr(holder, "dataset", None)
    return ()


def _imagenet_names() -> tuple[str, ...]:
    # A model with a timm configuration comes from timm, so timm is loaded already.
    data = sys.modules.get("timm.data")
    if data is None:
        return ()
    info = data.ImageNetInfo()
    return tuple(info.index_to_description(index) for index in range(1000))
