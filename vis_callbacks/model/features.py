"""Which layers of any classifier to look at, and how their outputs become maps ``(N, C, h, w)``."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from vis_callbacks.errors import LayerError
from vis_callbacks.model.attention import UNREAD, AttentionReads
from vis_callbacks.model.classifier import Targets
from vis_callbacks.model.doubled import doubled_outputs
from vis_callbacks.model.feature_info import AtStride, FeatureInfo, LayerChoice
from vis_callbacks.model.feature_probe import FeatureProbe
from vis_callbacks.model.guard import pass_notes
from vis_callbacks.model.inputs import check_images
from vis_callbacks.model.layers import find_layer, named_layers
from vis_callbacks.model.layout import Layout
from vis_callbacks.model.refusal import guarded
from vis_callbacks.model.see_through import version_of
from vis_callbacks.model.structure import Structure
from vis_callbacks.model.trace import Trace, trace


class _Cache:
    """The feature info of one model, by image size, as long as the model keeps its structure."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, ...], _Found] = {}

    def get(self, model: nn.Module, images: Tensor) -> FeatureInfo | None:
        found, alike = self._found.get(tuple(images.shape[1:])), pass_notes(model).alike
        if found is None:
            return None
        # The walk over all modules takes as long as a small layer, and several techniques ask.
        if id(found) not in alike and not found.structure.is_of(model):
            return None
        alike.add(id(found))
        if any(layer.reaches_logit for layer in found.info.layers) or found.versions == _versions(model):
            return found.info
        # No gradient reached any layer, as with a head whose weights start at zero: other weights may change that.
        return None

    def put(self, model: nn.Module, images: Tensor, found: FeatureInfo, before: Structure) -> None:
        self._found[tuple(images.shape[1:])] = _Found(found, before.as_kept_by(model), _versions(model))


@dataclass
class _Found:
    info: FeatureInfo
    structure: Structure
    versions: tuple[int, ...]


_caches: WeakKeyDictionary[nn.Module, _Cache] = WeakKeyDictionary()


def _cache_of(model: nn.Module) -> _Cache:
    return _caches.setdefault(model, _Cache())


def _versions(model: nn.Module) -> tuple[int, ...]:
    return tuple(map(version_of, model.parameters()))


def feature_info(model: nn.Module, images: Tensor) -> FeatureInfo:
    """Return what one pass of the first image shows about all layers.

    It runs once for each model and image size, and again when the model's structure has changed.

    Args:
        model: From images to logits; left as found.
        images: ``(N, C, H, W)`` float, in the model's input space; only the first is used.

    Returns:
        A `FeatureInfo`, which holds names and numbers only and is valid for images of this size.

    Raises:
        ConfigurationError: If the images are not float ``(N, C, H, W)``.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> found = feature_info(net, torch.rand(1, 3, 16, 16))
        >>> found.default_layer(), found.layout("0").size
        ('1', (14, 14))
    """
    check_images(images)
    cache = _cache_of(model)
    found = cache.get(model, images)
    if found is None:
        before = Structure(model)
        found = _probed(model, images)
        cache.put(model, images, found, before)
    return found


@guarded
def _probed(model: nn.Module, images: Tensor) -> FeatureInfo:
    # The shapes for two images tell which axis is the batch, wherever it is; the graph of one takes half the memory.
    image = images[:1]
    return FeatureProbe(model, image, doubled=doubled_outputs(model, image)).run()[0]


def known_feature_info(model: nn.Module, images: Tensor) -> FeatureInfo | None:
    """Return the `feature_info` that an earlier pass has found, or None: this runs no pass."""
    cache = _caches.get(model)
    return None if cache is None else cache.get(model, images)


def trace_layer_choices(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    *,
    input_gradient: bool = False,
    activations: Sequence[LayerChoice] = (),
    gradients: Sequence[LayerChoice] = (),
    attention: AttentionReads = UNREAD,
) -> Trace:
    """Run one forward and one backward as `trace` does, for layers of which some may be left to choose.

    The first pass of a model finds its `feature_info` as well, where it can, so that no other pass is needed for that.
    Choices that the model has no layer for are left out: whoever looks at the layer gets the error. Call it inside
    `undisturbed`.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space.
        targets: Classes whose logits are differentiated; None for the predicted ones.
        input_gradient: Whether to return the gradient at the images.
        activations: Layers whose outputs are returned.
        gradients: Layers whose outputs and gradients are returned.
        attention: What is read of the attention.

    Returns:
        The `Trace`, with layers by their full names.
    """
    check_images(images)
    if isinstance(model, torch.jit.ScriptModule):
        activations = gradients = ()
    choices = bool(activations or gradients or attention)
    cache = _cache_of(model)
    # For a single image, the batch axis is like any other axis of length one.
    if choices and len(images) > 1 and cache.get(model, images) is None:
        probe, before = FeatureProbe(model, images), Structure(model)
        found, seen = probe.run(targets, input_gradient, activations, gradients, attention)
        if probe.certain:
            cache.put(model, images, found, before)
            if seen is not None:
                return seen
    outputs, differentiated = (
        feature_info(model, images).layouts(choice) if choice else [] for choice in (activations, gradients)
    )
    return trace(
        model,
        images,
        targets,
        input_gradient=input_gradient,
        activations=outputs,
        gradients=differentiated,
        attention=attention,
    )


def default_layer(model: nn.Module, images: Tensor) -> str:
    """Return the name of the layer whose map explains a prediction best: the last one that is fine enough to look at.

    That is the last one that the logits depend on, unless its map has less than 7x7 positions and another has more.
    For a convolutional model this is the input of the pooling before the classifier. Where the classifier reads a
    class token only, the patch tokens after the last block have no influence, and it is the norm before the last
    attention.

    Args:
        model: From images to logits; left as found.
        images: ``(N, C, H, W)``, in the model's input space; only the first is used.

    Raises:
        LayerError: If no layer has a spatial map.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> default_layer(net, torch.rand(1, 3, 16, 16))
        '1'
    """
    return feature_info(model, images).default_layer()


def layers_across_depth(model: nn.Module, images: Tensor, count: int = 4) -> list[str]:
    """Return up to `count` layers with maps, from shallow to deep: ends of stages, or blocks evenly over the depth.

    Args:
        model: From images to logits; left as found.
        images: ``(N, C, H, W)``, in the model's input space; only the first is used.
        count: Number of layers.

    Raises:
        LayerError: If no layer has a spatial map.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.Flatten(),
        ...                     nn.Linear(200, 5))
        >>> layers_across_depth(net, torch.rand(1, 3, 16, 16), count=2)
        ['2', '3']
    """
    return feature_info(model, images).across_depth(count)


def middle_layer(model: nn.Module, images: Tensor) -> str:
    """Return the full name of a layer at two thirds of the depth, whose features are neither edges nor classes.

    Args:
        model: From images to logits; left as found.
        images: ``(N, C, H, W)``, in the model's input space; only the first is used.
    """
    try:
        return layers_across_depth(model, images, 3)[:2][-1]
    except LayerError:
        # Without maps, any layer before the logits.
        return list(named_layers(model))[:-1][-1]


def find_layout(model: nn.Module, images: Tensor, layer: str | AtStride | None = None) -> Layout:
    """Return how the output of a layer, named or the default one, becomes a map.

    Args:
        model: From images to logits; left as found.
        images: ``(N, C, H, W)``, in the model's input space; only the first is used.
        layer: A layer's name, see `find_layer`, or the last of a stride; None for the `default_layer`.

    Returns:
        A `Layout`: its `layer` is the full name, its `to_map` takes outputs and gradients of any batch size.

    Raises:
        LayerError: If there is no such layer, it did not run, or it has no spatial map.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1568, 5))
        >>> find_layout(net, torch.rand(1, 3, 16, 16), "1").to_map(torch.rand(4, 8, 14, 14)).shape
        torch.Size([4, 8, 14, 14])
    """
    if layer is None or isinstance(layer, AtStride):
        found = feature_info(model, images)
        return found.layout(found.default_layer() if layer is None else found.layer_at(layer.most))
    name = find_layer(model, layer)[0]
    return feature_info(model, images).layout(name)


def output_layout(model: nn.Module, images: Tensor, layer: str) -> Layout:
    """Return where the batch and the channels are in the output of a layer, which need not have a map.

    Args:
        model: From images to logits; left as found.
        images: ``(N, C, H, W)``, in the model's input space; only the first is used.
        layer: A layer's name, see `find_layer`.

    Returns:
        A `Layout`, whose `channels_first` takes outputs for images of any size.

    Raises:
        LayerError: If there is no such layer, it did not run, or its output holds several windows per image.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(1568, 5))
        >>> [output_layout(net, torch.rand(1, 3, 16, 16), layer).axes for layer in ("0", "2")]
        ['NCHW', 'NC']
    """
    found = feature_info(model, images).layer(find_layer(model, layer)[0])
    layout = found.layout or Layout(found.name, "NC", (1, 1), channels=math.prod(found.shape[1:2]))
    if layout.windows > 1:
        raise LayerError(f"layer {layer!r} gives {layout.windows} windows of each image: name one around the windows")
    return layout
