"""Grad-CAM++: Grad-CAM whose weights count every position where the class is seen."""

import torch
from torch import Tensor, nn

from vis_callbacks.attribution.cam import GradientCamCallback, gradient_cam, weighted_sum
from vis_callbacks.model import Targets, guarded


@guarded
def grad_cam_plus_plus(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: str | None = None,
    *,
    chunk_size: int | None = None,
) -> Tensor:
    """Sum a layer's channels, weighted by shares of their positive gradients, and keep what is positive.

    The share of a position is g² / (2 g² + ΣA g³) for the gradient g of the logit, which several objects of one class
    do not dilute. As in the paper's code the gradient is that of the logit, whose exponential the derivation is about.

    Chattopadhyay, Sarkar, Howlader and Balasubramanian, "Grad-CAM++: Improved Visual Explanations for Deep
    Convolutional Networks", 2017, arXiv:1710.11063.

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
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> grad_cam_plus_plus(model, torch.rand(2, 3, 8, 8), layer="1").shape
        torch.Size([2, 1, 8, 8])
    """
    return gradient_cam(model, images, targets, layer, grad_cam_plus_plus_rule, chunk_size)


def grad_cam_plus_plus_rule(activation: Tensor, gradient: Tensor) -> Tensor:
    """Return the map ``(N, 1, h, w)`` of an activation and its gradient, both ``(N, C, h, w)``."""
    # g² / (2 g² + ΣA g³) = 1 / (2 + ΣA g): reduced, small gradients do not vanish when they are squared.
    denominator = 2 + activation.sum(dim=(2, 3), keepdim=True) * gradient
    share = torch.where(denominator == 0, 0, 1 / denominator)
    return weighted_sum(activation, (share * gradient.relu()).sum(dim=(2, 3)))


class GradCAMPlusPlus(GradientCamCallback):
    """Shows a layer's channels weighted by their positive gradients. See `grad_cam_plus_plus` and `CamCallback`.

    Read it for several objects of one class; beside objects of other classes it shows these too.
    """

    function = staticmethod(grad_cam_plus_plus)
    rule = staticmethod(grad_cam_plus_plus_rule)
