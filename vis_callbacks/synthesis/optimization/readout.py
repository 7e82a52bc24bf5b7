"""One differentiable forward pass that reads the layers an objective needs, and stops after the last of them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple

from torch import Tensor, nn

from vis_callbacks.errors import LayerError
from vis_callbacks.model import Layout, captured, logits_of, named_layers
from vis_callbacks.synthesis.optimization.objectives import Objective


class Readout(NamedTuple):
    """What one forward pass returned.

    Attributes:
        logits: ``(N, K)`` float32; empty if the pass stopped before the head.
        outputs: Outputs of the layers that were read, by full name.
        inputs: What the input readers returned, by full name of the layer.
    """

    logits: Tensor
    outputs: dict[str, Tensor]
    inputs: dict[str, Any]

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors, also those that input readers return in tuples."""
        yield self.logits
        yield from self.outputs.values()
        for found in self.inputs.values():
            yield from found if isinstance(found, tuple) else [found]


class _AllRead(Exception):  # noqa: N818  (no error: it ends a pass early)
    pass


@contextmanager
def read_layers(
    model: nn.Module, objective: Objective, *, logits: bool = False
) -> Iterator[Callable[[Tensor], Readout]]:
    """Hook the layers that an objective reads, and yield a function that runs the model.

    Args:
        model: From images in model space to logits.
        objective: Names the layers to read. Unless it reads logits, each pass stops after the last of them.
        logits: Whether the logits are needed for something else.

    Yields:
        From images ``(N, C, H, W)`` in model space to a `Readout`.

    Raises:
        LayerError: In a pass, if a layer did not run.
    """
    layers = named_layers(model)
    parts = {one.layer: one.part for one in objective.outputs if isinstance(one, Layout)}
    read = {one.layer if isinstance(one, Layout) else one for one in objective.outputs}
    inputs: dict[str, Any] = {}
    count = 0
    wanted = len(read) + len(objective.input_readers)
    stops = not (objective.logits or logits) and wanted > 0

    with ExitStack() as stack:
        outputs = stack.enter_context(captured({name: layers[name] for name in sorted(read)}, parts=parts))

        def stop_if_all_read() -> None:
            if stops and len(outputs) + len(inputs) == wanted:
                raise _AllRead

        def input_hook(name: str) -> Callable[..., None]:
            def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
                inputs[name] = objective.input_readers[name](arguments[0], count)
                stop_if_all_read()

            return hook

        for name in sorted(objective.input_readers):
            stack.callback(layers[name].register_forward_pre_hook(input_hook(name)).remove)
        for name in sorted(read):
            stack.callback(layers[name].register_forward_hook(lambda *_: stop_if_all_read()).remove)

        def run(images: Tensor) -> Readout:
            nonlocal count
            count = len(images)
            found = images.new_empty(0, 0)
            with suppress(_AllRead):
                found = logits_of(model, images)
            missing = (read - outputs.keys()) | (objective.input_readers.keys() - inputs.keys())
            if missing:
                raise LayerError(f"layer {min(missing)!r} did not run in the forward pass: choose another")
            readout = Readout(found, dict(outputs), dict(inputs))
            # Held any longer, they would keep memory that the backward pass frees as it goes.
            outputs.clear()
            inputs.clear()
            return readout

        yield run
