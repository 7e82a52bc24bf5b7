"""One forward and one backward pass through a classifier, and what techniques read from them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from vis_callbacks.errors import CutError, LayerError
from vis_callbacks.model.attention import UNREAD, AttentionCall, AttentionReads, AttentionWatch, joined_calls
from vis_callbacks.model.classifier import Targets, outputs_of, resolve_targets, target_scores
from vis_callbacks.model.guard import plain, seed_all
from vis_callbacks.model.inputs import check_images
from vis_callbacks.model.layers import find_layer, unseen
from vis_callbacks.model.layout import Layout
from vis_callbacks.model.limits import quantised_layers
from vis_callbacks.model.outputs import Outputs
from vis_callbacks.model.parts import Path, part_at, with_part
from vis_callbacks.model.see_through import Through


@dataclass(frozen=True)
class Trace:
    """The results of one forward and one backward of N images.

    Attributes:
        images: The images ``(N, C, H, W)`` in the model's input space.
        logits: ``(N, K)`` float32.
        targets: The classes whose logits were differentiated, ``(N,)`` long, or pairs ``(N, 2)``.
        input_gradient: d target logit / d image, ``(N, C, H, W)`` float32; None unless requested, or if the logits have
            no gradient at the images.
        activations: Outputs of the requested layers, float32, in their own layouts.
        gradients: d target logit / d activation of the requested layers, in the same shapes, without those from which
            the logits are computed by something that has no gradient.
        attention: The attentions that were seen, in order, if they were requested.
        through: What the model itself applies to the logits.
        cut: The last place where the forward loses a gradient, such as ``detach() in train.py, line 12``, if known.
    """

    images: Tensor
    logits: Tensor
    targets: Tensor
    input_gradient: Tensor | None = None
    activations: Mapping[str, Tensor] = field(default_factory=dict)
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    attention: tuple[AttentionCall, ...] = ()
    through: Through = ""
    cut: str = ""

    @property
    def gradient_at_images(self) -> Tensor:
        """The input gradient of a trace for which it was requested.

        Raises:
            CutError: If the logits have none.
        """
        if self.input_gradient is None:
            raise _no_gradient("the images", self.cut)
        return self.input_gradient

    def gradient_at(self, layer: str) -> Tensor:
        """Return the gradient at a layer for which it was requested.

        Raises:
            CutError: If the logits depend on the layer, and have none there.
        """
        if layer not in self.gradients:
            raise _no_gradient(layer, self.cut)
        return self.gradients[layer]


def check_differentiable(model: nn.Module, images: Tensor, logits: Tensor) -> None:
    """Raise a `CutError` if the logits of images that are to be changed have no gradient at them."""
    if not logits.requires_grad or quantised_layers(model):
        # Once more, to see where.
        raise _no_gradient("the images", outputs_of(model, images.detach().requires_grad_()).cut)


_REMEDY = "use a technique that needs none, such as Occlusion, or a CAM of a later layer"


def _no_gradient(where: str, cut: str) -> CutError:
    what = cut or "detach(), .data, inference_mode, argmax, quantised layers"
    remedy = f"put what is before it under torch.no_grad() instead, or {_REMEDY}" if cut else _REMEDY
    return CutError(f"the logits have no gradient at {where}: the forward cuts it ({what}); {remedy}")


def trace(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    *,
    input_gradient: bool = False,
    activations: Sequence[str | Layout] = (),
    gradients: Sequence[str | Layout] = (),
    attention: AttentionReads = UNREAD,
) -> Trace:
    """Run one forward, and one backward if a gradient is requested. Call it inside `undisturbed`.

    The backward never computes weight gradients; without the input gradient it stops at the first requested layer.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space; tensors of inference mode are allowed.
        targets: Classes whose logits are differentiated, see `Targets`; None for the predicted ones.
        input_gradient: Whether to return the gradient at the images.
        activations: Layers whose outputs are returned: names, or layouts, which also tell which tensor of an output
            of several is meant; of a name it is the first.
        gradients: Layers whose outputs and gradients are returned.
        attention: What is read of the attention.

    Returns:
        The `Trace`; its tensors are detached. Layers have the names by which they were given.

    Raises:
        LayerError: If a layer is not found, did not run, or its output holds no tensor.
        ConfigurationError: If the images are not ``(N, C, H, W)`` or the targets do not fit.
    """
    check_images(images)
    parts = {layer.layer: layer.part for layer in (*activations, *gradients) if isinstance(layer, Layout)}
    names = {_name(layer): find_layer(model, _name(layer)) for layer in (*activations, *gradients)}
    differentiated = [names[_name(layer)][0] for layer in gradients]
    inputs = plain(images).detach().clone().requires_grad_(input_gradient)
    watch = AttentionWatch(model, attention) if attention else None
    with captured(dict(names.values()), differentiable=differentiated, parts=parts) as seen:

        def forward(*, lifts: bool = True) -> tuple[Outputs, dict[str, Tensor]]:
            seen.clear()
            with watch or nullcontext():
                found = outputs_of(model, inputs, lifts=lifts)
            for full, module in names.values():
                if full not in seen:
                    raise LayerError(
                        f"layer {full!r} ({type(module).__name__}) did not run in the forward pass: choose another"
                    )
            return found, dict(seen)

        def backward() -> Sequence[Tensor | None]:
            wanted = [inputs] * input_gradient + [outputs[name] for name in differentiated]
            # Of layers alone the logits may be independent.
            if not wanted or not found.logits.requires_grad:
                return [None] * len(wanted)
            # Hooks stay: a checkpointed block runs again in the backward, and its graph must start at the same layer.
            return torch.autograd.grad(target_scores(found.logits, chosen).sum(), wanted, allow_unused=True)

        found, outputs = forward()
        chosen = resolve_targets(targets, found.logits)
        try:
            grads = backward()
        except RuntimeError:
            if not found.lifted:
                raise
            # Code under no_grad may change what a gradient needs in place.
            found, outputs = forward(lifts=False)
            grads = backward()
    at_images, *at_layers = (reaching(model, grad) for grad in (grads if input_gradient else (None, *grads)))
    by_layer: dict[str, Tensor] = {}
    for layer, full, grad in zip(gradients, differentiated, at_layers, strict=True):
        if grad is not None:
            by_layer[_name(layer)] = grad.detach().float()
        elif not depends_on(model, inputs, layer):
            # A layer that is not on the path to the logits, as in an auxiliary head, has a gradient of zero.
            by_layer[_name(layer)] = torch.zeros_like(outputs[full], dtype=torch.float32)
        elif kinds := quantised_layers(model):
            raise CutError(f"no gradient passes {', '.join(kinds)} of {type(model).__name__}: {_REMEDY}")
    return Trace(
        images=inputs.detach(),
        logits=found.logits.detach(),
        targets=chosen,
        input_gradient=None if at_images is None else at_images.detach().float(),
        activations={name: outputs[full].detach().float() for name, (full, _) in names.items()},
        gradients=by_layer,
        attention=() if watch is None else watch.calls(),
        through=found.through,
        cut=found.cut,
    )


def depends_on(model: nn.Module, images: Tensor, layer: str | Layout) -> bool:
    """Return whether other values of a layer's output give other logits, by two forwards. Call it inside `undisturbed`.

    A gradient does not tell, as a forward may cut it.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space.
        layer: As for `trace`.
    """
    path = layer.part if isinstance(layer, Layout) else None
    _, module = find_layer(model, _name(layer))
    generator = torch.Generator().manual_seed(0)

    def disturb(_: nn.Module, __: Any, output: Any) -> Any:
        part = part_at(output, path)
        if part is None:
            return output
        noise = torch.randn(part.shape, generator=generator).to(part)
        return with_part(output, part, part + (1 + part.abs().amax()) * noise)

    def logits() -> Tensor:
        # Twice the same, also if the model draws random numbers.
        device = images.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
            seed_all(0, device)
            return outputs_of(model, images).logits

    before = logits()
    handle = module.register_forward_hook(disturb)
    try:
        after = logits()
    finally:
        handle.remove()
    return not torch.allclose(before, after, rtol=0, atol=0, equal_nan=True)


def _name(layer: str | Layout) -> str:
    return layer.layer if isinstance(layer, Layout) else layer


def reaching(model: nn.Module, gradient: Tensor | None) -> Tensor | None:
    """Return a gradient, or None if it is one of zeros that quantised layers have made of none."""
    if gradient is not None and quantised_layers(model) and not bool(gradient.any()):
        return None
    return gradient


def joined(parts: Sequence[Trace]) -> Trace:
    """Concatenate the traces of several batches, made with the same arguments."""
    if len(parts) == 1:
        return parts[0]
    counts = [len(part.images) for part in parts]

    def cat(tensors: Sequence[Tensor]) -> Tensor:
        # Most outputs have the batch first; some have tokens first, or several windows per image.
        shapes = [tensor.shape for tensor in tensors]
        axes = zip(*shapes, strict=True)
        return torch.cat(list(tensors), dim=next((axis for axis, sizes in enumerate(axes) if [*sizes] == counts), 0))

    gradients = [part.input_gradient for part in parts if part.input_gradient is not None]
    return Trace(
        images=cat([part.images for part in parts]),
        logits=cat([part.logits for part in parts]),
        targets=cat([part.targets for part in parts]),
        input_gradient=cat(gradients) if gradients else None,
        activations={name: cat([part.activations[name] for part in parts]) for name in parts[0].activations},
        gradients={
            name: cat([part.gradients[name] for part in parts])
            for name in parts[0].gradients
            if all(name in part.gradients for part in parts)
        },
        attention=joined_calls([part.attention for part in parts]),
        through=parts[0].through,
        cut=parts[0].cut,
    )


@contextmanager
def captured(
    layers: Mapping[str, nn.Module],
    *,
    differentiable: Sequence[str] = (),
    parts: Mapping[str, Path] = MappingProxyType({}),
) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of layers while a model runs.

    Args:
        layers: Modules by name.
        differentiable: Names of layers whose outputs must be part of a graph, or start one, to get gradients.
        parts: Which tensor of an output of several is meant, by the layer's name; the first of others.

    Yields:
        Outputs by name, filled as the layers run. Of a layer that runs several times it is the last output.

    Raises:
        LayerError: When the model runs, if a layer's output holds no tensor.
    """
    outputs: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for name, module in layers.items():
            if isinstance(module, torch.jit.ScriptModule):
                raise unseen(module)
            hook = _capture(name, outputs, parts.get(name), differentiable=name in differentiable)
            stack.callback(module.register_forward_hook(hook).remove)
        yield outputs


def _capture(name: str, outputs: dict[str, Tensor], path: Path | None, *, differentiable: bool) -> Any:
    def hook(module: nn.Module, _: Any, output: Any) -> Any:
        part = part_at(output, path)
        if part is None:
            found = f"layer {name!r} ({type(module).__name__}) gives {type(output).__name__}"
            raise LayerError(f"{found}, expected a tensor: choose another")
        starts = differentiable and not part.requires_grad
        outputs[name] = part.detach().requires_grad_() if starts else part
        # The model goes on with a copy: an in-place ReLU after the layer must not change the captured output.
        return with_part(output, part, outputs[name].clone())

    return hook
