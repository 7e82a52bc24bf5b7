"""Fine CAM: where Grad-CAM sees the class, drawn as finely as an earlier layer sees it."""

from torch import Tensor, nn

from vis_callbacks.attribution.cam import CamCallback, cam_from_trace
from vis_callbacks.attribution.grad_cam import grad_cam_rule
from vis_callbacks.attribution.hires_cam import hires_cam_rule
from vis_callbacks.event import Event, Needs
from vis_callbacks.model import Layout, Targets, Trace, full_name, guarded, trace_in_chunks
from vis_callbacks.model.feature_info import AtStride
from vis_callbacks.model.features import feature_info, find_layout

STRIDE = 8
"""Most pixels from one position of the fine layer's map to the next."""

_FLOOR = 2.0
"""What the fine map counts where it has no evidence, in its own means: without it, gaps would cost the class.

More brings the map nearer to Grad-CAM; of 1 to 4 this has the lowest deletion on the photographs that were chosen on.
"""


@guarded
def fine_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: str | None = None,
    *,
    chunk_size: int | None = None,
) -> Tensor:
    """Multiply Grad-CAM of a deep layer by the evidence of an earlier layer, position by position.

    The deep layer tells the class from others, the earlier one the pixels that count from those beside them: the map
    keeps Grad-CAM's choice of the class, and deleting its pixels lowers the class as fast as gradient x input does; see
    ``benchmarks/faithfulness.py``. Where no layer is finer, it is Grad-CAM times HiResCAM of the same layer.

    Both are of one forward and backward. They are those of Selvaraju et al., 2016, arXiv:1610.02391, and Draelos and
    Carin, 2020, arXiv:2011.08891.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space.
        targets: Classes ``(N,)``, pairs ``(N, 2)`` for the first's logit minus the second's, one class for all, or
            None for the predicted ones.
        layer: The deep layer; None: the last whose map is fine enough. The other is the last with a position for 8
            pixels.
        chunk_size: Images in one pass; None: chosen by their size. It has no effect on the result.

    Returns:
        ``(N, 1, H, W)`` float32, at least 0, bilinearly resized. All zero where no evidence is positive.

    Raises:
        ConfigurationError: If the images are not ``(N, C, H, W)`` or the targets do not fit.
        LayerError: If the layer is not found, did not run, or gives no map.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> fine_cam(model, torch.rand(2, 3, 8, 8), layer="1").shape
        torch.Size([2, 1, 8, 8])
    """
    deep = find_layout(model, images, layer)
    fine = fine_layout(model, images)
    seen = trace_in_chunks(model, images, targets, gradients=[deep, fine], chunk_size=chunk_size)
    return fine_cam_from_trace(seen, deep, fine)


def fine_layout(model: nn.Module, images: Tensor) -> Layout:
    """Return how the output of the last layer that is fine enough becomes a map."""
    found = feature_info(model, images)
    return found.layout(found.layer_at(STRIDE))


def fine_cam_from_trace(seen: Trace, deep: Layout, fine: Layout) -> Tensor:
    """Return the map ``(N, 1, H, W)`` from a trace that has the gradients of both layers."""
    detail = cam_from_trace(seen, fine, hires_cam_rule)
    mean = detail.mean(dim=(2, 3), keepdim=True)
    shape = (detail / mean.where(mean > 0, 1) + _FLOOR) / (1 + _FLOOR)
    return cam_from_trace(seen, deep, grad_cam_rule) * shape


class FineCAM(CamCallback):
    """Shows Grad-CAM of a deep layer, drawn by the evidence of a finer one. See `fine_cam` and `CamCallback`.

    Read it for where the evidence for the class is, with finer outlines; it finds the class no better than
    Grad-CAM.
    """

    function = staticmethod(fine_cam)
    reads_gradient = True

    def needs(self, event: Event) -> Needs:
        """The gradients of both layers."""
        return Needs(gradients=(full_name(event.model, self.layer), AtStride(STRIDE)))

    def attribute(self, event: Event) -> Tensor:
        """Return ``(N, 1, H, W)``, at least 0."""
        deep = event.layout(self.layer)
        return fine_cam_from_trace(event.trace, deep, fine_layout(event.model, event.samples.images))

    def remark(self, event: Event, index: int, values: Tensor) -> str:
        """Return both layers with the sizes of their maps, and why a map is zero everywhere."""
        fine = fine_layout(event.model, event.samples.images)
        height, width = fine.size
        return f"{super().remark(event, index, values)}; finer by {fine.layer}, {height}×{width}"
