"""One differentiable pass that reads what objectives ask for and goes no further than they need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from torch import Tensor, nn

from vis_callbacks.errors import LayerError
from vis_callbacks.model.classifier import logits_of
from vis_callbacks.model.layers import named_layers
from vis_callbacks.model.trace import captured
from vis_callbacks.synthesis.optimization.objectives import Objective

Run = Callable[[Tensor], tuple[Tensor, dict[str, Tensor], dict[str, Any]]]
"""From images in model space to logits, outputs of layers and what was read from inputs of layers."""


class _Enough(Exception):  # noqa: N818  (no error: it ends a pass early)
    pass


@contextmanager
def watching(model: nn.Module, objective: Objective, *, logits: bool = False) -> Iterator[Run]:
    """Give a function that runs a model and returns its logits, layer outputs and what was read of layer inputs.

    Args:
        model: From images in model space to logits.
        objective: Says which layers to read; unless it reads logits, the model stops behind the last of them.
        logits: Whether the logits are read by somebody else.

    Yields:
        From images ``(N, C, H, W)`` to logits (empty if it stopped before), and what the layers gave by name.

    Raises:
        LayerError: While running, if a layer did not run.
    """
    layers = named_layers(model)
    entries: dict[str, Any] = {}
    count = 0
    wanted = len(objective.outputs) + len(objective.entries)
    stops = not (objective.logits or logits) and wanted > 0

    with ExitStack() as stack:
        outputs = stack.enter_context(captured({name: layers[name] for name in sorted(objective.outputs)}))

        def enough() -> None:
            if stops and len(outputs) + len(entries) == wanted:
                raise _Enough

        def enter(name: str) -> Callable[..., None]:
            def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                entries[name] = objective.entries[name](inputs[0], count)
                enough()

            return hook

        for name in sorted(objective.entries):
            stack.callback(layers[name].register_forward_pre_hook(enter(name)).remove)
        for name in sorted(objective.outputs):
            stack.callback(layers[name].register_forward_hook(lambda *_: enough()).remove)

        def run(images: Tensor) -> tuple[Tensor, dict[str, Tensor], dict[str, Any]]:
            nonlocal count
            count = len(images)
            found = images.new_empty(0, 0)
            with suppress(_Enough):
                found = logits_of(model, images)
            missing = (objective.outputs - outputs.keys()) | (objective.entries.keys() - entries.keys())
            if missing:
                raise LayerError(f"layer {min(missing)!r} did not run in the forward pass: choose another")
            read = found, dict(outputs), dict(entries)
            # Else they would be held all through the backward, which frees what it has used.
            outputs.clear()
            entries.clear()
            return read

        yield run
