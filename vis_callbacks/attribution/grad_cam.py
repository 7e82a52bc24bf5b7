"""Grad-CAM: a layer's channels, weighted by their mean gradients."""

from torch import Tensor, nn

from vis_callbacks.attribution.cam import GradientCamCallback, gradient_cam, weighted_sum
from vis_callbacks.model import Targets, guarded


@guarded
def grad_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: str | None = None,
    *,
    chunk_size: int | None = None,
) -> Tensor:
    """Sum a layer's channels, weighted by the mean gradient of the target logit over each, and keep what is positive.

    With global average pooling and one linear layer behind, this is the class activation map (Zhou et al., 2015,
    arXiv:1512.04150) up to the number of positions.

    Selvaraju, Cogswell, Das, Vedantam, Parikh and Batra, "Grad-CAM: Visual Explanations from Deep Networks via
    Gradient-based Localization", 2016, arXiv:1610.02391.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space.
        targets: Classes ``(N,)``, pairs ``(N, 2)`` for the first's logit minus the second's, one class for all, or
            None for the predicted ones.
        layer: The layer whose channels are weighted; None: the last whose map is fine enough.
        chunk_size: Images in one pass; None: chosen by their size. It has no effect on the result.

    Returns:
        ``(N, 1, H, W)`` float32, at least 0: the layer's map, bilinearly resized. All zero where no evidence is
        positive.

    Raises:
        ConfigurationError: If the images are not ``(N, C, H, W)`` or the targets do not fit.
        LayerError: If the layer is not found, did not run, or gives no map.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> grad_cam(model, torch.rand(2, 3, 8, 8), layer="1").shape
        torch.Size([2, 1, 8, 8])
    """
    return gradient_cam(model, images, targets, layer, grad_cam_rule, chunk_size)


def grad_cam_rule(activation: Tensor, gradient: Tensor) -> Tensor:
    """Return the map ``(N, 1, h, w)`` of an activation and its gradient, both ``(N, C, h, w)``."""
    return weighted_sum(activation, gradient.mean(dim=(2, 3)))


class GradCAM(GradientCamCallback):
    """Shows a layer's channels weighted by their mean gradients. See `grad_cam` and `CamCallback`.

    Read it for where the evidence for the class is; it is coarse and has no outlines.
    """

    function = staticmethod(grad_cam)
    rule = staticmethod(grad_cam_rule)
