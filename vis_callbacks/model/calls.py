"""The calls that a user's step makes, watched while one batch passes, and the labels in that batch."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    _global_forward_hooks_with_kwargs,
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from vis_callbacks.model.classifier import input_dtype, unwrapped
from vis_callbacks.model.nested import shapes_in, tensors_in

LabelKind = Literal["numbers", "rows", "values"]


@dataclass(frozen=True)
class Call:
    """One call of a part of a module during a step.

    Attributes:
        name: Dotted name of the part; "" is the user's module itself.
        trained: Whether any of its weights is trained by this step.
        weighted: Whether it has weights.
        image: Which image tensor ``(N, C, H, W)`` of the batch went in; -1 for another one, such as augmented images;
            None if no image did.
        alone: Whether the part can be called with images and nothing else.
        keyword: The argument that took the images; "" for the first one.
        within: The parts whose calls made this one, the outermost first; none if the step itself did.
        partial: Whether the part that made this call takes more than images, and made something else of the output.
        features: Widths K of the floating tensors ``(N, K)`` that went in, 1 for ``(N,)``.
        of_batch: Whether floating tensors of the batch other than its images went in.
        labelled: Whether integers ``(N,)`` went in too.
        widths: Widths K of the floating tensors ``(N, K)`` that came out, 1 for ``(N,)``, in order.
        gave: The shapes that came out, as text.
    """

    name: str
    trained: bool
    image: int | None = None
    alone: bool = True
    keyword: str = ""
    within: tuple[str, ...] = ()
    partial: bool = False
    weighted: bool = True
    features: tuple[int, ...] = ()
    of_batch: bool = False
    labelled: bool = False
    widths: tuple[int, ...] = ()
    gave: str = ""

    @property
    def direct(self) -> bool:
        """Whether the step or the module's own forward made it."""
        return not any(self.within)


@dataclass(frozen=True)
class Labels:
    """What the labels of a batch look like.

    Attributes:
        kind: ``"numbers"`` of classes ``(N,)``, ``"rows"`` of zeros and ones ``(N, K)``, or other ``"values"``.
        least: Number of classes that there are at least.
        width: Width K of rows and values.
        several: Whether a row has several ones, or none.
    """

    kind: LabelKind
    least: int
    width: int
    several: bool = False

    @classmethod
    def of(cls, tensor: Tensor) -> "Labels":
        """Describe labels ``(N,)`` or ``(N, K)``.

        Example:
            >>> Labels.of(torch.tensor([4, 0]))
            Labels(kind='numbers', least=5, width=1, several=False)
        """
        column = tensor.ndim == 1 or tensor.shape[1] == 1
        width = 1 if column else tensor.shape[1]
        if column and not tensor.is_floating_point() and tensor.dtype != torch.bool:
            return cls("numbers", int(tensor.max()) + 1, 1)
        binary = bool(((tensor == 0) | (tensor == 1)).all())
        if column:
            return cls("numbers", 2, 1) if binary else cls("values", 0, 1)
        # One-hot rows, and those that mixup blends, sum to one.
        blended = bool((tensor >= 0).all()) and bool(((tensor.float().sum(dim=1) - 1).abs() < 1e-3).all())
        return cls("rows", width, width, several=not blended) if binary or blended else cls("values", 0, width)


def labels_in(batch: Any) -> tuple[Labels, ...]:
    """Describe everything in a batch that may be its labels.

    Example:
        >>> [one.kind for one in labels_in((torch.zeros(2, 3, 8, 8), torch.tensor([4, 0]), torch.rand(2)))]
        ['numbers', 'values']
    """
    tensors = list(tensors_in(batch))
    count = next((len(tensor) for tensor in tensors if _is_image(tensor)), None)
    return tuple(Labels.of(tensor) for tensor in tensors if tensor.ndim in (1, 2) and len(tensor) == count)


class CallWatch:
    """Watches which parts of a module a step calls, and changes nothing.

    The hooks are those of all modules: hooks of the module's own parts would go into copies that the step makes, and
    would change which kernels some layers choose.

    Args:
        module: The user's module.
        batch: The batch that the step gets.
        optimized: Identities of the parameters that an optimizer trains. Empty: those that require a gradient.
        training: Whether it is a training step.

    Attributes:
        optimized: See above.
        training: See above.
        calls: What was seen, in the order in which the calls ended.
        images: Copies of the first two images of the batch; None if it has none.
        labels: What may be the labels of the batch.
        blind: Whether nothing can be watched, as hooks would compile the module anew.
    """

    def __init__(self, module: nn.Module, batch: Any, *, optimized: frozenset[int], training: bool) -> None:
        self.calls: list[Call] = []
        self.labels = labels_in(batch)
        images = [tensor for tensor in tensors_in(batch) if _is_image(tensor)]
        self.images = images[0][:2].detach().clone() if images else None
        self._kept = list(tensors_in(batch))  # so that no other tensor gets their identities
        self._batch = {id(tensor): index for index, tensor in enumerate(images)}
        self._others = {id(tensor) for tensor in self._kept if tensor.is_floating_point()} - self._batch.keys()
        self._names = {id(part): name for name, part in module.named_modules()}
        self.optimized = optimized
        self.training = training
        self._open: list[_Open] = []
        self._made: list[list[ReferenceType[Tensor]]] = []
        self.blind = _is_compiled(module)
        self._handles = [] if self.blind else [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, with_kwargs=True),
        ]  # fmt: skip

    def stop(self) -> None:
        """Remove the hooks. Idempotent."""
        for handle in self._handles:
            handle.remove()
            # torch forgets to, and takes modules for hooked ever after.
            _global_forward_hooks_with_kwargs.pop(handle.id, None)
        self._handles, self._kept, self._batch, self._others, self._made = [], [], {}, set(), []

    def _enter(self, part: nn.Module, _: Any) -> None:
        # A call of it that is still open has failed, and is tried again.
        again = next((index for index, one in enumerate(self._open) if one.part is part), len(self._open))
        del self._open[again:]
        # In several processes Lightning calls a step through the module's forward.
        redirected = "_ForwardRedirection" in getattr(part.forward, "__qualname__", "")
        self._open.append(_Open(part, None if redirected else self._names.get(id(part)), len(self.calls)))

    def _leave(self, part: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        # Nothing that is wrong here may stop the step.
        with suppress(Exception):
            self._record(part, args, kwargs, output)

    def _record(self, part: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        name, first = None, len(self.calls)
        while self._open:
            left = self._open.pop()
            if left.part is part:
                name, first = left.name, left.first
                break
        # What activation checkpointing runs again in the backward is no call of the step.
        if name is None or torch._C._current_graph_task_id() != -1:
            return
        within = tuple(one.name for one in self._open if one.name is not None)
        if any(within) and not any(id(value) in self._batch for value in (*args, *kwargs.values())):
            return
        call = self._call(name, part, args, kwargs, output, within)
        made = _outputs(output)
        if call.widths and not call.alone:
            # What it returns as it is was made by that part alone.
            for index in range(first, len(self.calls)):
                passed = any(one() is tensor for one in self._made[index] for tensor in made)
                self.calls[index] = replace(self.calls[index], partial=not passed)
        self.calls.append(call)
        self._made.append([ref(tensor) for tensor in made])

    def _call(
        self,
        name: str,
        part: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output: Any,
        within: tuple[str, ...],
    ) -> Call:
        given, made = list(tensors_in((args, kwargs))), _outputs(output)
        images = [tensor for tensor in given if _is_image(tensor)]
        count = len(next(iter(images or [tensor for tensor in given if tensor.ndim]), ()))
        alone, keyword = _argument(part, args, kwargs)
        return Call(
            name,
            trained=is_trained(part, self.optimized)
            and (not self.training or any(tensor.requires_grad for tensor in made)),
            image=next((self._batch.get(id(tensor), -1) for tensor in images), None),
            alone=alone,
            keyword=keyword,
            within=within,
            weighted=next(part.parameters(), None) is not None,
            features=_widths(given, count),
            of_batch=any(id(tensor) in self._others for tensor in given),
            labelled=any(tensor.ndim == 1 and not tensor.is_floating_point() for tensor in given),
            widths=_widths(made, count),
            gave=shapes_in(output),
        )


@dataclass(frozen=True)
class _Open:
    """A call that has not ended: its part, its name if it is recorded, and how many calls had ended before."""

    part: nn.Module
    name: str | None
    first: int


def tried(part: nn.Module, name: str, images: Tensor, *, trained: bool) -> Call:
    """Call a part of a module with images, inside `undisturbed`, and return the call.

    Raises:
        Exception: Whatever the part raises.
    """
    with torch.no_grad():
        output = part(images.to(input_dtype(part), copy=True))
    widths = _widths(_outputs(output), len(images))
    return Call(name, trained, image=-1, widths=widths, gave=shapes_in(output))


def is_trained(part: nn.Module, optimized: frozenset[int]) -> bool:
    """Whether any weight of a part is trained."""
    return any(
        parameter.requires_grad and (not optimized or id(parameter) in optimized) for parameter in part.parameters()
    )


def taken_by(part: nn.Module) -> str:
    """Return what a part's ``forward`` takes, as text."""
    parameters = _parameters(part)
    return "(...)" if parameters is None else f"({', '.join(parameter.name for parameter in parameters)})"


def takes_images_alone(part: nn.Module) -> bool:
    """Whether a part's ``forward`` can be called with one argument, as far as its signature tells."""
    parameters = _parameters(part)
    if parameters is None:
        return True
    needed = [parameter for parameter in parameters if _is_needed(parameter)]
    positional = [one for one in parameters if one.kind not in (one.KEYWORD_ONLY, one.VAR_KEYWORD)]
    return bool(positional) and all(parameter is positional[0] for parameter in needed)


def _is_compiled(module: nn.Module) -> bool:
    """Whether ``torch.compile`` works on a module, its methods or its parts."""
    if getattr(module, "_compiler_ctx", None) is not None:
        return True
    for part in module.modules():
        values = (*vars(part).values(), *vars(type(part)).values())
        if part._compiled_call_impl is not None or any(hasattr(one, "_torchdynamo_orig_callable") for one in values):
            return True
        if unwrapped(part) is not part:
            return True
    return False


def _argument(part: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[bool, str]:
    """Return whether images alone can be given, and the keyword that takes them."""
    parameters = _parameters(part)
    if args and isinstance(args[0], Tensor) and _is_image(args[0]):
        if parameters is None:
            return sum(isinstance(one, Tensor) for one in (*args, *kwargs.values())) == 1, ""
        spread = any(one.kind == one.VAR_POSITIONAL for one in parameters)
        return takes_images_alone(part) and not (spread and len(list(tensors_in((args, kwargs)))) > 1), ""
    keyword = next((name for name, value in kwargs.items() if isinstance(value, Tensor) and _is_image(value)), None)
    if args or keyword is None:
        return False, ""
    others = [one for one in parameters or () if _is_needed(one) and one.name != keyword]
    first = next(iter(parameters or ()), None)
    return not others, "" if first is not None and first.name == keyword else keyword


def _parameters(part: nn.Module) -> list[inspect.Parameter] | None:
    try:
        return list(inspect.signature(unwrapped(part).forward).parameters.values())
    except (TypeError, ValueError):  # a scripted module
        return None


def _is_needed(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in (
        parameter.VAR_POSITIONAL,
        parameter.VAR_KEYWORD,
    )


def _outputs(output: Any) -> list[Tensor]:
    """Return the tensors that may be the logits: where an output names them, only those."""
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return list(tensors_in(output if named is None else named))


def _is_image(tensor: Tensor) -> bool:
    return tensor.ndim == 4


def _widths(tensors: Iterable[Tensor], count: int) -> tuple[int, ...]:
    return tuple(_widths_of(tensors, count))


def _widths_of(tensors: Iterable[Tensor], count: int) -> Iterator[int]:
    for tensor in tensors:
        if tensor.is_floating_point() and tensor.ndim in (1, 2) and len(tensor) == count:
            yield 1 if tensor.ndim == 1 else tensor.shape[1]
