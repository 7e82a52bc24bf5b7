"""LayerCAM: activation times positive gradient, position by position, also of shallow layers and of several."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from vis_callbacks import checks
from vis_callbacks.attribution.callback import AttributionOptions
from vis_callbacks.attribution.cam import CamCallback, cam_from_trace
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.event import Event
from vis_callbacks.model import Layout, Targets, Trace, find_layout, guarded, trace_in_chunks


@guarded
def layer_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: str | Sequence[str] | None = None,
    *,
    chunk_size: int | None = None,
) -> Tensor:
    """Sum a layer's activation times the positive part of its gradient over the channels, and keep what is positive.

    Shallow layers give fine maps. The maps of several layers are scaled as in the paper, tanh(2 M / max M), and the
    largest value is taken at each pixel.

    Jiang, Zhang, Hou, Cheng and Wei, "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization", IEEE
    Transactions on Image Processing 30, 2021, doi:10.1109/TIP.2021.3089943.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space.
        targets: Classes ``(N,)``, pairs ``(N, 2)`` for the first's logit minus the second's, one class for all, or
            None for the predicted ones.
        layer: The layer, or several; None: the last whose map is fine enough.
        chunk_size: Images in one pass; None: chosen by their size. It has no effect on the result.

    Returns:
        ``(N, 1, H, W)`` float32, at least 0, bilinearly resized; below 1 where several layers are joined. All zero
        where no evidence is positive.

    Raises:
        ConfigurationError: If the images are not ``(N, C, H, W)``, the targets do not fit, or no layer is named.
        LayerError: If a layer is not found, did not run, or gives no map.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> layer_cam(model, torch.rand(2, 3, 8, 8), layer=["0", "1"]).shape
        torch.Size([2, 1, 8, 8])
    """
    names = [layer] if layer is None or isinstance(layer, str) else list(layer)
    if not names:
        raise ConfigurationError("no layer named: give at least one, or None for the default")
    layouts = [find_layout(model, images, name) for name in names]
    return layer_cam_from_trace(
        trace_in_chunks(model, images, targets, gradients=layouts, chunk_size=chunk_size), layouts
    )


def layer_cam_from_trace(seen: Trace, layouts: Sequence[Layout]) -> Tensor:
    """Return the map ``(N, 1, H, W)`` of one or several layers, from a trace that has their gradients."""
    if len(layouts) == 1:
        return cam_from_trace(seen, layouts[0], layer_cam_rule)
    return torch.stack([cam_from_trace(seen, layout, _scaled_rule) for layout in layouts]).amax(dim=0)


def layer_cam_rule(activation: Tensor, gradient: Tensor) -> Tensor:
    """Return the map ``(N, 1, h, w)`` of an activation and its gradient, both ``(N, C, h, w)``."""
    return (activation * gradient.relu()).sum(dim=1, keepdim=True).relu()


def _scaled_rule(activation: Tensor, gradient: Tensor) -> Tensor:
    maps = layer_cam_rule(activation, gradient)
    largest = maps.amax(dim=(1, 2, 3), keepdim=True)
    return torch.tanh(2 * maps / torch.where(largest == 0, 1, largest))


class LayerCAM(CamCallback):
    """Shows activation times positive gradient of one layer, or of several joined. See `layer_cam`.

    Read it for fine places in shallow layers; it tells classes apart less well than Grad-CAM.

    Args:
        layers: Name of a layer, or names of several; None: the last whose map is fine enough.
        layer: The same, as `layer_cam` calls it.
        options: See `AttributionCallback`.

    Raises:
        ConfigurationError: If the list of layers is empty, or both `layers` and `layer` are given.
    """

    function = staticmethod(layer_cam)
    reads_gradient = True

    def __init__(
        self,
        *,
        layers: str | Sequence[str] | None = None,
        layer: str | Sequence[str] | None = None,
        **options: Unpack[AttributionOptions],
    ) -> None:
        super().__init__(**options)
        if layers is not None and layer is not None:
            raise ConfigurationError(f"LayerCAM has layers={layers!r} and layer={layer!r}: give one of the two")
        named = checks.optional(checks.layer_names, "layers", layers)
        self.layers = named or checks.optional(checks.layer_names, "layer", layer) or (None,)

    def attribute(self, event: Event) -> Tensor:
        """Return ``(N, 1, H, W)``, at least 0."""
        return layer_cam_from_trace(event.trace, [event.layout(layer) for layer in self.layers])
