"""What goes into a module and what it gives, seen while one step runs."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from torch import Tensor, nn

from vis_callbacks.model.nested import tensors_in


class Look:
    """Looks at the calls of one module until it is stopped, and changes nothing.

    Args:
        module: The module; not a compiled one, which a hook would compile anew.
        inputs: How many images of the first call are kept; 0 for none.
        outputs: Whether what the calls give is kept.

    Attributes:
        images: The first images that went in, a copy on the CPU, as the module may change them in place.
        given: What the calls gave, in order; a tensor without its graph, which lives no longer than it would.

    Example:
        >>> import torch
        >>> net = nn.Flatten()
        >>> look = Look(net, inputs=1)
        >>> _ = net(torch.zeros(2, 3, 4, 4))
        >>> look.stop()
        >>> look.images.shape
        torch.Size([1, 3, 4, 4])
    """

    # The hooks are methods, so that a module that is copied or pickled while a step runs can be.

    def __init__(self, module: nn.Module, *, inputs: int = 0, outputs: bool = False) -> None:
        self.images: Tensor | None = None
        self.given: list[Any] = []
        self._inputs = inputs
        # In several processes Lightning calls a step through the module's forward: that is no call of the network.
        self._redirected: list[bool] = []
        self._handles = [module.register_forward_pre_hook(self._enter, with_kwargs=True)]
        if outputs:
            self._handles.append(module.register_forward_hook(self._leave))

    def stop(self) -> None:
        """Take the hooks from the module. Idempotent."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._redirected.append("_ForwardRedirection" in getattr(module.forward, "__qualname__", ""))
        if self._inputs and self.images is None and not self._redirected[-1]:
            # Nothing may stop the step.
            with suppress(Exception):
                images = next((one for one in tensors_in((args, kwargs)) if one.ndim == 4), None)
                if images is not None:
                    self.images = images[: self._inputs].detach().to("cpu", copy=True)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        del module, args
        if not (self._redirected and self._redirected.pop()):
            self.given.append(output.detach() if isinstance(output, Tensor) else output)
