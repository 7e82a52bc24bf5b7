"""Look at the outputs of all layers of a model during one forward and one backward pass."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from vis_callbacks.model.classifier import Targets, logits_of, outputs_of, resolve_targets, target_scores
from vis_callbacks.model.feature_info import FeatureInfo, LayerChoice, LayerInfo
from vis_callbacks.model.guard import plain
from vis_callbacks.model.layers import hookable_layers, named_layers, unseen
from vis_callbacks.model.layout import Layout, LayoutReader
from vis_callbacks.model.see_through import version_of
from vis_callbacks.model.trace import Trace, first_tensor, reaching, with_first_tensor
from vis_callbacks.model.window_partition import WindowPartition, find_windows

_GRADIENTS = 3
"""Number of deepest layers whose gradients are kept: one of them is the default layer."""

_SOURCES = 3
"""Number of latest maps that windows may have been cut from."""


@dataclass
class _Seen:
    """The output of a layer, during the pass.

    Attributes:
        number: Number of the tensor in this version, as an in-place ReLU changes it afterwards.
        tensor: The output, if the probe holds it.
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

    def is_output(self, tensor: Tensor) -> bool:
        """Whether a tensor is the output, unchanged."""
        return self.output() is tensor and version_of(tensor) == self.version

    @property
    def unchanged(self) -> Tensor | None:
        """The output, if nothing has changed it since and it is not the layer's input."""
        unchanged = self.tensor is not None and version_of(self.tensor) == self.version
        return self.tensor if unchanged and not self.passes_through else None


class FeatureProbe:
    """One forward and one backward pass of a model, with hooks on all layers.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)``.
        doubled: Shapes of outputs for twice as many images, by full name, see `output_shapes`. With them the probe
            holds nothing but the graph, and returns no trace.
        restarts: Whether a graph starts anew at each layer that is cut off from the images.
        lifts: Whether gradients stay enabled where the model disables them.

    Attributes:
        certain: Whether the axes of all outputs are known; they are not where there are as many tokens as images.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        *,
        doubled: Mapping[str, tuple[int, ...]] | None = None,
        restarts: bool = False,
        lifts: bool = True,
    ) -> None:
        self._model = model
        self._images = plain(images).detach().clone().requires_grad_()
        self._doubled = doubled
        self._restarts = restarts
        self._lifts = lifts
        self._reader = LayoutReader(model, (images.shape[-2], images.shape[-1]), len(images), doubled)
        self._seen: dict[str, _Seen] = {}
        self._outputs = count()
        self._sources: deque[tuple[Layout, Tensor]] = deque(maxlen=_SOURCES)
        # By number of the output: whether the logit depends on the map, and the gradient if it is kept.
        self._reached: dict[int, tuple[bool, Tensor | None]] = {}
        self._candidates: set[int] = set()
        self._windows: WindowPartition | None = None
        self.certain = True

    def run(
        self,
        targets: Targets = None,
        input_gradient: bool = True,
        activations: Sequence[LayerChoice] = (),
        gradients: Sequence[LayerChoice] = (),
    ) -> tuple[FeatureInfo, Trace | None]:
        """Return the layers, and the trace if all outputs that it needs are unchanged at the end of the pass."""
        if named_layers(self._model) and not hookable_layers(self._model):
            raise unseen(self._model)
        with ExitStack() as stack:
            for name, module in hookable_layers(self._model).items():
                stack.callback(module.register_forward_hook(self._observe(name)).remove)
                if self._holds and getattr(module, "inplace", False):
                    stack.callback(module.register_forward_pre_hook(_spare_input).remove)
            outputs = outputs_of(self._model, self._images, lifts=self._lifts)
        logits = outputs.logits
        self._sources.clear()
        self._watch_changed()
        found = self._feature_info()
        chosen = resolve_targets(targets, logits)
        if not logits.requires_grad:
            return found if self._restarts else self._again(restarts=True).run(targets)[0], None
        named = found.names(choice for choice in gradients if choice is not None)
        wanted = [self._images, *(tensor for name in named if (tensor := self._seen[name].tensor) is not None)]
        if self._holds:
            self._candidates.update(layer.output for layer in found.candidates())
        try:
            grads = torch.autograd.grad(target_scores(logits, chosen).sum(), wanted, allow_unused=True)
        except RuntimeError:
            if not outputs.lifted:
                raise
            # Code under no_grad may change what a gradient needs in place.
            return self._again(lifts=False).run(targets)[0], None
        found = self._feature_info()
        if not self._holds:
            return found, None
        at_layers: dict[str, Tensor | None] = dict(zip(named, grads[1:], strict=True))
        if None in gradients:
            for name in found.names([None]):
                at_layers[name] = self._reached.get(found.layer(name).output, (False, None))[1]
        needed = {name: self._seen[name].unchanged for name in dict.fromkeys([*found.names(activations), *at_layers])}
        if any(tensor is None for tensor in (*needed.values(), *at_layers.values())):
            return found, None
        at_images = reaching(self._model, grads[0]) if input_gradient else None
        return found, Trace(
            images=self._images.detach(),
            logits=logits.detach(),
            targets=chosen,
            input_gradient=None if at_images is None else at_images.detach().float(),
            activations={name: tensor.detach().float() for name, tensor in needed.items() if tensor is not None},
            gradients={name: grad.detach().float() for name, grad in at_layers.items() if grad is not None},
            through=outputs.through,
        )

    def _again(self, **options: bool) -> "FeatureProbe":
        known = {"restarts": self._restarts, "lifts": self._lifts}
        return FeatureProbe(self._model, self._images, doubled=self._doubled, **(known | options))

    @property
    def _holds(self) -> bool:
        return self._doubled is None

    def _observe(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
            tensor = first_tensor(output)
            if self._restarts and tensor is not None and tensor.is_floating_point() and not tensor.requires_grad:
                tensor = tensor.detach().requires_grad_().clone()
                output = with_first_tensor(output, tensor)
            # Of a layer that runs again the last run counts, as in a trace.
            earlier = self._seen.pop(name, None)
            if tensor is None:
                return None
            if tensor.ndim == 3 and tensor.shape[0] == tensor.shape[1] == self._reader.batch:
                self.certain = False
            version = version_of(tensor)
            number = next((one.number for one in self._seen.values() if one.is_output(tensor)), None)
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
            return output

        return hook

    def _in_windows(self, name: str, tensor: Tensor, inputs: tuple[Any, ...]) -> Layout | None:
        batch, shape = self._reader.batch, tuple(tensor.shape)
        source = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
        maps = (one for one in self._seen.values() if one.layout is not None)
        if self._windows is None and source is not None and not any(one.output() is source for one in maps):
            self._windows = find_windows(source, reversed(self._sources), batch)
        found = None if self._windows is None else self._windows.layout(name, shape, batch)
        if found is not None and self._doubled is not None and self._doubled.get(name) != found.shape(2 * batch):
            return None
        return found

    def _watch(self, number: int, layout: Layout, tensor: Tensor) -> None:
        """Find out, in the backward, whether an output has a gradient at two or more positions of the map."""
        reached, candidates = self._reached, self._candidates

        # The hook holds nothing of the pass: a tensor that its own hook holds is a cycle that Python cannot free.
        def hook(gradient: Tensor | None) -> None:
            if gradient is None:
                # A quantised layer follows.
                return
            # The deepest layers come first.
            kept = sum(1 for _, tensor in reached.values() if tensor is not None)
            first = layout.to_map(gradient)[0]
            reaches = int(first.count_nonzero(dim=0).count_nonzero()) > 1
            keep = number in candidates and reaches and kept < _GRADIENTS
            reached[number] = reaches, gradient if keep else None

        tensor.register_hook(hook)  # type: ignore[no-untyped-call]

    def _watch_changed(self) -> None:
        # A view that was changed in place has a new graph, in which the hook of the old one is never called.
        for one in self._seen.values():
            tensor = one.output()
            if one.layout is not None and tensor is not None and tensor.requires_grad and not one.is_output(tensor):
                self._watch(one.number, one.layout, tensor)

    def _feature_info(self) -> FeatureInfo:
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
    # The output of the layer before is still needed at the end of the pass.
    return tuple(one.clone() if isinstance(one, Tensor) else one for one in inputs)


def output_shapes(model: nn.Module, images: Tensor) -> dict[str, tuple[int, ...]]:
    """Return the shape of the output of each layer, by full name."""
    shapes: dict[str, tuple[int, ...]] = {}

    def observe(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            tensor = first_tensor(output)
            if tensor is not None:
                shapes[name] = tuple(tensor.shape)

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name, module in hookable_layers(model).items():
            stack.callback(module.register_forward_hook(observe(name)).remove)
        logits_of(model, images)
    return shapes


def _declared_stages(model: nn.Module) -> Iterator[str]:
    for owner, module in {"": model, **hookable_layers(model)}.items():
        declared = getattr(module, "feature_info", None)
        declared = getattr(declared, "info", declared)
        if isinstance(declared, Sequence):
            names = [entry["module"] for entry in declared if isinstance(entry, dict) and entry.get("module")]
            yield from (f"{owner}.{name}" if owner else name for name in names)
