"""Shared by the class activation maps: the layer, the maps of its channels, and resizing to the image's size."""

from collections.abc import Callable, Sequence
from typing import ClassVar, TypeAlias

from torch import Tensor, nn
from typing_extensions import Unpack

from vis_callbacks import checks
from vis_callbacks.attribution.callback import AttributionCallback, AttributionOptions, Display
from vis_callbacks.event import Event, Needs
from vis_callbacks.model import Layout, Targets, Trace, find_layer, find_layout, full_name, trace_in_chunks
from vis_callbacks.model.features import feature_info
from vis_callbacks.model.trace import depends_on

CamRule: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From a layer's activation and gradient, both ``(N, C, h, w)``, to a map ``(N, 1, h, w)``, at least 0."""


def gradient_cam(
    model: nn.Module, images: Tensor, targets: Targets, layer: str | None, rule: CamRule, chunk_size: int | None
) -> Tensor:
    """Return the map of a rule that reads one layer's activation and gradient, ``(N, 1, H, W)``."""
    layout = find_layout(model, images, layer)
    seen = trace_in_chunks(model, images, targets, gradients=[layout], chunk_size=chunk_size)
    return cam_from_trace(seen, layout, rule)


def cam_from_trace(seen: Trace, layout: Layout, rule: CamRule) -> Tensor:
    """Return the map ``(N, 1, H, W)`` of a rule, from a trace that has the layer's gradient."""
    maps = rule(activation_from_trace(seen, layout), layout.to_map(seen.gradient_at(layout.layer)))
    return on_images(maps, seen.images, layout)


def activation_from_trace(seen: Trace, layout: Layout) -> Tensor:
    """Return a layer's activation ``(N, C, h, w)``, from a trace that has it."""
    return layout.to_map(seen.activations[layout.layer])


def weighted_sum(activation: Tensor, weights: Tensor) -> Tensor:
    """Return ReLU of the sum of channels ``(N, C, h, w)`` times their weights ``(N, C)``, ``(N, 1, h, w)``."""
    return (activation * weights[:, :, None, None]).sum(dim=1, keepdim=True).relu()


def on_images(maps: Tensor, images: Tensor, layout: Layout) -> Tensor:
    """Put maps ``(N, 1, h, w)`` of a layer on the pixels of the images, see `Layout.on_image`."""
    return layout.on_image(maps, (images.shape[-2], images.shape[-1]))


class CamCallback(AttributionCallback):
    """Shows the class activation map of one layer.

    Attributes:
        reads_gradient: Whether the technique reads the layer's gradient, and not only its activation.
        no_evidence: Why a map is zero everywhere although the logits depend on the layer.

    Args:
        layer: The layer's name; None: the last whose map is fine enough.
        options: See `AttributionCallback`. ``smooth`` is 0, as maps of a layer are smooth when they are resized.
    """

    default_display: ClassVar[Display] = "overlay"
    signed = False
    one_channel = True
    reads_gradient: ClassVar[bool] = False
    no_evidence: ClassVar[str] = "no evidence for this class is positive"

    def __init__(self, *, layer: str | None = None, **options: Unpack[AttributionOptions]) -> None:
        options.setdefault("smooth", 0.0)
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

    def remark(self, event: Event, index: int, values: Tensor) -> str:
        """Return the layer and the size of its map, and why a map is zero everywhere."""
        layouts = [event.layout(layer) for layer in self.layers]
        read = ", ".join(f"{layout.layer}, {layout.size[0]}×{layout.size[1]}" for layout in layouts)
        if values.any():
            return read
        return f"{read}; {self._reason(event, index, layouts)}"

    def _reason(self, event: Event, index: int, layouts: Sequence[Layout]) -> str:
        images = event.samples.images
        found = feature_info(event.model, images)
        for layout in layouts:
            gradient = event.trace.gradients.get(layout.layer)
            if gradient is not None:
                reaches = bool(layout.to_map(gradient)[index].any())
            else:
                reaches = found.layer(layout.layer).reaches_logit or depends_on(event.model, images, layout)
            if reaches:
                return self.no_evidence
        return "the logits do not depend on this layer"


class GradientCamCallback(CamCallback):
    """Shows the class activation map of one layer by a rule that reads its activation and its gradient."""

    rule: CamRule
    reads_gradient = True

    def attribute(self, event: Event) -> Tensor:
        """Return ``(N, 1, H, W)``, at least 0."""
        return cam_from_trace(event.trace, event.layout(self.layer), self.rule)
