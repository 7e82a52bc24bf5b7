"""The calls that a user's step makes, watched while one batch passes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    _global_forward_hooks_with_kwargs,
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from vis_callbacks.model.classifier import input_dtype, unwrapped
from vis_callbacks.model.guard import plain
from vis_callbacks.model.labels import labels_in
from vis_callbacks.model.nested import shapes_in, tensors_in
from vis_callbacks.model.outputs import logits_among
from vis_callbacks.model.signatures import image_argument, is_image


@dataclass(frozen=True)
class Call:
    """One call of a part of a module during a step.

    Attributes:
        name: Dotted name of the part; "" is the user's module itself.
        trained: Whether any of its weights is trained by this step.
        weighted: Whether it has weights.
        image: Which image tensor ``(N, C, H, W)`` of the batch went in, by its values; -1 for another one, such as
            augmented images; None if no image did.
        alone: Whether the part can be called with images and nothing else.
        keyword: The argument that took the images; "" for the first one.
        within: The parts whose calls made this one, the outermost first; none if the step itself did.
        partial: Whether the part that made this call takes more than images, and made something else of the output.
        features: Widths K of the floating tensors ``(N, K)`` that went in, 1 for ``(N,)``.
        of_batch: Whether floating tensors of the batch other than its images went in.
        labelled: Whether integers ``(N,)`` went in too.
        widths: Widths K of the floating tensors ``(N, K)`` that came out, 1 for ``(N,)``, in order.
        logits: Which of `widths` are the logits, by the graph or by what the part states; None: nothing tells.
        gave: The shapes that came out, as text.
        images: The first two images of the batch, as pictures are made of them.
        given: The first two images that went in.
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
    logits: int | None = None
    gave: str = ""
    images: Tensor | None = field(default=None, repr=False, compare=False)
    given: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def direct(self) -> bool:
        """Whether the step or the module's own forward made it."""
        return not any(self.within)


class CallWatch:
    """Watches which parts of a module a step calls, and changes nothing.

    The hooks are those of all modules: hooks of the module's own parts would go into copies that the step makes, and
    would change which kernels some layers choose.

    Args:
        module: The user's module.
        batch: The batch that the step gets.
        optimized: Identities of the parameters that an optimizer trains. Empty: those that require a gradient.
        training: Whether it is a training step.
        readers: Functions from a batch to the images of pictures.

    Attributes:
        optimized: See above.
        training: See above.
        calls: What was seen, in the order in which the calls ended.
        images: Copies of the first two images of the batch; None if it has none. Pictures are made of images as they
            are before a training step, and after one of validation.
        labels: What may be the labels of the batch.
        blind: Whether nothing can be watched, as hooks would compile the module anew.
    """

    def __init__(
        self,
        module: nn.Module,
        batch: Any,
        *,
        optimized: frozenset[int],
        training: bool,
        readers: Sequence[Callable[[Any], Any]] = (),
    ) -> None:
        self.calls: list[Call] = []
        self.labels = labels_in(batch)
        self._read: Callable[[], list[Tensor]] = partial(_images_of, batch, readers)
        self._known = self._read()
        self.images = next(iter(self._known), None)
        images = [tensor for tensor in tensors_in(batch) if is_image(tensor)]
        self._kept = list(tensors_in(batch))  # so that no other tensor gets their identities
        self._batch = {id(tensor): index for index, tensor in enumerate(images)}
        self._others = {id(tensor) for tensor in self._kept if tensor.is_floating_point()} - self._batch.keys()
        self._names = {id(part): name for name, part in module.named_modules()}
        self.optimized = optimized
        self.training = training
        self._open: list[_Open] = []
        self._made: list[list[ReferenceType[Tensor]]] = []
        self.blind = is_compiled(module)
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
        if self._handles:
            with suppress(Exception):
                self._compare()
        self._handles, self._kept, self._batch, self._others, self._made = [], [], {}, set(), []
        self._open, self._known, self._read = [], [], list

    def _compare(self) -> None:
        """Tell by their values which images went into the calls: not while the step runs, as a GPU would wait."""
        if not self.training:
            self._known = self._read()
            self.images = next(iter(self._known), None)
        for index, call in enumerate(self.calls):
            given = call.given
            if given is not None and self._known:
                found = next((at for at, images in enumerate(self._known) if alike(images, given)), -1)
                self.calls[index] = replace(call, image=found, images=self.images)

    def _enter(self, part: nn.Module, args: Any) -> None:
        # A call of it that is still open has failed, and is tried again.
        again = next((index for index, one in enumerate(self._open) if one.part is part), len(self._open))
        del self._open[again:]
        # In several processes Lightning calls a step through the module's forward.
        redirected = "_ForwardRedirection" in getattr(part.forward, "__qualname__", "")
        name, given = None if redirected else self._names.get(id(part)), None
        if name is not None and self._counts(args):
            # Before the part, which may change them in place.
            with suppress(Exception):
                given = _first_images(args)
        self._open.append(_Open(part, name, len(self.calls), given))

    def _counts(self, values: Iterable[Any]) -> bool:
        """Whether a call that starts now with these values is looked at: the step's, or one with the batch's images."""
        return not any(one.name for one in self._open) or any(id(value) in self._batch for value in values)

    def _leave(self, part: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        # Nothing that is wrong here may stop the step.
        with suppress(Exception):
            self._record(part, args, kwargs, output)

    def _record(self, part: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        name, first, before = None, len(self.calls), None
        while self._open:
            left = self._open.pop()
            if left.part is part:
                name, first, before = left.name, left.first, left.given
                break
        # What activation checkpointing runs again in the backward is no call of the step.
        if name is None or torch._C._current_graph_task_id() != -1:
            return
        if not self._counts((*args, *kwargs.values())):
            return
        within = tuple(one.name for one in self._open if one.name is not None)
        call = self._call(name, part, args, kwargs, output, within)
        if call.image is not None:
            call = replace(call, given=_first_images(kwargs) if before is None else before)
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
        images = [tensor for tensor in given if is_image(tensor)]
        count = len(next(iter(images or [tensor for tensor in given if tensor.ndim]), ()))
        alone, keyword = image_argument(part, args, kwargs)
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
            logits=logits_among(part, _rows(made, count)),
            gave=shapes_in(output),
        )


@dataclass(frozen=True)
class _Open:
    """A call that has not ended.

    Attributes:
        part: What is called.
        name: Its name, if the call is recorded.
        first: How many calls had ended before.
        given: The first two images that went in.
    """

    part: nn.Module
    name: str | None
    first: int
    given: Tensor | None = None


def tried(
    part: nn.Module, name: str, images: Tensor, *, trained: bool, inner: Mapping[str, nn.Module] | None = None
) -> tuple[Call, dict[str, Tensor]]:
    """Call a part of a module with images, inside `undisturbed`.

    Args:
        part: What is called.
        name: Its name.
        images: ``(N, C, H, W)``.
        trained: Whether it is trained.
        inner: Other parts, by name, which it may call.

    Returns:
        The call, and the first images that went into each of the other parts that it called.

    Raises:
        Exception: Whatever the part raises.
    """
    reached: dict[str, Tensor] = {}

    def keep(inner: str, _: nn.Module, args: Any, kwargs: Any) -> None:
        given = _first_images((args, kwargs))
        if given is not None:
            reached.setdefault(inner, given)

    handles = [
        one.register_forward_pre_hook(partial(keep, inner), with_kwargs=True) for inner, one in (inner or {}).items()
    ]
    try:
        with torch.enable_grad():
            # A copy: a part may change it in place.
            output = part(plain(images).to(input_dtype(part), copy=True).requires_grad_().clone())
    finally:
        for handle in handles:
            handle.remove()
    rows = _rows(_outputs(output), len(images))
    call = Call(
        name, trained, image=0, widths=tuple(map(_width, rows)), logits=logits_among(part, rows), gave=shapes_in(output)
    )
    return call, reached


def picked(output: Any, count: int, number: int, width: int) -> Any:
    """Return the rows of numbers that were found to be the logits, from another output of the same part.

    Args:
        output: What the part gave.
        count: Number of images.
        number: Which of the rows they were.
        width: How wide they were.
    """
    rows = _rows(_outputs(output), count)
    if number < len(rows) and _width(rows[number]) == width:
        return rows[number]
    fits = [one for one in rows if _width(one) == width]
    return fits[0] if len(fits) == 1 else output


def alike(images: Tensor, others: Tensor) -> bool:
    """Whether two tensors hold the same images, up to their type, their place and rounding.

    Example:
        >>> images = torch.rand(2, 3, 4, 4)
        >>> alike(images, images.half()), alike(images, images - 0.5)
        (True, False)
    """
    if images.shape != others.shape:
        return False
    one, other = (plain(tensor.detach()).to("cpu", torch.float32) for tensor in (images, others))
    # Half a hundredth is what the coarsest of the types in use rounds off.
    least = 1e-3 * float(one.abs().nanmedian()) + 1e-6
    return torch.allclose(one, other, rtol=5e-3, atol=least, equal_nan=True)


def is_trained(part: nn.Module, optimized: frozenset[int]) -> bool:
    """Whether any weight of a part is trained."""
    return any(
        parameter.requires_grad and (not optimized or id(parameter) in optimized) for parameter in part.parameters()
    )


def is_compiled(module: nn.Module) -> bool:
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


def _outputs(output: Any) -> list[Tensor]:
    """Return the tensors that may be the logits: where an output names them, only those."""
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return list(tensors_in(output if named is None else named))


def _first_images(values: Any) -> Tensor | None:
    """Return copies of the first two images of the first image tensor."""
    found = next((tensor for tensor in tensors_in(values) if is_image(tensor)), None)
    return None if found is None else plain(found[:2].detach()).clone()


def _images_of(batch: Any, readers: Iterable[Callable[[Any], Any]]) -> list[Tensor]:
    """Return copies of the first two images of each image tensor in a batch, and of what the readers see in it."""
    read: list[Any] = [batch]
    for reader in readers:
        # What fails is reported where samples are taken.
        with suppress(Exception):
            read.append(reader(batch))
    return [found for tensor in tensors_in(read) if (found := _first_images(tensor)) is not None]


def _rows(tensors: Iterable[Tensor], count: int) -> list[Tensor]:
    """Return the floating tensors ``(N, K)`` and ``(N,)``."""
    return [one for one in tensors if one.is_floating_point() and one.ndim in (1, 2) and len(one) == count]


def _width(row: Tensor) -> int:
    return 1 if row.ndim == 1 else row.shape[1]


def _widths(tensors: Iterable[Tensor], count: int) -> tuple[int, ...]:
    return tuple(map(_width, _rows(tensors, count)))
