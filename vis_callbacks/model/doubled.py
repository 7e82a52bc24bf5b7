"""What the outputs of the layers of a model are like for twice as many images, seen in a pass of its own."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vis_callbacks.model.classifier import logits_of
from vis_callbacks.model.layers import hookable_layers
from vis_callbacks.model.layout import note_still
from vis_callbacks.model.parts import Path, parts_of


@dataclass(frozen=True)
class Doubled:
    """What the outputs of layers are like for twice as many images.

    Attributes:
        shapes: By full name and place in the output.
        still: Which of so many tokens are the same for all images, by their number, in the first layer that gives as
            many.
    """

    shapes: dict[tuple[str, Path], tuple[int, ...]] = field(default_factory=dict)
    still: dict[int, Tensor] = field(default_factory=dict)


def doubled_outputs(model: nn.Module, image: Tensor) -> Doubled:
    """Return what the outputs of all layers are like for an image ``(1, C, H, W)`` and another one beside it."""
    found = Doubled()
    # Another one at every place, whatever the image is.
    images = torch.cat([image, image + torch.linspace(-1, 1, image.shape[3]).to(image)])

    def observe(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            for path, tensor in parts_of(output):
                found.shapes[name, path] = tuple(tensor.shape)
                note_still(found.still, tensor, len(images))

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name, module in hookable_layers(model).items():
            stack.callback(module.register_forward_hook(observe(name)).remove)
        logits_of(model, images)
    return found
