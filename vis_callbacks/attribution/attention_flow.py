"""The base of the attributions that follow attention through all layers."""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from vis_callbacks.attribution.callback import AttributionCallback, Display
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.event import Event, Needs
from vis_callbacks.model import PlacedCall, Trace, no_attention, placed_calls
from vis_callbacks.model.attention_code import may_attend
from vis_callbacks.model.features import feature_info


def attentions_between_places(seen: Trace, model: nn.Module) -> list[PlacedCall]:
    """Return the attentions of a trace that look at places of the image.

    Raises:
        ConfigurationError: If there are none.
    """
    if not seen.attention:
        raise no_attention(model)
    placed = placed_calls(seen.attention, feature_info(model, seen.images), len(seen.images))
    if not placed:
        raise ConfigurationError(
            f"the attention of {type(model).__name__} is between channels, or windows of unknown place: it has no map; "
            "use GradCAM, which needs none"
        )
    return placed


def on_pixels(grid: Tensor, images: Tensor) -> Tensor:
    """Return amounts ``(N, h, w)`` as maps of the images' size, ``(N, 1, H, W)``."""
    size = (images.shape[-2], images.shape[-1])
    return F.interpolate(grid[:, None].float(), size=size, mode="bilinear", align_corners=False)


class AttentionFlowCallback(AttributionCallback):
    """Shows what flows through the attention of all layers.

    Attributes:
        from_trace: The technique, from a trace that has the attention, and the model, to maps ``(N, 1, H, W)``.
        reads: What it needs of the shared pass.
    """

    default_display: ClassVar[Display] = "overlay"
    signed = False
    one_channel = True
    from_trace: Callable[[Trace, nn.Module], Tensor]
    reads: ClassVar[Needs]

    def check(self, model: nn.Module) -> None:
        """Raise a `ConfigurationError` if the model has no attention."""
        super().check(model)
        if not may_attend(model):
            raise no_attention(model)

    def needs(self, event: Event) -> Needs:
        """The attention of all layers."""
        del event
        return self.reads

    def attribute(self, event: Event) -> Tensor:
        """Return ``(N, 1, H, W)``, at least 0."""
        return self.from_trace(event.trace, event.model)
