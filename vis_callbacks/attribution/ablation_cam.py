"""Ablation-CAM: a layer's channels, weighted by how far the logit drops without each."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

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
    find_layer,
    find_layout,
    guarded,
    in_chunks,
    logits_of,
    pixels_of,
    rounding_of,
    scores_of,
    target_scores,
    trace_in_chunks,
)
from vis_callbacks.model.batching import is_out_of_memory
from vis_callbacks.model.features import feature_info
from vis_callbacks.model.parts import part_at, with_part

Ablation = Callable[..., AbstractContextManager[None]]
"""Sets some channels to zero inside, see `_ablation`."""


@guarded
def ablation_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: str | None = None,
    *,
    chunk_size: int | None = None,
) -> Tensor:
    """Sum a layer's channels, weighted by the drop of the target logit when each is set to zero; keep what is positive.

    A channel's weight is (y - y without it) / |y|: the paper's, which divides by y, with the sign kept where the logit
    is negative. It needs no gradient, but one pass per channel through the part of the model behind the layer. Where a
    channel has negative values the package grad-cam sets it to -1e7 instead of zero, so its weights differ there.

    Desai and Ramaswamy, "Ablation-CAM: Visual Explanations for Deep Convolutional Network via Gradient-free
    Localization", WACV 2020, doi:10.1109/WACV45572.2020.9093360.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space.
        targets: Classes ``(N,)``, pairs ``(N, 2)`` for the first's logit minus the second's, one class for all, or
            None for the predicted ones.
        layer: The layer whose channels are weighted; None: the last whose map is fine enough.
        chunk_size: Channels in one pass; None: chosen by their size. It has no effect on the result.

    Returns:
        ``(N, 1, H, W)`` float32, at least 0: the layer's map, bilinearly resized. All zero where no evidence is
        positive.

    Raises:
        ConfigurationError: If the images are not ``(N, C, H, W)`` or the targets do not fit.
        LayerError: If the layer is not found, did not run, or gives no map.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> ablation_cam(model, torch.rand(2, 3, 8, 8), layer="1").shape
        torch.Size([2, 1, 8, 8])
    """
    layout = find_layout(model, images, layer)
    seen = trace_in_chunks(model, images, targets, activations=[layout], chunk_size=chunk_size)
    return ablation_cam_from_trace(model, seen, layout, chunk_size)


def ablation_cam_from_trace(model: nn.Module, seen: Trace, layout: Layout, chunk_size: int | None = None) -> Tensor:
    """Return the map ``(N, 1, H, W)`` from a trace that has the layer's activation, by one partial pass per channel."""
    activation = activation_from_trace(seen, layout)
    score = target_scores(seen.logits, seen.targets)
    without = score[:, None].repeat(1, layout.channels)
    # A channel that is zero everywhere leaves the logit as it is.
    live = layout.channels_first(seen.activations[layout.layer]).flatten(2).any(dim=2)
    # Of a module that runs several times, the last output is the map.
    runs = feature_info(model, seen.images).layer(layout.layer).runs
    ablation = partial(_ablation, model, layout, runs)
    repeatable = _is_repeatable(model, seen, ablation)
    ablation = partial(ablation, once=repeatable)
    # Behind the layer, a row takes about the memory of an image with one pixel for eight of the layer's values.
    pixels = max(1, activation[0].numel() // 8) if repeatable else pixels_of(seen.images)

    for row in range(len(seen.images)):
        channels = live[row].nonzero()[:, 0].cpu()
        ablated = partial(_ablated_scores, model, seen, ablation, row, channels)
        for items, found in in_chunks(
            ablated, len(channels), pixels=pixels, device=score.device, chunk_size=chunk_size
        ):
            without[row, channels[items]] = found
    drop = score[:, None] - without
    # What a layer beside the logits seems to change is no evidence.
    drop = drop.where(drop.abs() > rounding_of(seen.logits, seen.images)[:, None], 0)
    weights = drop / score.abs().clamp(min=torch.finfo(score.dtype).tiny)[:, None]
    return on_images(weighted_sum(activation, weights), seen.images, layout)


def _ablated_scores(
    model: nn.Module, seen: Trace, ablation: Ablation, row: int, channels: Tensor, items: Tensor
) -> Tensor:
    """Return the scores ``(n,)`` of one image without each of some channels."""
    count = len(items)
    image = seen.images[row].expand(count, -1, -1, -1)
    with ablation(count, channels[items]):
        return scores_of(model, image, seen.targets[row].expand(count, *seen.targets.shape[1:]))


def _is_repeatable(model: nn.Module, seen: Trace, ablation: Ablation) -> bool:
    """Return whether the part of the model before the layer can run once for many versions of the layer's output.

    It cannot if an output for one image is combined with those for many by more than broadcasting, or if the model
    remembers the size of its batch.
    """
    count = 3
    try:
        with ablation(count, torch.tensor([], dtype=torch.long), once=True), torch.no_grad():
            logits = logits_of(model, seen.images[:1].expand(count, -1, -1, -1))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        # Any other error of the model comes up again in whole passes, which raise it.
        return False
    expected = seen.logits[:1].expand_as(logits)
    return torch.allclose(logits, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@contextmanager
def _ablation(
    model: nn.Module, layout: Layout, runs: int, count: int, channels: Tensor, *, once: bool
) -> Iterator[None]:
    """Set channel ``channels[i]`` of a layer's last run to zero for image i, while the model runs equal images.

    With `once` the model sees the first image alone up to the layer, whose output is then repeated.
    """

    def first(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0][:1], *inputs[1:])

    left = runs

    def ablate(_: nn.Module, __: Any, output: Any) -> Any:
        nonlocal left
        left -= 1
        if left:
            return output
        tensor = part_at(output, layout.part)
        assert tensor is not None
        values = layout.channels_first(tensor)
        values = values.expand(count, *values.shape[1:]).clone()
        values[torch.arange(len(channels)), channels] = 0
        return with_part(output, tensor, layout.from_channels_first(values))

    handles = [find_layer(model, layout.layer)[1].register_forward_hook(ablate)]
    if once:
        handles.append(model.register_forward_pre_hook(first))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class AblationCAM(CamCallback):
    """Shows a layer's channels weighted by the drop of the logit without each. See `ablation_cam` and `CamCallback`.

    Read it for what the class loses without each channel; it is coarse, and takes a pass for each channel.
    """

    function = staticmethod(ablation_cam)
    split = "samples"

    def attribute(self, event: Event) -> Tensor:
        """Return ``(N, 1, H, W)``, at least 0."""
        return ablation_cam_from_trace(event.model, event.trace, event.layout(self.layer))
