"""Finds out about all layers of a model from one forward and one backward pass, which techniques may share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from vis_callbacks.errors import LayerError
from vis_callbacks.model.classifier import Targets, logits_of, resolve_targets, target_scores
from vis_callbacks.model.inputs import check_images
from vis_callbacks.model.layers import named_layers
from vis_callbacks.model.layout import Layout, LayoutReader
from vis_callbacks.model.survey import LayerChoice, Survey, SurveyedLayer
from vis_callbacks.model.trace import Trace, first_tensor, trace
from vis_callbacks.model.undisturbed import leaves_no_trace
from vis_callbacks.model.windows import Windows, find_windows

_KEPT = 3
"""Gradients that are kept of the deepest layers, one of which is that of the default layer."""

_SOURCES = 3
"""Maps that windows may have been cut from: the latest."""


class _Surveys:
    """What is known of one model, by image size."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = list(map(ref, model.modules()))
        self._found: dict[tuple[int, ...], tuple[Survey, tuple[int, ...]]] = {}

    def get(self, model: nn.Module, images: Tensor) -> Survey | None:
        """Return the survey for images of this size, if it still holds."""
        found, weights = self._found.get(tuple(images.shape[1:]), (None, ()))
        if found is None or any(layer.reaches_logit for layer in found.layers) or weights == _versions(model):
            return found
        # No gradient reached a layer, as where the head's weights begin at zero: other weights may tell more.
        return None

    def put(self, model: nn.Module, images: Tensor, found: Survey) -> None:
        """Keep a survey."""
        self._found[tuple(images.shape[1:])] = found, _versions(model)


_known: WeakKeyDictionary[nn.Module, _Surveys] = WeakKeyDictionary()


def survey(model: nn.Module, images: Tensor) -> Survey:
    """Tell what every layer gives, from a pass of the first image; a model is asked once for each image size.

    It is asked again when its modules were exchanged.

    Args:
        model: From images to logits; left as found.
        images: ``(N, C, H, W)`` float, in the model's input space; only the first is used.

    Returns:
        A `Survey`, which holds names and numbers only and is valid for images of this size.

    Raises:
        ConfigurationError: If the images are not float ``(N, C, H, W)``.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> found = survey(net, torch.rand(1, 3, 16, 16))
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
        observed = _Observed(model, images)
        found, seen = observed.trace(targets, input_gradient, activations, gradients)
        if observed.certain:
            surveys.put(model, images, found)
            if seen is not None:
                return seen
    outputs, differentiated = (
        _names(survey(model, images), choice) if choice else [] for choice in (activations, gradients)
    )
    return trace(model, images, targets, input_gradient=input_gradient, activations=outputs, gradients=differentiated)


def _names(known: Survey, choices: Sequence[LayerChoice]) -> list[str]:
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


@leaves_no_trace
def _survey(model: nn.Module, images: Tensor) -> Survey:
    # Two copies of one image: the axis of length two is the batch, also for layers that put it elsewhere.
    return _Observed(model, images[:1].expand(2, -1, -1, -1)).trace()[0]


@dataclass
class _Seen:
    """The output of a layer, while the pass is under way."""

    module: nn.Module
    tensor: Tensor
    version: int
    layout: Layout | None
    passes_through: bool
    runs: int

    @property
    def key(self) -> tuple[int, int]:
        # The version tells a tensor from what an in-place ReLU makes of it.
        return id(self.tensor), self.version

    @property
    def as_given(self) -> bool:
        """Whether the tensor is what the layer gave, to the layers behind it alone."""
        return not self.passes_through and _version(self.tensor) == self.version


class _Observed:
    """One pass of a model, all of whose layers are looked at.

    Attributes:
        certain: Whether the axes of all outputs could be told; not where there are as many tokens as images.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self._model = model
        self._images = images.detach().clone().requires_grad_()
        self._reader = LayoutReader(model, (images.shape[-2], images.shape[-1]), batch=len(images))
        self._seen: dict[str, _Seen] = {}
        self._windows: Windows | None = None
        self.certain = True

    def trace(
        self,
        targets: Targets = None,
        input_gradient: bool = True,
        activations: Sequence[LayerChoice] = (),
        gradients: Sequence[LayerChoice] = (),
    ) -> tuple[Survey, Trace | None]:
        """Return the survey, and the trace if what the layers gave was still there at the end of the pass."""
        with ExitStack() as stack:
            for name, module in named_layers(self._model).items():
                stack.callback(module.register_forward_hook(self._observe(name)).remove)
                if getattr(module, "inplace", False):
                    stack.callback(module.register_forward_pre_hook(_spare_input).remove)
            logits = logits_of(self._model, self._images)
        found = self._survey({})
        chosen = resolve_targets(targets, logits)
        if not logits.requires_grad:
            return found, None
        named = _names(found, [choice for choice in gradients if choice is not None])
        wanted = [self._images, *(self._seen[name].tensor for name in named)]
        with self._reached(found) as reached:
            score = target_scores(logits, chosen).sum()
            grads = torch.autograd.grad(score, wanted, allow_unused=True)
        found = self._survey({number: reaches for number, (reaches, _) in reached.items()})
        at_layers: dict[str, Tensor | None] = dict(zip(named, grads[1:], strict=True))
        if None in gradients:
            for name in _names(found, [None]):
                number = next(layer.output for layer in found.layers if layer.name == name)
                at_layers[name] = reached.get(number, (False, None))[1]
        needed = [self._seen[name] for name in (*_names(found, activations), *at_layers)]
        if not all(layer.as_given for layer in needed) or any(grad is None for grad in at_layers.values()):
            return found, None
        at_images = grads[0] if grads[0] is not None else torch.zeros_like(self._images)
        return found, Trace(
            images=self._images.detach(),
            logits=logits.detach(),
            targets=chosen,
            input_gradient=at_images.detach().float() if input_gradient else None,
            activations={
                name: self._seen[name].tensor.detach().float()
                for name in dict.fromkeys([*_names(found, activations), *at_layers])
            },
            gradients={name: grad.detach().float() for name, grad in at_layers.items() if grad is not None},
        )

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
            given = any(tensor is one for one in inputs)
            same = given and any((id(tensor), version) == one.key for one in self._seen.values())
            layout = self._reader.read(name, module, tensor.shape)
            if layout is not None:
                self._windows = None
            elif tensor.ndim in (3, 4):
                layout = self._in_windows(name, tensor, inputs)
            runs = 1 if earlier is None else earlier.runs + 1
            self._seen[name] = _Seen(module, tensor, version, layout, same, runs)

        return hook

    def _in_windows(self, name: str, tensor: Tensor, inputs: tuple[Any, ...]) -> Layout | None:
        batch, shape = self._reader.batch, tuple(tensor.shape)
        if self._windows is None and inputs and isinstance(inputs[0], Tensor):
            maps = [(one.layout, one.tensor) for one in reversed(self._seen.values()) if one.layout is not None]
            if not any(inputs[0] is source for _, source in maps):
                whole = [(layout, source) for layout, source in maps if layout.window is None]
                self._windows = find_windows(inputs[0], whole[:_SOURCES], batch)
        return None if self._windows is None else self._windows.layout(name, shape, batch)

    @contextmanager
    def _reached(self, found: Survey) -> Iterator[dict[int, tuple[bool, Tensor | None]]]:
        """Find out, while a backward runs, which outputs have a gradient at two or more places of the map."""
        reached: dict[int, tuple[bool, Tensor | None]] = {}
        with ExitStack() as stack:
            candidates = {layer.output for layer in found.candidates()}
            for layer in {layer.output: layer for layer in found.layers}.values():
                tensor = self._seen[layer.name].tensor
                if layer.layout is not None and tensor.requires_grad:
                    hook = _reach(layer.output, layer.layout, reached, keep=layer.output in candidates)
                    stack.callback(tensor.register_hook(hook).remove)  # type: ignore[no-untyped-call]
            yield reached

    def _survey(self, reaches: dict[int, bool]) -> Survey:
        numbers = {key: number for number, key in enumerate(dict.fromkeys(one.key for one in self._seen.values()))}
        batch = self._reader.batch
        layers = []
        for name, one in self._seen.items():
            shape = tuple(one.tensor.shape)
            layers.append(
                SurveyedLayer(
                    name=name,
                    kind=type(one.module).__name__,
                    shape=(1, *shape[1:]) if shape[:1] == (batch,) else shape,
                    layout=one.layout,
                    reaches_logit=reaches.get(numbers[one.key], False),
                    output=numbers[one.key],
                    token_mixer=isinstance(one.module, nn.Linear),
                    passes_through=one.passes_through,
                    runs=one.runs,
                )
            )
        stages = tuple(_declared_stages(self._model))
        return Survey(type(self._model).__name__, self._reader.image_size, tuple(layers), stages)


def _reach(number: int, layout: Layout, reached: dict[int, tuple[bool, Tensor | None]], *, keep: bool) -> Any:
    # Nothing of the pass itself is held: a tensor that its own hook holds would be a ring that Python cannot free.
    def hook(gradient: Tensor) -> None:
        # Gradients of the deepest layers come first.
        kept = sum(1 for _, tensor in reached.values() if tensor is not None)
        first = layout.to_map(gradient)[0]
        reaches = int(first.count_nonzero(dim=0).count_nonzero()) > 1
        reached[number] = reaches, gradient if keep and reaches and kept < _KEPT else None

    return hook


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
