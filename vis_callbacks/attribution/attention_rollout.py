"""Attention rollout: the attention of all layers, multiplied."""

from torch import Tensor, nn

from vis_callbacks.attribution.attention_flow import AttentionFlowCallback, attentions_between_places, on_pixels
from vis_callbacks.event import Needs
from vis_callbacks.model import AttentionReads, Trace, guarded, rolled_out, trace_in_chunks
from vis_callbacks.model.features import feature_info


@guarded
def attention_rollout(
    model: nn.Module, images: Tensor, targets: object = None, *, chunk_size: int | None = None
) -> Tensor:
    """Follow attention from the token that the logits read back through all layers to the image.

    Each layer passes on half of what a token has by its residual, half by the mean over the heads of its weights. Where
    grids shrink between stages, what a position has spreads evenly over its place. The map does not depend on a class.

    Abnar and Zuidema, "Quantifying Attention Flow in Transformers", 2020, arXiv:2005.00928.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space.
        targets: Not used: the map does not depend on a class.
        chunk_size: Images in one pass; None: chosen by their size. It has no effect on the result.

    Returns:
        ``(N, 1, H, W)`` float32, at least 0: the map of the first layer's tokens, bilinearly resized.

    Raises:
        ConfigurationError: If the model has no attention between places, or the images are not ``(N, C, H, W)``.

    Example:
        >>> import torch, timm
        >>> vit = timm.create_model("test_vit", img_size=32, num_classes=5)
        >>> attention_rollout(vit, torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 1, 32, 32])
    """
    del targets
    feature_info(model, images)
    seen = trace_in_chunks(model, images, attention=AttentionReads(everywhere=True), chunk_size=chunk_size)
    return attention_rollout_from_trace(seen, model)


def attention_rollout_from_trace(seen: Trace, model: nn.Module) -> Tensor:
    """Return the map ``(N, 1, H, W)`` from a trace that has the attention of all layers."""
    placed = attentions_between_places(seen, model)
    start = placed[-1].asked(len(seen.images), seen.images.device)
    return on_pixels(rolled_out(placed, start), seen.images)


class AttentionRollout(AttentionFlowCallback):
    """Shows where the class token looks through all layers. See `attention_rollout` and `AttributionCallback`.

    Read it for which patches reach the answer at all; it is the same for every class.
    """

    function = staticmethod(attention_rollout)
    from_trace = staticmethod(attention_rollout_from_trace)
    reads = Needs(attention=AttentionReads(everywhere=True))
