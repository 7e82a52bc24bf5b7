"""Look at the outputs of all layers of a model during one forward and one backward pass."""

import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import count
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from vis_callbacks.model.attention import UNREAD, AttentionReads, AttentionWatch
from vis_callbacks.model.attention_code import may_attend
from vis_callbacks.model.classifier import Targets, outputs_of, resolve_targets, target_scores
from vis_callbacks.model.doubled import Doubled
from vis_callbacks.model.feature_info import FeatureInfo, LayerChoice, LayerInfo
from vis_callbacks.model.geometry import GeometryWatch, unevenly
from vis_callbacks.model.graph import nodes_on_every_path
from vis_callbacks.model.guard import plain
from vis_callbacks.model.layers import filter_layers, hookable_layers, is_linear, named_layers, unseen
from vis_callbacks.model.layout import Layout, LayoutReader
from vis_callbacks.model.parts import Path, parts_of, with_part
from vis_callbacks.model.reach import Reach
from vis_callbacks.model.see_through import version_of
from vis_callbacks.model.trace import Trace, reaching
from vis_callbacks.model.window_partition import WindowPartition, find_query_places, find_windows

_TRIES = 8
"""How often tokens are found in the order of the rows before nobody looks any more."""

_SOURCES = 3
"""Number of latest maps that windows and tokens may have been cut from."""


@dataclass
class _Part:
    """A tensor of the output of a layer, during the pass.

    Attributes:
        path: Where it is in the output.
        number: Number of the tensor in this version, as an in-place ReLU changes it afterwards.
        source: Number of the tensor that another layer made and this one returns beside others.
        node: Where the tensor is in the graph.
        tensor: The tensor itself, if the probe holds it.
    """

    path: Path
    number: int
    source: int
    node: Any
    output: ref[Tensor]
    shape: tuple[int, ...]
    version: int
    tensor: Tensor | None
    layout: Layout | None
    passes_through: bool

    def is_output(self, tensor: Tensor) -> bool:
        """Whether a tensor is this one, unchanged."""
        return self.output() is tensor and version_of(tensor) == self.version

    @property
    def unchanged(self) -> Tensor | None:
        """The tensor, if nothing has changed it since and it is not the layer's input."""
        unchanged = self.tensor is not None and version_of(self.tensor) == self.version
        return self.tensor if unchanged and not self.passes_through else None


@dataclass
class _Seen:
    """The last output of a layer, during the pass."""

    module: nn.Module
    parts: list[_Part]
    runs: int


class FeatureProbe:
    """One forward and one backward pass of a model, with hooks on all layers.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)``.
        doubled: What outputs are like for twice as many images, see `doubled_outputs`. With it the probe holds the
            graph alone, and returns no trace.
        restarts: Whether a graph starts anew at each layer that is cut off from the images.
        lifts: Whether gradients stay enabled where the model disables them.

    Attributes:
        certain: Whether the axes of all outputs are known, which are not where there are as many tokens as images, and
            which tokens are those of the map.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        *,
        doubled: Doubled | None = None,
        restarts: bool = False,
        lifts: bool = True,
    ) -> None:
        self._model = model
        self._images = plain(images).detach().clone().requires_grad_()
        self._doubled = doubled
        shapes, still = (None, None) if doubled is None else (doubled.shapes, doubled.still)
        self._restarts = restarts
        self._lifts = lifts
        self._reader = LayoutReader(model, (images.shape[-2], images.shape[-1]), len(images), shapes, still)
        self._seen: dict[str, _Seen] = {}
        # By the identity of the tensor.
        self._parts: dict[int, _Part] = {}
        self._outputs = count()
        self._sources: deque[tuple[Layout, Tensor]] = deque(maxlen=_SOURCES)
        self._reach = Reach()
        self._on_every_path: set[Any] = set()
        self._windows: WindowPartition | None = None
        self._tried: Counter[int] = Counter()
        self._queries: dict[str, Layout] = {}
        self._geometry = GeometryWatch(self._images)
        self.certain = True

    def run(
        self,
        targets: Targets = None,
        input_gradient: bool = True,
        activations: Sequence[LayerChoice] = (),
        gradients: Sequence[LayerChoice] = (),
        attention: AttentionReads = UNREAD,
    ) -> tuple[FeatureInfo, Trace | None]:
        """Return the layers, and the trace if all outputs that it needs are unchanged at the end of the pass."""
        if named_layers(self._model) and not hookable_layers(self._model):
            raise unseen(self._model)
        attends = attention or may_attend(self._model)
        watch = AttentionWatch(self._model, attention, self._place_queries) if attends else None
        with ExitStack() as stack:
            for name, module in hookable_layers(self._model).items():
                stack.callback(module.register_forward_hook(self._observe(name), with_kwargs=True).remove)
                if self._holds and getattr(module, "inplace", False):
                    stack.callback(module.register_forward_pre_hook(_spare_input).remove)
            stack.enter_context(self._geometry)
            stack.enter_context(watch or nullcontext())
            outputs = outputs_of(self._model, self._images, lifts=self._lifts)
        logits = outputs.logits
        self._sources.clear()
        self._watch_changed()
        found = self._feature_info()
        chosen = resolve_targets(targets, logits)
        if not logits.requires_grad:
            return found if self._restarts else self._again(restarts=True).run(targets)[0], None
        self._on_every_path = nodes_on_every_path(logits, self._images)
        found = self._feature_info()
        named = found.names(choice for choice in gradients if choice is not None)
        maps = [
            part
            for name in named
            for part in self._seen[name].parts
            if part.layout is not None and part.tensor is not None and part.tensor.requires_grad
        ]
        wanted = [self._images, *(part.tensor for part in maps if part.tensor is not None)]
        if self._holds:
            self._reach.keep(layer.source for layer in found.candidates())
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
        by_number = {part.number: grad for part, grad in zip(maps, grads[1:], strict=True)}
        at_layers = {name: by_number.get(found.layer(name).output) for name in named}
        if None in gradients:
            for name in found.names([None]):
                layer = found.layer(name)
                at_layers[name] = self._reach.gradient(layer.source, layer.output)
        needed = {
            name: self._chosen(self._seen[name]).unchanged
            for name in dict.fromkeys([*found.names(activations), *at_layers])
        }
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
            attention=() if watch is None else watch.calls(),
            through=outputs.through,
            cut=outputs.cut,
        )

    def _again(self, **options: bool) -> "FeatureProbe":
        known = {"restarts": self._restarts, "lifts": self._lifts}
        return FeatureProbe(self._model, self._images, doubled=self._doubled, **(known | options))

    @property
    def _holds(self) -> bool:
        return self._doubled is None

    def _observe(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
            if self._restarts:
                output = _restarted(output)
            # Of a layer that runs again the last run counts, as in a trace.
            earlier = self._seen.pop(name, None)
            inputs = [tensor for _, tensor in parts_of((args, kwargs))]
            found, parts = parts_of(output), []
            for path, tensor in found:
                again = tensor
                # Of several, those that the model goes on with are told by what it makes of them.
                if len(found) > 1 and tensor.requires_grad:
                    with suppress(TypeError, AttributeError):
                        again = tensor.view_as(tensor)
                        output = with_part(output, tensor, again)
                parts.append(self._part(name, module, inputs, path, tensor, again))
            if parts:
                runs = 1 if earlier is None else earlier.runs + 1
                self._seen[name] = _Seen(module, parts, runs)
            return output

        return hook

    def _part(
        self, name: str, module: nn.Module, inputs: Sequence[Tensor], path: Path, made: Tensor, tensor: Tensor
    ) -> _Part:
        if tensor.ndim == 3 and tensor.shape[0] == tensor.shape[1] == self._reader.batch:
            self.certain = False
        version = version_of(tensor)
        known = self._parts.get(id(made))
        if known is not None and not known.is_output(made):
            known = None
        same = known is not None and any(made is one for one in inputs)
        number = known.number if known is not None and tensor is made else next(self._outputs)
        source = number if known is None else known.source
        # A layer's input that is no output of another, as behind a function, or the output of one that has no weights.
        if inputs and self._made_by_layer(inputs[0]) is None:
            self._learn_order(inputs[0])
        if not type(module).__module__.startswith("torch.") and not any(True for _ in module.parameters()):
            self._learn_order(tensor, made=True)
        self._reader.see(tensor)
        layout = self._reader.read(name, module, tensor.shape, path)
        self.certain = self.certain and self._reader.certain
        if layout is not None:
            self._windows = None
        elif tensor.ndim in (3, 4):
            layout = self._in_windows(name, path, tensor, inputs)
        if layout is not None and layout.axes == "NCHW":
            centres = unevenly(self._geometry.centres(tensor), layout.size, self._reader.image_size)
            layout = replace(layout, centres=centres)
        if layout is not None and layout.window is None:
            self._sources.append((layout, tensor))
        if layout is not None and tensor.requires_grad:
            self._reach.watch(number, source, layout, tensor)
        held = tensor if self._holds else None
        node, shape = tensor.grad_fn, tuple(tensor.shape)
        part = _Part(path, number, source, node, ref(tensor), shape, version, held, layout, same)
        self._parts[id(tensor)] = part
        return part

    def _made_by_layer(self, tensor: Tensor) -> _Part | None:
        """Return the part of a layer's output that a tensor is, changed or not."""
        part = self._parts.get(id(tensor))
        return part if part is not None and part.output() is tensor else None

    def _learn_order(self, tensor: Tensor, *, made: bool = False) -> None:
        """Find out in which order tokens are, where they may have been put into another, for once if not just made."""
        if tensor.ndim != 3 or tensor.shape[0] != self._reader.batch or not self._reader.grids:
            return
        size, prefix, suffix = self._reader.grid(tensor.shape[1]) or ((1, 1), 0, 0)
        area = math.prod(size)
        # Models that leave tokens in the order of the rows at first do so until the end.
        settled = self._tried[area] >= _TRIES or (not made and self._reader.orders.get(area, ()) is None)
        if prefix or suffix or area == 1 or settled:
            return
        self._tried[area] += self._reader.orders.get(area) is None
        found = find_windows(tensor, [one for one in reversed(self._sources) if one[0].size == size], len(tensor))
        if found is not None and found.count == 1:
            self._reader.orders[area] = None if found.order == tuple(range(area)) else found.order

    def _in_windows(self, name: str, path: Path, tensor: Tensor, inputs: Sequence[Tensor]) -> Layout | None:
        batch, shape = self._reader.batch, tuple(tensor.shape)
        source = inputs[0] if inputs else None
        known = None if source is None else self._made_by_layer(source)
        if self._windows is None and source is not None and (known is None or known.layout is None):
            self._windows = find_windows(source, reversed(self._sources), batch)
        found = None if self._windows is None else self._windows.layout(name, shape, batch, path)
        if (
            found is not None
            and self._doubled is not None
            and self._doubled.shapes.get((name, path)) != found.shape(2 * batch)
        ):
            return None
        return found

    def _place_queries(self, layer: str, queries: Tensor) -> None:
        found = find_query_places(queries, reversed(self._sources), self._reader.batch, layer)
        if found is not None:
            self._queries[layer] = found

    def _watch_changed(self) -> None:
        # A view that was changed in place has a new graph, in which the hook of the old one is never called.
        for one in (part for seen in self._seen.values() for part in seen.parts):
            tensor = one.output()
            if one.layout is not None and tensor is not None and tensor.requires_grad and not one.is_output(tensor):
                self._reach.watch(one.number, one.source, one.layout, tensor)

    def _chosen(self, seen: _Seen) -> _Part:
        """Return the tensor of an output that is the layer's map: the last that the logit depends on."""
        maps = [part for part in seen.parts if part.layout is not None]
        depends = [part for part in maps if self._reach.found.get(part.number)]
        if len(depends) > 1:
            # The backward meets the last one first.
            order = list(self._reach.found)
            return min(depends, key=lambda part: order.index(part.number))
        if depends:
            return depends[0]
        return min(maps, key=_area) if maps else seen.parts[0]

    def _feature_info(self) -> FeatureInfo:
        batch = self._reader.batch
        layers = []
        depth = 0
        for name, one in self._seen.items():
            part = self._chosen(one)
            if part.layout is not None and any(True for _ in one.module.parameters(recurse=False)):
                depth += 1
            layers.append(
                LayerInfo(
                    name=name,
                    kind=type(one.module).__name__,
                    shape=(1, *part.shape[1:]) if part.shape[:1] == (batch,) else part.shape,
                    layout=part.layout,
                    reaches_logit=self._reach.found.get(part.number, False),
                    output=part.number,
                    source=part.source,
                    token_mixer=is_linear(one.module),
                    passes_through=part.passes_through,
                    runs=one.runs,
                    depth=depth,
                    on_every_path=part.node in self._on_every_path,
                )
            )
        stages = tuple(_declared_stages(self._model))
        convolves = self._geometry.convolves or bool(filter_layers(self._model))
        return FeatureInfo(
            type(self._model).__name__, self._reader.image_size, tuple(layers), stages, convolves, dict(self._queries)
        )


def _area(part: _Part) -> int:
    return math.prod(part.layout.size) if part.layout is not None else 0


def _spare_input(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    # The output of the layer before is still needed at the end of the pass.
    return tuple(one.clone() if isinstance(one, Tensor) else one for one in inputs)


def _restarted(output: Any) -> Any:
    """Return an output whose tensors begin a graph, where they have none."""
    for _, tensor in parts_of(output):
        if tensor.is_floating_point() and not tensor.requires_grad:
            output = with_part(output, tensor, tensor.detach().requires_grad_().clone())
    return output


def _declared_stages(model: nn.Module) -> Iterator[str]:
    for owner, module in {"": model, **hookable_layers(model)}.items():
        declared = getattr(module, "feature_info", None)
        declared = getattr(declared, "info", declared)
        if isinstance(declared, Sequence):
            names = [entry["module"] for entry in declared if isinstance(entry, dict) and entry.get("module")]
            yield from (f"{owner}.{name}" if owner else name for name in names)
