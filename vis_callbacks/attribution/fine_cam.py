"""Fine CAM: where Grad-CAM sees the class, drawn as finely as earlier layers see it."""

import math
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from vis_callbacks.attribution.cam import CamCallback, cam_from_trace
from vis_callbacks.attribution.hires_cam import hires_cam_rule
from vis_callbacks.event import Event, Needs
from vis_callbacks.model import Layout, Targets, Trace, full_name, guarded, trace_in_chunks
from vis_callbacks.model.feature_info import AtStride
from vis_callbacks.model.features import find_layout

CHOICES = (AtStride(4), AtStride(8))
"""The finer layers: the last with a position for so many pixels."""

_FLOOR = 2.0
"""What a finer map counts where it has no evidence, in its own means: without it, gaps would cost the class."""

_ACTIVITY = 0.5
"""How much of what activity brings on average, whatever it is of, is taken from Grad-CAM.

Other objects are active as well: without this, the finer layers would cost the class (.88 instead of .91). With all of
it, deletion is half as much again, as half of an object is zero.
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
    """Multiply Grad-CAM of a deep layer by the evidence of finer layers, position by position.

    The deep layer tells the class from others, the finer ones the pixels that count from those beside them::

        ReLU( e - 1/2 a mean(e) / mean(a) ) · product over the finer layers of (h / mean(h) + 2) / 3

    with e the sum of Grad-CAM before its ReLU, a the sum of the deep layer's absolute activations, h HiResCAM of the
    last layer with a position for 4 pixels and of that for 8. A negative mean(e) counts as 0.

    On EfficientNet-lite0, class, deletion and insertion of ``benchmarks/faithfulness.py`` are .91, .06 and .31; of
    Grad-CAM they are .90, .12 and .35: fine places are little of an object, so inserting them brings it back later.
    Where no layer is finer, h is of the deep layer.

    All are of one forward and backward. The parts are those of Selvaraju et al., 2016, arXiv:1610.02391, and Draelos
    and Carin, 2020, arXiv:2011.08891.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space.
        targets: Classes ``(N,)``, pairs ``(N, 2)`` for the first's logit minus the second's, one class for all, or
            None for the predicted ones.
        layer: The deep layer; None: the last whose map is fine enough.
        chunk_size: Images in one pass; None: chosen by their size. It has no effect on the result.

    Returns:
        ``(N, 1, H, W)`` float32, at least 0 and zero wherever Grad-CAM is; each layer's map is bilinearly resized.

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
    finer = finer_layouts(deep, (find_layout(model, images, choice) for choice in CHOICES))
    seen = trace_in_chunks(model, images, targets, gradients=[deep, *finer], chunk_size=chunk_size)
    return fine_cam_from_trace(seen, deep, finer)


def finer_layouts(deep: Layout, chosen: Iterable[Layout]) -> list[Layout]:
    """Return those of the chosen layers whose maps are finer than the deep one's, each once; else the deep one."""
    finer = {one.layer: one for one in chosen if math.prod(one.size) > math.prod(deep.size)}
    return list(finer.values()) or [deep]


def fine_cam_from_trace(seen: Trace, deep: Layout, finer: Sequence[Layout]) -> Tensor:
    """Return the map ``(N, 1, H, W)`` from a trace that has the gradients of all these layers."""
    found = cam_from_trace(seen, deep, _beyond_activity)
    for layout in finer:
        detail = cam_from_trace(seen, layout, hires_cam_rule)
        found = found * (_in_means(detail) + _FLOOR) / (1 + _FLOOR)
    return found


def _beyond_activity(activation: Tensor, gradient: Tensor) -> Tensor:
    evidence = (activation * gradient.mean(dim=(2, 3), keepdim=True)).sum(dim=1, keepdim=True)
    activity = _in_means(activation.abs().sum(dim=1, keepdim=True))
    # Where the class has less than no evidence, activity of others is none for it.
    usual = evidence.mean(dim=(2, 3), keepdim=True).relu()
    return (evidence - _ACTIVITY * usual * activity).relu()


def _in_means(maps: Tensor) -> Tensor:
    mean = maps.mean(dim=(2, 3), keepdim=True)
    return maps / mean.where(mean > 0, 1)


class FineCAM(CamCallback):
    """Shows Grad-CAM of a deep layer, drawn by the evidence of finer ones. See `fine_cam` and `CamCallback`.

    Read it for where the evidence for the class is and which pixels of it count most; what it leaves dark inside an
    object may still belong to it.
    """

    function = staticmethod(fine_cam)
    reads_gradient = True

    def needs(self, event: Event) -> Needs:
        """The gradients of all layers."""
        return Needs(gradients=(full_name(event.model, self.layer), *CHOICES))

    def attribute(self, event: Event) -> Tensor:
        """Return ``(N, 1, H, W)``, at least 0."""
        return fine_cam_from_trace(event.trace, event.layout(self.layer), self._finer(event))

    def remark(self, event: Event, index: int, values: Tensor) -> str:
        """Return all layers with the sizes of their maps, and why a map is zero everywhere."""
        finer = [one for one in self._finer(event) if one != event.layout(self.layer)]
        sizes = " and ".join(f"{one.layer}, {one.size[0]}×{one.size[1]}" for one in finer)
        return super().remark(event, index, values) + (f"; finer by {sizes}" if sizes else "")

    def _finer(self, event: Event) -> list[Layout]:
        return finer_layouts(event.layout(self.layer), map(event.layout, CHOICES))
