"""The shapes of what the layers of a model give, in a pass of its own."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from vis_callbacks.model.classifier import logits_of
from vis_callbacks.model.layers import hookable_layers
from vis_callbacks.model.parts import Path, parts_of


def output_shapes(model: nn.Module, images: Tensor) -> dict[tuple[str, Path], tuple[int, ...]]:
    """Return the shapes of the outputs of all layers, by full name and place in the output."""
    shapes: dict[tuple[str, Path], tuple[int, ...]] = {}

    def observe(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            shapes.update({(name, path): tuple(tensor.shape) for path, tensor in parts_of(output)})

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name, module in hookable_layers(model).items():
            stack.callback(module.register_forward_hook(observe(name)).remove)
        logits_of(model, images)
    return shapes
