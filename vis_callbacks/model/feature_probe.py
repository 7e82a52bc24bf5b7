"""Finds out about all layers of a model from one forward and one backward pass, which techniques may share."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from vis_callbacks.errors import LayerError
from vis_callbacks.model.classifier import Targets, logits_of, resolve_targets, target_scores
from vis_callbacks.model.feature_info import FeatureInfo, LayerChoice, LayerInfo
from vis_callbacks.model.guard import guarded
from vis_callbacks.model.inputs import check_images
from vis_callbacks.model.layers import named_layers
from vis_callbacks.model.layout import Layout, LayoutReader
from vis_callbacks.model.trace import Trace, first_tensor, trace
from vis_callbacks.model.window_partition import WindowPartition, find_windows

_KEPT = 3
"""Gradients that are kept of the deepest layers, one of which is that of the default layer."""

_SOURCES = 3
"""Maps that windows may have been cut from: the latest."""


class _Surveys:
    """What is known of one model, by image size."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = list(map(ref, model.modules()))
        self._found: dict[tuple[int, ...], tuple[FeatureInfo, tuple[int, ...]]] = {}

    def get(self, model: nn.Module, images: Tensor) -> FeatureInfo | None:
        """Return the survey for images of this size, if it still holds."""
        found, weights = self._found.get(tuple(images.shape[1:]), (None, ()))
        if found is None or any(layer.reaches_logit for layer in found.layers) or weights == _versions(model):
            return found
        # No gradient reached a layer, as where the head's weights begin at zero: other weights may tell more.
        return None

    def put(self, model: nn.Module, images: Tensor, found: FeatureInfo) -> None:
        """Keep a survey."""
        self._found[tuple(images.shape[1:])] = found, _versions(model)


_known: WeakKeyDictionary[nn.Module, _Surveys] = WeakKeyDictionary()


def feature_info(model: nn.Module, images: Tensor) -> FeatureInfo:
    """Tell what every layer gives, from a pass of the first image; a model is asked once for each image size.

    It is asked again when its modules were exchanged.

    Args:
        model: From images to logits; left as found.
        images: ``(N, C, H, W)`` float, in the model's input space; only the first is used.

    Returns:
        A `FeatureInfo`, which holds names and numbers only and is valid for images of this size.

    Raises:
        ConfigurationError: If the images are not float ``(N, C, H, W)``.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> found = feature_info(net, torch.rand(1, 3, 16, 16))
        >>> found.default_layer(), found.layout("0").size
        ('1', (14, 14))
    """
    check_images(images)
    surveys = _surveys_of(model)
    found = surveys.get(model, images)
    if found is None:
        found = _survey(model, images)
        surveys.put(model, images, found)
    return found


def surveyed_trace(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    *,
    input_gradient: bool = False,
    activations: Sequence[LayerChoice] = (),
    gradients: Sequence[LayerChoice] = (),
) -> Trace:
    """Run one forward and one backward as `trace` does, for layers that may not be known before it.

    What the first pass of a model finds out about its layers serves all that come later. A choice of layers that a
    model does not have is left out: it is an error where the layer is looked at. To be called inside `undisturbed`.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space.
        targets: Classes whose logits are differentiated; None for the predicted ones.
        input_gradient: Whether to return the gradient at the images.
        activations: Layers whose outputs are returned.
        gradients: Layers whose outputs and gradients are returned.

    Returns:
        The `Trace`, with layers by their full names.
    """
    choices = [*activations, *gradients]
    check_images(images)
    surveys = _surveys_of(model)
    # The batch axis of one image cannot be told from others of length one.
    if choices and len(images) > 1 and surveys.get(model, images) is None:
        observed = _Probe(model, images)
        found, seen = observed.trace(targets, input_gradient, activations, gradients)
        if observed.certain:
            surveys.put(model, images, found)
            if seen is not None:
                return seen
    outputs, differentiated = (
        _names(feature_info(model, images), choice) if choice else [] for choice in (activations, gradients)
    )
    return trace(model, images, targets, input_gradient=input_gradient, activations=outputs, gradients=differentiated)


def _names(known: FeatureInfo, choices: Sequence[LayerChoice]) -> list[str]:
    names: dict[str, None] = {}
    for choice in choices:
        with suppress(LayerError):
            chosen = known.choose(choice)
            for name in chosen:
                known.layout(name)
            names |= dict.fromkeys(chosen)
    return list(names)


def _surveys_of(model: nn.Module) -> _Surveys:
    surveys = _known.get(model)
    if surveys is None or surveys.modules != list(map(ref, model.modules())):
        surveys = _known[model] = _Surveys(model)
    return surveys


def _versions(model: nn.Module) -> tuple[int, ...]:
    """Numbers that change with the weights."""
    return tuple(map(_version, model.parameters()))


@guarded
def _survey(model: nn.Module, images: Tensor) -> FeatureInfo:
    # The shapes for two images tell which axis is the batch, also for layers that put it elsewhere; the graph of one
    # takes half of the memory.
    image = images[:1]
    return _Probe(model, image, doubled=_shapes(model, image.expand(2, -1, -1, -1))).trace()[0]


def _shapes(model: nn.Module, images: Tensor) -> dict[str, tuple[int, ...]]:
    """Return the shape of what each layer gives, by full name."""
    shapes: dict[str, tuple[int, ...]] = {}

    def observe(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            tensor = first_tensor(output)
            if tensor is not None:
                shapes[name] = tuple(tensor.shape)

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name, module in named_layers(model).items():
            stack.callback(module.register_forward_hook(observe(name)).remove)
        logits_of(model, images)
    return shapes


@dataclass
class _Seen:
    """The output of a layer, while the pass is under way.

    Attributes:
        number: That of the tensor in this version, which tells it from what an in-place ReLU makes of it.
        tensor: The output, where it is held.
    """

    module: nn.Module
    number: int
    output: ref[Tensor]
    shape: tuple[int, ...]
    version: int
    tensor: Tensor | None
    layout: Layout | None
    passes_through: bool
    runs: int

    def gave(self, tensor: Tensor) -> bool:
        """Whether this is the output, unchanged."""
        return self.output() is tensor and _version(tensor) == self.version

    @property
    def as_given(self) -> Tensor | None:
        """The output, if it is what the layer gave, to the layers behind it alone."""
        unchanged = self.tensor is not None and _version(self.tensor) == self.version
        return self.tensor if unchanged and not self.passes_through else None


class _Probe:
    """One pass of a model, all of whose layers are looked at.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)``.
        doubled: Shapes for twice as many images. With them, nothing but the graph is held, and there is no trace.

    Attributes:
        certain: Whether the axes of all outputs could be told; not where there are as many tokens as images.
    """

    def __init__(
        self, model: nn.Module, images: Tensor, *, doubled: Mapping[str, tuple[int, ...]] | None = None
    ) -> None:
        self._model = model
        self._images = images.detach().clone().requires_grad_()
        self._doubled = doubled
        self._reader = LayoutReader(model, (images.shape[-2], images.shape[-1]), len(images), doubled)
        self._seen: dict[str, _Seen] = {}
        self._outputs = count()
        self._sources: deque[tuple[Layout, Tensor]] = deque(maxlen=_SOURCES)
        self._reached: dict[int, tuple[bool, Tensor | None]] = {}
        self._candidates: set[int] = set()
        self._windows: WindowPartition | None = None
        self.certain = True

    def trace(
        self,
        targets: Targets = None,
        input_gradient: bool = True,
        activations: Sequence[LayerChoice] = (),
        gradients: Sequence[LayerChoice] = (),
    ) -> tuple[FeatureInfo, Trace | None]:
        """Return the survey, and the trace if what the layers gave was still there at the end of the pass."""
        with ExitStack() as stack:
            for name, module in named_layers(self._model).items():
                stack.callback(module.register_forward_hook(self._observe(name)).remove)
                if self._holds and getattr(module, "inplace", False):
                    stack.callback(module.register_forward_pre_hook(_spare_input).remove)
            logits = logits_of(self._model, self._images)
        self._sources.clear()
        self._watch_changed()
        found = self._survey()
        chosen = resolve_targets(targets, logits)
        if not logits.requires_grad:
            return found, None
        named = _names(found, [choice for choice in gradients if choice is not None])
        wanted = [self._images, *(tensor for name in named if (tensor := self._seen[name].tensor) is not None)]
        if self._holds:
            self._candidates.update(layer.output for layer in found.candidates())
        grads = torch.autograd.grad(target_scores(logits, chosen).sum(), wanted, allow_unused=True)
        found = self._survey()
        if not self._holds:
            return found, None
        at_layers: dict[str, Tensor | None] = dict(zip(named, grads[1:], strict=True))
        if None in gradients:
            for name in _names(found, [None]):
                number = next(layer.output for layer in found.layers if layer.name == name)
                at_layers[name] = self._reached.get(number, (False, None))[1]
        needed = {name: self._seen[name].as_given for name in dict.fromkeys([*_names(found, activations), *at_layers])}
        if any(tensor is None for tensor in (*needed.values(), *at_layers.values())):
            return found, None
        at_images = grads[0] if grads[0] is not None else torch.zeros_like(self._images)
        return found, Trace(
            images=self._images.detach(),
            logits=logits.detach(),
            targets=chosen,
            input_gradient=at_images.detach().float() if input_gradient else None,
            activations={name: tensor.detach().float() for name, tensor in needed.items() if tensor is not None},
            gradients={name: grad.detach().float() for name, grad in at_layers.items() if grad is not None},
        )

    @property
    def _holds(self) -> bool:
        return self._doubled is None

    def _observe(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            tensor = first_tensor(output)
            # A layer that runs again counts at its last run, as in a trace.
            earlier = self._seen.pop(name, None)
            if tensor is None:
                return
            if tensor.ndim == 3 and tensor.shape[0] == tensor.shape[1] == self._reader.batch:
                self.certain = False
            version = _version(tensor)
            number = next((one.number for one in self._seen.values() if one.gave(tensor)), None)
            same = number is not None and any(tensor is one for one in inputs)
            if number is None:
                number = next(self._outputs)
            layout = self._reader.read(name, module, tensor.shape)
            if layout is not None:
                self._windows = None
            elif tensor.ndim in (3, 4):
                layout = self._in_windows(name, tensor, inputs)
            if layout is not None and layout.window is None:
                self._sources.append((layout, tensor))
            if layout is not None and tensor.requires_grad:
                self._watch(number, layout, tensor)
            runs = 1 if earlier is None else earlier.runs + 1
            held = tensor if self._holds else None
            shape = tuple(tensor.shape)
            self._seen[name] = _Seen(module, number, ref(tensor), shape, version, held, layout, same, runs)

        return hook

    def _in_windows(self, name: str, tensor: Tensor, inputs: tuple[Any, ...]) -> Layout | None:
        batch, shape = self._reader.batch, tuple(tensor.shape)
        given = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
        maps = (one for one in self._seen.values() if one.layout is not None)
        if self._windows is None and given is not None and not any(one.output() is given for one in maps):
            self._windows = find_windows(given, reversed(self._sources), batch)
        found = None if self._windows is None else self._windows.layout(name, shape, batch)
        if found is not None and self._doubled is not None and self._doubled.get(name) != found.shape(2 * batch):
            return None
        return found

    def _watch(self, number: int, layout: Layout, tensor: Tensor) -> None:
        """Find out, when the backward runs, whether an output has a gradient at two or more places of the map."""
        reached, candidates = self._reached, self._candidates

        # Nothing of the pass itself is held: a tensor that its own hook holds would be a ring that Python cannot free.
        def hook(gradient: Tensor) -> None:
            # Gradients of the deepest layers come first.
            kept = sum(1 for _, tensor in reached.values() if tensor is not None)
            first = layout.to_map(gradient)[0]
            reaches = int(first.count_nonzero(dim=0).count_nonzero()) > 1
            keep = number in candidates and reaches and kept < _KEPT
            reached[number] = reaches, gradient if keep else None

        tensor.register_hook(hook)  # type: ignore[no-untyped-call]

    def _watch_changed(self) -> None:
        # A view that was changed in place has another history, and the hook on the first one is never called.
        for one in self._seen.values():
            tensor = one.output()
            if one.layout is not None and tensor is not None and tensor.requires_grad and not one.gave(tensor):
                self._watch(one.number, one.layout, tensor)

    def _survey(self) -> FeatureInfo:
        batch = self._reader.batch
        layers = []
        for name, one in self._seen.items():
            shape = one.shape
            layers.append(
                LayerInfo(
                    name=name,
                    kind=type(one.module).__name__,
                    shape=(1, *shape[1:]) if shape[:1] == (batch,) else shape,
                    layout=one.layout,
                    reaches_logit=self._reached.get(one.number, (False, None))[0],
                    output=one.number,
                    token_mixer=isinstance(one.module, nn.Linear),
                    passes_through=one.passes_through,
                    runs=one.runs,
                )
            )
        stages = tuple(_declared_stages(self._model))
        return FeatureInfo(type(self._model).__name__, self._reader.image_size, tuple(layers), stages)


def _spare_input(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    # What the layer before gave must still be there at the end of the pass.
    return tuple(one.clone() if isinstance(one, Tensor) else one for one in inputs)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _declared_stages(model: nn.Module) -> Iterator[str]:
    for owner, module in {"": model, **named_layers(model)}.items():
        declared = getattr(module, "feature_info", None)
        declared = getattr(declared, "info", declared)
        if isinstance(declared, Sequence):
            names = [entry["module"] for entry in declared if isinstance(entry, dict) and entry.get("module")]
            yield from (f"{owner}.{name}" if owner else name for name in names)
