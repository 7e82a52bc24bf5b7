"""Score-CAM: a layer's channels, weighted by the logit of the image seen through each."""

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from vis_callbacks import checks
from vis_callbacks.attribution.callback import AttributionOptions
from vis_callbacks.attribution.cam import (
    CamCallback,
    activation_from_trace,
    on_images,
    weighted_sum,
)
from vis_callbacks.event import Event
from vis_callbacks.model import (
    Layout,
    Targets,
    Trace,
    find_layout,
    guarded,
    in_chunks,
    pixels_of,
    scores_of,
    trace_in_chunks,
)


@guarded
def score_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: str | None = None,
    *,
    top_k: int | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Sum a layer's channels, weighted by how well the target is seen through each, and keep what is positive.

    Each channel, resized to the image and scaled to [0, 1], masks the image; the weights are the softmax over the
    channels of the masked images' target logits, which is that of their gains over any baseline image. Channels that
    are the same at every position mask nothing and get no weight. It needs no gradient, but a forward pass per channel.
    The package grad-cam resizes the masks with aligned corners, so its weights differ a little.

    Wang, Wang, Du, Yang, Zhang, Ding, Mardziel and Hu, "Score-CAM: Score-Weighted Visual Explanations for Convolutional
    Neural Networks", 2019, arXiv:1910.01279.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space.
        targets: Classes ``(N,)``, pairs ``(N, 2)`` for the first's logit minus the second's, one class for all, or
            None for the predicted ones.
        layer: The layer whose channels are weighted; None: the last whose map is fine enough.
        top_k: How many channels of an image count, those that vary most over positions; None: all.
        chunk_size: Images in one pass; None: chosen by their size. It has no effect on the result.

    Returns:
        ``(N, 1, H, W)`` float32, at least 0: the layer's map, bilinearly resized. All zero where no evidence is
        positive.

    Raises:
        ConfigurationError: If the images or targets do not fit, or `top_k` is below 1.
        LayerError: If the layer is not found, did not run, or gives no map.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> score_cam(model, torch.rand(2, 3, 8, 8), layer="1").shape
        torch.Size([2, 1, 8, 8])
    """
    layout = find_layout(model, images, layer)
    seen = trace_in_chunks(model, images, targets, activations=[layout], chunk_size=chunk_size)
    return score_cam_from_trace(model, seen, layout, top_k, chunk_size)


def score_cam_from_trace(
    model: nn.Module, seen: Trace, layout: Layout, top_k: int | None = None, chunk_size: int | None = None
) -> Tensor:
    """Return the map ``(N, 1, H, W)`` from a trace that has the layer's activation, by one forward pass per channel."""
    activation, images = activation_from_trace(seen, layout), seen.images.float()
    rows, channels = _varying(activation, top_k).nonzero(as_tuple=True)
    scores = activation.new_full(activation.shape[:2], -torch.inf)

    def masked_scores(items: Tensor) -> Tensor:
        of = rows[items]
        masks = _scaled(on_images(activation[of, channels[items]][:, None], images, layout))
        return scores_of(model, images[of] * masks, seen.targets[of])

    for items, found in in_chunks(
        masked_scores, len(rows), pixels=pixels_of(images), device=images.device, chunk_size=chunk_size
    ):
        scores[rows[items], channels[items]] = found
    # The softmax is NaN where every channel is constant.
    weights = scores.softmax(dim=1).nan_to_num(0)
    return on_images(weighted_sum(activation, weights), images, layout)


def _varying(activation: Tensor, top_k: int | None) -> Tensor:
    """Return which channels of ``(N, C, h, w)`` differ between positions and are among the top k, ``(N, C)``."""
    values = activation.flatten(2)
    varying = values.amax(dim=2) > values.amin(dim=2)
    if top_k is None:
        return varying
    top = values.var(dim=2, correction=0).topk(min(checks.whole("top_k", top_k), values.shape[1]), dim=1).indices
    return varying & torch.zeros_like(varying).scatter(1, top, True)


def _scaled(masks: Tensor) -> Tensor:
    low, high = masks.amin(dim=(2, 3), keepdim=True), masks.amax(dim=(2, 3), keepdim=True)
    return (masks - low) / (high - low).clamp(min=torch.finfo(masks.dtype).tiny)


class ScoreCAM(CamCallback):
    """Shows a layer's channels weighted by the logit of the image seen through each. See `score_cam`.

    Read it where gradients cannot be trusted; it is coarse, and takes a pass for each channel.

    Args:
        top_k: How many channels count, those that vary most over positions; each costs a forward pass. None: all.
        layer: The layer's name; None: the last whose map is fine enough.
        options: See `AttributionCallback`.

    Raises:
        ConfigurationError: If `top_k` is below 1.
    """

    function = staticmethod(score_cam)
    split = "samples"

    def __init__(
        self, *, top_k: int | None = 32, layer: str | None = None, **options: Unpack[AttributionOptions]
    ) -> None:
        super().__init__(layer=layer, **options)
        self.top_k = checks.optional(checks.whole, "top_k", top_k)

    def attribute(self, event: Event) -> Tensor:
        """Return ``(N, 1, H, W)``, at least 0."""
        return score_cam_from_trace(event.model, event.trace, event.layout(self.layer), self.top_k)
