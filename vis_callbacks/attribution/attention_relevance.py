"""Attention relevance: the attention of all layers, weighted by its gradient."""

from torch import Tensor, nn

from vis_callbacks.attribution.attention_flow import AttentionFlowCallback, attentions_between_places, on_pixels
from vis_callbacks.event import Needs
from vis_callbacks.model import AttentionReads, Targets, Trace, guarded, relevance_of, trace_in_chunks
from vis_callbacks.model.features import feature_info


@guarded
def attention_relevance(
    model: nn.Module, images: Tensor, targets: Targets = None, *, chunk_size: int | None = None
) -> Tensor:
    """Follow a class back through all layers: by what is positive of each weight of attention times its gradient.

    Chefer, Gur and Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder
    Transformers", 2021, arXiv:2103.15679.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space.
        targets: Classes ``(N,)``, pairs ``(N, 2)`` for the first's logit minus the second's, one class for all, or
            None for the predicted ones.
        chunk_size: Images in one pass; None: chosen by their size. It has no effect on the result.

    Returns:
        ``(N, 1, H, W)`` float32, at least 0: the map of the first layer's tokens, bilinearly resized. All zero where no
        evidence is positive.

    Raises:
        ConfigurationError: If the model has no attention between places, or the images or targets do not fit.
        CutError: If the logits have no gradient at any attention.

    Example:
        >>> import torch, timm
        >>> vit = timm.create_model("test_vit", img_size=32, num_classes=5)
        >>> attention_relevance(vit, torch.rand(2, 3, 32, 32), 4).shape
        torch.Size([2, 1, 32, 32])
    """
    feature_info(model, images)
    reads = AttentionReads(gradients=True)
    seen = trace_in_chunks(model, images, targets, input_gradient=True, attention=reads, chunk_size=chunk_size)
    return attention_relevance_from_trace(seen, model)


def attention_relevance_from_trace(seen: Trace, model: nn.Module) -> Tensor:
    """Return the map ``(N, 1, H, W)`` from a trace that has the gradients of the attention of all layers."""
    placed = attentions_between_places(seen, model)
    reached = [one for one in placed if one.call.has_gradient]
    if not reached:
        # Says where it is lost.
        _ = seen.gradient_at_images
    start = placed[-1].asked(len(seen.images), seen.images.device)
    return on_pixels(relevance_of(reached, start), seen.images)


class AttentionRelevance(AttentionFlowCallback):
    """Shows what of the attention of all layers speaks for the class. See `attention_relevance`.

    Read it for which patches speak for the class in a transformer; of the attention maps it alone has a class.
    """

    function = staticmethod(attention_relevance)
    from_trace = staticmethod(attention_relevance_from_trace)
    reads = Needs(input_gradient=True, attention=AttentionReads(gradients=True))
