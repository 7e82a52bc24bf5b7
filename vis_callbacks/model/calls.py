"""The calls that a user's step makes, watched while one batch passes."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vis_callbacks.model.nested import tensors_in


@dataclass(frozen=True)
class Call:
    """One call of a module during a step.

    Attributes:
        name: Dotted name of the module; "" is the user's module itself.
        trained: Whether any of its weights is trained.
        images: Identities of the image tensors ``(N, C, H, W)`` that went in.
        features: Widths K of the tensors ``(N, K)`` that went in.
        widths: Widths K of the tensors ``(N, K)`` that came out, 1 for ``(N,)``, in order.
    """

    name: str
    trained: bool
    images: tuple[int, ...] = ()
    features: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()


class CallWatch:
    """Watches which parts of a module a step calls, by forward hooks that change nothing.

    Args:
        module: The user's module.

    Attributes:
        calls: What was seen, in the order in which the calls ended.
    """

    def __init__(self, module: nn.Module) -> None:
        self.calls: list[Call] = []
        self._handles = [
            part.register_forward_hook(self._observe(name, part), with_kwargs=True)
            for name, part in _callable_parts(module)
        ]

    def stop(self) -> None:
        """Remove the hooks. Idempotent."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _observe(self, name: str, part: nn.Module) -> Any:
        trained = any(parameter.requires_grad for parameter in part.parameters())

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
            given = list(tensors_in((args, kwargs)))
            images = [tensor for tensor in given if tensor.ndim == 4 and tensor.is_floating_point()]
            count = len(next(iter(images or given), ()))
            self.calls.append(
                Call(name, trained, tuple(map(id, images)), _widths(given, count), _widths(tensors_in(output), count))
            )

        return hook


def _callable_parts(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the module and the outermost parts that can be called; not compiled ones, which hooks recompile."""
    if _is_compiled(module):
        return
    if not prefix:
        yield "", module
    for name, child in module.named_children():
        full = f"{prefix}.{name}" if prefix else name
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from _callable_parts(child, full)
        elif not _is_compiled(child):
            yield full, child


def _is_compiled(module: nn.Module) -> bool:
    marks = ("_compiled_call_impl", "_compiler_ctx")
    return any(getattr(module, mark, None) is not None for mark in marks)


def _widths(tensors: Iterable[Tensor], count: int) -> tuple[int, ...]:
    found = [tensor for tensor in tensors if tensor.ndim in (1, 2) and len(tensor) == count]
    return tuple(1 if tensor.ndim == 1 else tensor.shape[1] for tensor in found)
