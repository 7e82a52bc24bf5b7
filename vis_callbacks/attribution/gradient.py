"""The gradient of a class's logit at the image, plain and times the image."""

from collections.abc import Callable

from torch import Tensor, nn

from vis_callbacks.attribution.callback import AttributionCallback
from vis_callbacks.event import Event, Needs
from vis_callbacks.model import Targets, Trace, guarded, trace_in_chunks


@guarded
def gradient(model: nn.Module, images: Tensor, targets: Targets = None, *, chunk_size: int | None = None) -> Tensor:
    """Differentiate the target logit by each input value: where a small change would raise or lower it.

    Simonyan, Vedaldi and Zisserman, "Deep Inside Convolutional Networks: Visualising Image Classification Models and
    Saliency Maps", 2013, arXiv:1312.6034.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space.
        targets: Classes ``(N,)``, pairs ``(N, 2)`` for the first's logit minus the second's, one class for all, or
            None for the predicted ones.
        chunk_size: Images in one pass; None: chosen by their size. It has no effect on the result.

    Returns:
        ``(N, C, H, W)`` float32, signed, in logits per unit of the input.

    Raises:
        ConfigurationError: If the images are not ``(N, C, H, W)`` or the targets do not fit.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
        >>> gradient(model, torch.rand(2, 3, 2, 2), targets=4).shape
        torch.Size([2, 3, 2, 2])
    """
    return gradient_from_trace(trace_in_chunks(model, images, targets, input_gradient=True, chunk_size=chunk_size))


@guarded
def gradient_x_input(
    model: nn.Module, images: Tensor, targets: Targets = None, *, chunk_size: int | None = None
) -> Tensor:
    """Multiply the gradient of the target logit by the image: what each value adds to a locally linear model's logit.

    The reference is zero in the model's input space, for most models the mean colour.

    Shrikumar, Greenside, Shcherbina and Kundaje, "Not Just a Black Box: Learning Important Features Through Propagating
    Activation Differences", 2016, arXiv:1605.01713.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space.
        targets: Classes ``(N,)``, pairs ``(N, 2)`` for the first's logit minus the second's, one class for all, or
            None for the predicted ones.
        chunk_size: Images in one pass; None: chosen by their size. It has no effect on the result.

    Returns:
        ``(N, C, H, W)`` float32, signed, in logits.

    Raises:
        ConfigurationError: If the images are not ``(N, C, H, W)`` or the targets do not fit.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5, bias=False))
        >>> images = torch.rand(2, 3, 2, 2)
        >>> torch.allclose(gradient_x_input(model, images, 4).sum((1, 2, 3)), model(images)[:, 4], atol=1e-5)
        True
    """
    return gradient_x_input_from_trace(
        trace_in_chunks(model, images, targets, input_gradient=True, chunk_size=chunk_size)
    )


def gradient_from_trace(seen: Trace) -> Tensor:
    """Return the gradient of a trace that has one."""
    return seen.gradient_at_images


def gradient_x_input_from_trace(seen: Trace) -> Tensor:
    """Return gradient x input of a trace that has an input gradient."""
    return gradient_from_trace(seen) * seen.images.float()


class InputGradientCallback(AttributionCallback):
    """Shows what a rule makes of the gradient at the image, which all techniques of an event share.

    Attributes:
        from_trace: The rule, from a trace that has an input gradient to maps.
    """

    from_trace: Callable[[Trace], Tensor]

    def needs(self, event: Event) -> Needs:
        """The input gradient."""
        del event
        return Needs(input_gradient=True)

    def attribute(self, event: Event) -> Tensor:
        """Return a map for each sample: ``(N, 1 or C, H, W)``."""
        return self.from_trace(event.trace)


class Gradient(InputGradientCallback):
    """Shows the gradient of the target logit at the image. See `gradient` and `AttributionCallback`.

    Read it for which way a pixel would move the score; neighbours differ in sign, so it does not say where the
    object is.
    """

    function = staticmethod(gradient)
    from_trace = staticmethod(gradient_from_trace)
    default_display = "color"


class GradientXInput(InputGradientCallback):
    """Shows the gradient of the target logit times the image. See `gradient_x_input` and `AttributionCallback`.

    Read it for what makes up the score where the background is black, as in digits; on photographs it does not tell
    one class from another.
    """

    function = staticmethod(gradient_x_input)
    from_trace = staticmethod(gradient_x_input_from_trace)
