"""Eigen-CAM: the strongest pattern in a layer, independent of the class."""

import torch
from torch import Tensor, nn

from vis_callbacks.attribution.cam import CamCallback, activation_from_trace, on_images
from vis_callbacks.event import Event
from vis_callbacks.model import Layout, Trace, find_layout, guarded, trace_in_chunks


@guarded
def eigen_cam(
    model: nn.Module, images: Tensor, targets: object = None, layer: str | None = None, *, chunk_size: int | None = None
) -> Tensor:
    """Project a layer's channels on their first principal component over the positions, and keep what is positive.

    The component is the first right singular vector of the activations ``(positions, channels)``, each channel centred.
    Its sign is arbitrary; it is chosen so that the value of largest magnitude is positive.

    Muhammad and Yeasin, "Eigen-CAM: Class Activation Map using Principal Components", 2020, arXiv:2008.00299. The paper
    does not centre; without it the first component is near the mean activation.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space.
        targets: Not used: the map does not depend on a class.
        layer: The layer whose channels are projected; None: the last whose map is fine enough.
        chunk_size: Images in one pass; None: chosen by their size. It has no effect on the result.

    Returns:
        ``(N, 1, H, W)`` float32, at least 0: the layer's map, bilinearly resized. All zero where the layer is the same
        at every position.

    Raises:
        ConfigurationError: If the images are not ``(N, C, H, W)``.
        LayerError: If the layer is not found, did not run, or gives no map.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> eigen_cam(model, torch.rand(2, 3, 8, 8), layer="1").shape
        torch.Size([2, 1, 8, 8])
    """
    del targets
    layout = find_layout(model, images, layer)
    return eigen_cam_from_trace(trace_in_chunks(model, images, activations=[layout], chunk_size=chunk_size), layout)


def eigen_cam_from_trace(seen: Trace, layout: Layout) -> Tensor:
    """Return the map ``(N, 1, H, W)`` from a trace that has the layer's activation."""
    return on_images(eigen_cam_rule(activation_from_trace(seen, layout)), seen.images, layout)


def eigen_cam_rule(activation: Tensor) -> Tensor:
    """Return the map ``(N, 1, h, w)`` of an activation ``(N, C, h, w)``."""
    # On the CPU: the matrices are small, and not every device decomposes them, nor in double precision.
    values = activation.flatten(2).cpu().double()
    projection = _first_projection(values - values.mean(dim=2, keepdim=True)).to(activation)
    extreme = projection.gather(1, projection.abs().argmax(dim=1, keepdim=True))
    return (projection * extreme.sign()).relu().view(len(activation), 1, *activation.shape[2:])


def _first_projection(values: Tensor) -> Tensor:
    """Return values ``(N, C, P)``, projected on their first principal direction among the channels, ``(N, P)``.

    Of the two Gram matrices the smaller one is decomposed, which costs far less than the singular values of all.
    """
    channels, positions = values.shape[1:]
    if channels < positions:
        directions: Tensor = torch.linalg.eigh(values @ values.mT).eigenvectors
        return (directions[:, None, :, -1] @ values)[:, 0]
    squares: Tensor
    vectors: Tensor
    squares, vectors = torch.linalg.eigh(values.mT @ values)
    return vectors[:, :, -1] * squares[:, -1:].clamp(min=0).sqrt()


class EigenCAM(CamCallback):
    """Shows the strongest pattern in a layer, independent of the class. See `eigen_cam` and `CamCallback`.

    Read it for where a layer is active at all; it has no class.
    """

    function = staticmethod(eigen_cam)
    no_evidence = "the layer is the same everywhere"

    def attribute(self, event: Event) -> Tensor:
        """Return ``(N, 1, H, W)``, at least 0."""
        return eigen_cam_from_trace(event.trace, event.layout(self.layer))

    def caption(self, event: Event, index: int) -> str:
        """Return nothing: no class is explained."""
        del event, index
        return ""
