"""Shared by the class activation maps: the layer, the maps of its channels, and resizing to the image's size."""

from collections.abc import Callable
from typing import ClassVar, TypeAlias

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from vis_callbacks import checks
from vis_callbacks.attribution.callback import AttributionCallback, AttributionOptions, Display
from vis_callbacks.event import Event, Needs
from vis_callbacks.model import Layout, Targets, Trace, find_layer, find_layout, full_name, trace

CamRule: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From a layer's activation and gradient, both ``(N, C, h, w)``, to a map ``(N, 1, h, w)``, at least 0."""


def gradient_cam(model: nn.Module, images: Tensor, targets: Targets, layer: str | None, rule: CamRule) -> Tensor:
    """Return the map of a rule that reads one layer's activation and gradient, ``(N, 1, H, W)``."""
    layout = find_layout(model, images, layer)
    return cam_from_trace(trace(model, images, targets, gradients=[layout.layer]), layout, rule)


def cam_from_trace(seen: Trace, layout: Layout, rule: CamRule) -> Tensor:
    """Return the map ``(N, 1, H, W)`` of a rule, from a trace that has the layer's gradient."""
    return to_image_size(
        rule(activation_from_trace(seen, layout), layout.to_map(seen.gradients[layout.layer])), seen.images
    )


def activation_from_trace(seen: Trace, layout: Layout) -> Tensor:
    """Return a layer's activation ``(N, C, h, w)``, from a trace that has it."""
    return layout.to_map(seen.activations[layout.layer])


def weighted_sum(activation: Tensor, weights: Tensor) -> Tensor:
    """Return ReLU of the sum of channels ``(N, C, h, w)`` times their weights ``(N, C)``, ``(N, 1, h, w)``."""
    return (activation * weights[:, :, None, None]).sum(dim=1, keepdim=True).relu()


def to_image_size(maps: Tensor, images: Tensor) -> Tensor:
    """Resize maps ``(N, 1, h, w)`` bilinearly to the images' size."""
    return F.interpolate(maps, size=images.shape[-2:], mode="bilinear", align_corners=False)


class CamCallback(AttributionCallback):
    """Shows the class activation map of one layer.

    Attributes:
        reads_gradient: Whether the technique reads the layer's gradient, and not only its activation.

    Args:
        layer: The layer's name; None: the last one with a map that the logits depend on.
        options: See `AttributionCallback`.
    """

    default_display: ClassVar[Display] = "overlay"
    signed = False
    one_channel = True
    reads_gradient: ClassVar[bool] = False

    def __init__(self, *, layer: str | None = None, **options: Unpack[AttributionOptions]) -> None:
        super().__init__(**options)
        self.layer = checks.optional(checks.layer_name, "layer", layer)
        self.layers: tuple[str | None, ...] = (self.layer,)

    def check(self, model: nn.Module) -> None:
        """Raise a `LayerError` if a layer is not found."""
        super().check(model)
        for layer in filter(None, self.layers):
            find_layer(model, layer)

    def needs(self, event: Event) -> Needs:
        """The layer's activation, and its gradient if the technique reads it."""
        layers = tuple(full_name(event.model, layer) for layer in self.layers)
        return Needs(gradients=layers) if self.reads_gradient else Needs(activations=layers)


class GradientCamCallback(CamCallback):
    """Shows the class activation map of one layer by a rule that reads its activation and its gradient."""

    rule: CamRule
    reads_gradient = True

    def attribute(self, event: Event) -> Tensor:
        """Return ``(N, 1, H, W)``, at least 0."""
        return cam_from_trace(event.trace, event.layout(self.layer), self.rule)
