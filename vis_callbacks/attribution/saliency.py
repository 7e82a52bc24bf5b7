"""Saliency: the magnitude of the gradient at each pixel."""

from torch import Tensor, nn

from vis_callbacks.attribution.gradient import InputGradientCallback, gradient_from_trace
from vis_callbacks.model import Targets, Trace, guarded, trace_in_chunks


@guarded
def saliency(model: nn.Module, images: Tensor, targets: Targets = None, *, chunk_size: int | None = None) -> Tensor:
    """Take the largest absolute gradient of the target logit over the channels of each pixel.

    Simonyan, Vedaldi and Zisserman, "Deep Inside Convolutional Networks: Visualising Image Classification Models and
    Saliency Maps", 2013, arXiv:1312.6034.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space.
        targets: Classes ``(N,)``, pairs ``(N, 2)`` for the first's logit minus the second's, one class for all, or
            None for the predicted ones.
        chunk_size: Images in one pass; None: chosen by their size. It has no effect on the result.

    Returns:
        ``(N, 1, H, W)`` float32, at least 0, in logits per unit of the input.

    Raises:
        ConfigurationError: If the images are not ``(N, C, H, W)`` or the targets do not fit.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
        >>> saliency(model, torch.rand(2, 3, 2, 2)).shape
        torch.Size([2, 1, 2, 2])
    """
    return saliency_from_trace(trace_in_chunks(model, images, targets, input_gradient=True, chunk_size=chunk_size))


def saliency_from_trace(seen: Trace) -> Tensor:
    """Return the saliency of a trace that has an input gradient."""
    return gradient_from_trace(seen).abs().amax(dim=1, keepdim=True)


class Saliency(InputGradientCallback):
    """Shows which pixels the target logit is most sensitive to. See `saliency` and `AttributionCallback`.

    Read it for which pixels the network is sensitive to; on photographs it is speckle that only leans towards the
    class.
    """

    function = staticmethod(saliency)
    from_trace = staticmethod(saliency_from_trace)
    signed = False
    one_channel = True
