"""XGrad-CAM: Grad-CAM whose weights best keep the logit's sensitivity and sum."""

import torch
from torch import Tensor, nn

from vis_callbacks.attribution.cam import GradientCamCallback, gradient_cam, weighted_sum
from vis_callbacks.model import Targets, guarded


@guarded
def xgrad_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: str | None = None,
    *,
    chunk_size: int | None = None,
) -> Tensor:
    """Sum a layer's channels, weighted by their activation-weighted mean gradients, and keep what is positive.

    A channel's weight is Σ g A / Σ A, and 0 where the channel sums to nothing.

    Fu, Hu, Dong, Guo, Gao and Li, "Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs", 2020,
    arXiv:2008.02312.

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
        >>> xgrad_cam(model, torch.rand(2, 3, 8, 8), layer="1").shape
        torch.Size([2, 1, 8, 8])
    """
    return gradient_cam(model, images, targets, layer, xgrad_cam_rule, chunk_size)


def xgrad_cam_rule(activation: Tensor, gradient: Tensor) -> Tensor:
    """Return the map ``(N, 1, h, w)`` of an activation and its gradient, both ``(N, C, h, w)``."""
    total = activation.sum(dim=(2, 3))
    # A sum below rounding error counts as zero: dividing by it would blow up a channel that cancels out.
    empty = total.abs() <= torch.finfo(total.dtype).eps * activation.abs().sum(dim=(2, 3))
    weights = torch.where(empty, 0, (activation * gradient).sum(dim=(2, 3)) / torch.where(empty, 1, total))
    return weighted_sum(activation, weights)


class XGradCAM(GradientCamCallback):
    """Shows a layer's channels weighted by their activation-weighted gradients. See `xgrad_cam` and `CamCallback`.

    Read it as Grad-CAM: before pooling and one linear layer the two are the same.
    """

    function = staticmethod(xgrad_cam)
    rule = staticmethod(xgrad_cam_rule)
