"""Guided Grad-CAM: the fine grain of guided backpropagation where Grad-CAM sees the class."""

from torch import Tensor, nn

from vis_callbacks.attribution.cam import CamCallback, cam_from_trace
from vis_callbacks.attribution.grad_cam import grad_cam_rule
from vis_callbacks.attribution.relu_rules import guided_backprop
from vis_callbacks.event import Event
from vis_callbacks.model import Layout, Targets, Trace, find_layout, guarded, trace_in_chunks


@guarded
def guided_grad_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: str | None = None,
    *,
    chunk_size: int | None = None,
) -> Tensor:
    """Multiply guided backpropagation by Grad-CAM, pixel by pixel.

    Selvaraju, Cogswell, Das, Vedantam, Parikh and Batra, "Grad-CAM: Visual Explanations from Deep Networks via
    Gradient-based Localization", 2016, arXiv:1610.02391.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space.
        targets: Classes ``(N,)``, pairs ``(N, 2)`` for the first's logit minus the second's, one class for all, or
            None for the predicted ones.
        layer: The layer of Grad-CAM; None: the last whose map is fine enough.
        chunk_size: Images in one pass; None: chosen by their size. It has no effect on the result.

    Returns:
        ``(N, C, H, W)`` float32, signed.

    Raises:
        ConfigurationError: If the images are not ``(N, C, H, W)`` or the targets do not fit.
        LayerError: If the layer is not found, did not run, or gives no map.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> guided_grad_cam(model, torch.rand(2, 3, 8, 8), layer="1").shape
        torch.Size([2, 3, 8, 8])
    """
    layout = find_layout(model, images, layer)
    seen = trace_in_chunks(model, images, targets, gradients=[layout], chunk_size=chunk_size)
    return guided_grad_cam_from_trace(model, seen, layout, chunk_size)


def guided_grad_cam_from_trace(model: nn.Module, seen: Trace, layout: Layout, chunk_size: int | None = None) -> Tensor:
    """Return the map ``(N, C, H, W)`` from a trace that has the layer's gradient, by one guided pass more."""
    return guided_backprop(model, seen.images, seen.targets, chunk_size=chunk_size) * cam_from_trace(
        seen, layout, grad_cam_rule
    )


class GuidedGradCAM(CamCallback):
    """Shows guided backpropagation where Grad-CAM sees the class. See `guided_grad_cam` and `CamCallback`.

    Read it for edges inside the place that Grad-CAM finds; the edges are those of the image, not of the class.
    """

    function = staticmethod(guided_grad_cam)
    default_display = "color"
    signed = True
    one_channel = False
    reads_gradient = True

    def attribute(self, event: Event) -> Tensor:
        """Return ``(N, C, H, W)``, signed."""
        return guided_grad_cam_from_trace(event.model, event.trace, event.layout(self.layer))
