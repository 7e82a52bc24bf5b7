"""HiResCAM: a layer's activation times its gradient, position by position."""

from torch import Tensor, nn

from vis_callbacks.attribution.cam import GradientCamCallback, gradient_cam
from vis_callbacks.model import Targets, guarded


@guarded
def hires_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: str | None = None,
    *,
    chunk_size: int | None = None,
) -> Tensor:
    """Sum a layer's activation times its gradient over the channels, and keep what is positive.

    Unlike Grad-CAM it does not average gradients over positions, so that it shows only places that the model used.

    Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural networks",
    2020, arXiv:2011.08891.

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
        >>> hires_cam(model, torch.rand(2, 3, 8, 8), layer="1").shape
        torch.Size([2, 1, 8, 8])
    """
    return gradient_cam(model, images, targets, layer, hires_cam_rule, chunk_size)


def hires_cam_rule(activation: Tensor, gradient: Tensor) -> Tensor:
    """Return the map ``(N, 1, h, w)`` of an activation and its gradient, both ``(N, C, h, w)``."""
    return (activation * gradient).sum(dim=1, keepdim=True).relu()


class HiResCAM(GradientCamCallback):
    """Shows a layer's activation times its gradient. See `hires_cam` and `CamCallback`.

    Read it for where the evidence for the class is: before pooling and one linear layer it is exact, but coarse.
    """

    function = staticmethod(hires_cam)
    rule = staticmethod(hires_cam_rule)
