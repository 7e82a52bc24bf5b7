"""Guided backpropagation and deconvnet: gradients that follow another rule at each ReLU."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from typing_extensions import Unpack

from vis_callbacks import checks
from vis_callbacks.attribution.callback import AttributionCallback, AttributionOptions
from vis_callbacks.attribution.gradient import gradient_from_trace
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.event import Event
from vis_callbacks.model import (
    Targets,
    captured,
    check_images,
    find_layer,
    find_layout,
    guarded,
    in_chunks,
    logits_of,
    pixels_of,
    trace_in_chunks,
)
from vis_callbacks.model.parts import Path
from vis_callbacks.model.torch_functions import CLIPPED, OTHER_ACTIVATIONS, RELUS, Function, FunctionMode, is_rectifier

Rule = Literal["guided", "deconv"]


class ReluRule(FunctionMode):
    """While active, change how gradients pass activations, be they modules or functions; no module is touched.

    * ``guided``: the gradient passes where both it and the activation's input are positive.
    * ``deconv``: the gradient passes where it is positive, whatever the input was.

    A rectifier counts in any spelling, see `RectifierSpellings`. Those inside scripted code are found in the graph when
    ``torch.autograd.grad`` is called.

    Args:
        rule: The rule.

    Attributes:
        others: Names of the activations that ran and are no rectifiers; the rules were not made for them.
        rectifiers: Number of rectifiers met.
        hidden: Whether the graph has a part that nobody can look into.

    Example:
        >>> from torch.nn import functional as F
        >>> x = torch.tensor([-1.0, 2.0], requires_grad=True)
        >>> with ReluRule("deconv"):
        ...     y = F.relu(x)
        >>> torch.autograd.grad(y.sum(), x)[0]
        tensor([1., 1.])
    """

    def __init__(self, rule: Rule) -> None:
        activations = RELUS | CLIPPED | OTHER_ACTIVATIONS
        replaced: dict[Function, Function] = {one: partial(self._activation, one) for one in activations}
        super().__init__({**replaced, torch.autograd.grad: self._grad}, spellings=True)
        self.rule = rule
        self.others: set[str] = set()
        self.rectifiers = 0
        self.hidden = False

    def _activation(self, function: Function, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        rectifies = is_rectifier(function, *args, **kwargs)
        if rectifies:
            self.rectifiers += 1
        else:
            self.others.add(function.__name__.rstrip("_"))
        if not (torch.is_grad_enabled() and input.requires_grad):
            return function(input, *args, **kwargs)
        if self.rule == "deconv":
            return _Deconvolved.apply(input, lambda values: function(values, *args, **kwargs))
        # A rectifier itself stops the gradient where its input is not positive. Compared first: it may work in place.
        passing = None if rectifies else input.detach() > 0
        outputs = function(input, *args, **kwargs)
        outputs.register_hook(partial(_positive, passing=passing))
        return outputs

    def _grad(self, outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Differentiate, with the rule at the rectifiers that ran where no function was seen."""
        with ExitStack() as stack:
            for node in _nodes(outputs):
                self.hidden |= "DifferentiableGraph" in node.name()
                if _rectifies(node):
                    self.rectifiers += 1
                    hook = partial(_pass_positive, inside=self.rule == "guided")
                    stack.callback(node.register_hook(hook).remove)
            return torch.autograd.grad(outputs, inputs, *args, **kwargs)


def _nodes(outputs: Tensor | Sequence[Tensor]) -> Iterator[Node]:
    """Yield the nodes of a graph."""
    tensors = [outputs] if isinstance(outputs, Tensor) else outputs
    todo = [tensor.grad_fn for tensor in tensors]
    seen: set[Node] = set()
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo.extend(before for before, _ in node.next_functions)
            yield node


def _rectifies(node: Any) -> bool:
    """Whether a node is that of a ReLU, or of a clamp from 0."""
    if node.name() == "ReluBackward0":
        return True
    bounds = {"HardtanhBackward0": "_saved_min_val", "ClampBackward1": "_saved_min", "ClampMinBackward0": "_saved_min"}
    name = bounds.get(node.name())
    return name is not None and getattr(node, name) == 0


def _pass_positive(
    found: tuple[Tensor | None, ...], given: tuple[Tensor | None, ...], *, inside: bool
) -> tuple[Tensor | None, ...] | None:
    gradient = found[0] if inside else given[0]
    return None if gradient is None else (gradient.clamp(min=0), *found[1:])


def _positive(gradient: Tensor | None, passing: Tensor | None) -> Tensor | None:
    if gradient is None:
        # A quantised layer follows.
        return None
    positive = gradient.clamp(min=0)
    return positive if passing is None else positive * passing


class _Deconvolved(torch.autograd.Function):
    """An activation whose backward passes positive gradients only, whatever its input was."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        outputs = activation(inputs)
        if outputs is inputs:
            ctx.mark_dirty(inputs)
        # Not used: a checkpointed block, computed again without this rule, must keep as many tensors as here.
        ctx.save_for_backward(outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        del ctx
        return _positive(gradients[0], None), None


@guarded
def guided_backprop(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    *,
    layer: str | None = None,
    channel: int | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Differentiate the target logit, letting back through each ReLU only what is positive there and was active.

    ReLUs are found in any spelling: modules, functions, ``clamp(min=0)``, ``where(h > 0, h, 0)``, in place or used many
    times. GELU, SiLU and their like are
    treated by the same rule, which was not made for them: a warning says so. Clipped rectifiers (ReLU6) pass gradients
    between their bounds. The maps are sharp but depend little on the last layers' weights (Adebayo et al., "Sanity
    Checks for Saliency Maps", 2018, arXiv:1810.03292): read them as what the image offers, not as why the class won.

    Springenberg, Dosovitskiy, Brox and Riedmiller, "Striving for Simplicity: The All Convolutional Net", 2014,
    arXiv:1412.6806.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space.
        targets: Classes ``(N,)``, pairs ``(N, 2)`` for the first's logit minus the second's, one class for all, or
            None for the predicted ones. Not used with a layer.
        layer: A layer whose output, summed, is differentiated instead of a logit.
        channel: The channel of that layer; None: all.
        chunk_size: Images in one pass; None: chosen by their size. It has no effect on the result.

    Returns:
        ``(N, C, H, W)`` float32, signed.

    Raises:
        ConfigurationError: If the images or targets do not fit, or the layer has no such channel.
        LayerError: If the layer is not found or did not run.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> guided_backprop(model, torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 3, 8, 8])
        >>> guided_backprop(model, torch.rand(2, 3, 8, 8), layer="1", channel=0).shape
        torch.Size([2, 3, 8, 8])
    """
    return _by_rule("guided", model, images, targets, layer, channel, chunk_size)


@guarded
def deconvnet(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    *,
    layer: str | None = None,
    channel: int | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Differentiate the target logit, letting back through each ReLU only what is positive there.

    As `guided_backprop`, but a ReLU passes a positive gradient also where it was not active.

    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2013, arXiv:1311.2901.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space.
        targets: Classes ``(N,)``, pairs ``(N, 2)`` for the first's logit minus the second's, one class for all, or
            None for the predicted ones. Not used with a layer.
        layer: A layer whose output, summed, is differentiated instead of a logit.
        channel: The channel of that layer; None: all.
        chunk_size: Images in one pass; None: chosen by their size. It has no effect on the result.

    Returns:
        ``(N, C, H, W)`` float32, signed.

    Raises:
        ConfigurationError: If the images or targets do not fit, or the layer has no such channel.
        LayerError: If the layer is not found or did not run.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> deconvnet(model, torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 3, 8, 8])
    """
    return _by_rule("deconv", model, images, targets, layer, channel, chunk_size)


class _RuleCallback(AttributionCallback):
    """Shows gradients that follow another rule.

    Args:
        layer: A layer whose channel is explained instead of a logit.
        channel: The channel; None: all of the layer.
        options: See `AttributionCallback`.

    Raises:
        ConfigurationError: If a channel is given without a layer, or is negative.
    """

    default_display = "color"
    rule: Rule

    def __init__(
        self, *, layer: str | None = None, channel: int | None = None, **options: Unpack[AttributionOptions]
    ) -> None:
        super().__init__(**options)
        self.layer = checks.optional(checks.layer_name, "layer", layer)
        self.channel = checks.optional(checks.whole, "channel", channel, 0)
        if self.channel is not None and self.layer is None:
            raise ConfigurationError(f"channel={channel} without a layer: expected the layer's name too")

    def check(self, model: nn.Module) -> None:
        """Raise a `LayerError` if the layer is not found."""
        super().check(model)
        if self.layer is not None:
            find_layer(model, self.layer)

    def attribute(self, event: Event) -> Tensor:
        """Return ``(N, C, H, W)``, signed."""
        images = event.samples.images
        return _by_rule(self.rule, event.model, images, event.trace.targets, self.layer, self.channel)

    def caption(self, event: Event, index: int) -> str:
        """Return what is explained, if it is not the predicted class."""
        if self.layer is None:
            return super().caption(event, index)
        return f"for {self.layer}" if self.channel is None else f"for channel {self.channel} of {self.layer}"


class GuidedBackprop(_RuleCallback):
    """Shows guided backpropagation of the target logit, or of one channel of a layer. See `guided_backprop`.

    Read it for what a channel responds to; it draws edges of the image whatever the class (Adebayo 2018).
    """

    function = staticmethod(guided_backprop)
    rule = "guided"


class Deconvnet(_RuleCallback):
    """Shows the deconvnet's gradient of the target logit, or of one channel of a layer. See `deconvnet`.

    Read it for which edges reach a channel; it looks alike for all classes, and with random weights.
    """

    function = staticmethod(deconvnet)
    rule = "deconv"


def _by_rule(
    rule: Rule,
    model: nn.Module,
    images: Tensor,
    targets: Targets,
    layer: str | None,
    channel: int | None,
    chunk_size: int | None = None,
) -> Tensor:
    check_images(images)
    read = None if layer is None else _channel_reader(model, images, layer, channel)
    with ReluRule(rule) as mode:
        if read is None:
            seen = trace_in_chunks(model, images, targets, input_gradient=True, chunk_size=chunk_size)
            result = gradient_from_trace(seen)
        else:
            pixels, gradient_of = pixels_of(images), partial(_layer_gradient, model, images, *read)
            chunks = in_chunks(gradient_of, len(images), pixels=pixels, device=images.device, chunk_size=chunk_size)
            result = torch.cat([images[:0].float(), *(found for _, found in chunks)])
    name = getattr(model, "original_name", type(model).__name__)
    if mode.hidden and (not mode.rectifiers or isinstance(model, torch.jit.ScriptModule)):
        raise ConfigurationError(
            f"{name} runs as TorchScript, in which the {rule} rule reaches no ReLU: give the module that was scripted, "
            "or use Gradient"
        )
    if mode.hidden:
        warnings.warn(
            f"a part of {name} runs as TorchScript, in which the {rule} rule reaches no ReLU: read the map with care",
            stacklevel=4,
        )
    if mode.others:
        warnings.warn(
            f"{name} has {', '.join(sorted(mode.others))}, for which the {rule} rule was not made: "
            "it was applied to their gradients, read the map with care",
            stacklevel=4,
        )
    elif not mode.rectifiers:
        warnings.warn(
            f"no ReLU was met in {name}, nor another activation: the map of the {rule} rule is the plain gradient",
            stacklevel=4,
        )
    return result


def _channel_reader(
    model: nn.Module, images: Tensor, layer: str, channel: int | None
) -> tuple[str, Mapping[str, Path], Callable[[Tensor], Tensor]]:
    """Return a layer's full name, which tensor of its output is read, and a function that selects the channel."""
    if channel is None:
        return find_layer(model, layer)[0], {}, lambda output: output
    layout = find_layout(model, images, layer)
    if not 0 <= channel < layout.channels:
        raise ConfigurationError(f"channel {channel} of layer {layer!r}: expected one from 0 to {layout.channels - 1}")
    return layout.layer, {layout.layer: layout.part}, lambda output: layout.to_map(output)[:, channel]


def _layer_gradient(
    model: nn.Module,
    images: Tensor,
    name: str,
    parts: Mapping[str, Path],
    read: Callable[[Tensor], Tensor],
    items: Tensor,
) -> Tensor:
    inputs = images[items].detach().requires_grad_()
    with captured({name: find_layer(model, name)[1]}, parts=parts) as outputs:
        logits_of(model, inputs)
    (found,) = torch.autograd.grad(read(outputs[name]).sum(), inputs)
    return found.float()
