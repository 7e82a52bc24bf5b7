"""A user's module as a function from images to logits, whatever its precision and the structure of its output."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from vis_callbacks.errors import ConfigurationError
from vis_callbacks.model.guard import pass_notes, plain
from vis_callbacks.model.meaning import Meaning, seen_meaning
from vis_callbacks.model.nested import tensors_in
from vis_callbacks.model.outputs import Outputs, candidates_in, logits_among, outputs_from, unclear
from vis_callbacks.model.see_through import SeeThrough

_ULPS = 8  # of the largest logit


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """Run a model and return its logits in float32.

    Images are converted to the dtype of the model's parameters (bf16-true, 64-true), inside the graph. The logits are
    ``logits`` of a dict or object, or the tensor ``(N, K)`` in any structure whose width is the number of classes that
    the model states, or that is computed from the others. A one-logit head ``(N,)`` or ``(N, 1)`` gives one column. The
    batch axis may be missing for a single image. Where the model ends in a softmax or sigmoid, they are what went in.

    Args:
        model: From images ``(N, C, H, W)`` to logits.
        images: Float, in the model's own input space, on its device.

    Returns:
        ``(N, K)`` float32.

    Raises:
        ConfigurationError: If no logits are found in the output, or several tensors may be them.

    Example:
        >>> logits_of(nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Softmax(1)), torch.rand(2, 3, 2, 2)).shape
        torch.Size([2, 5])
    """
    return outputs_of(model, images).logits


def outputs_of(model: nn.Module, images: Tensor, *, lifts: bool = True) -> Outputs:
    """Run a model as `logits_of` does, and return what else is known of its output.

    Args:
        model: From images ``(N, C, H, W)`` to logits.
        images: Float, in the model's own input space, on its device.
        lifts: Whether gradients stay enabled where the model disables them. If the model fails so, it runs again
            without.
    """
    count, notes = len(images), pass_notes(model)
    _forget_graphs(notes.buffers)
    if id(model) in notes.frank:
        return outputs_from(model, count, candidates_in(_call(model, images), count)[0])
    mode, output = _watched(model, images, lifts=lifts)
    candidates = candidates_in(output, count)
    number = logits_among(model, candidates)
    if number is None and candidates and not any(one.requires_grad for one in candidates):
        # Only a graph tells which is computed from which: the choice is that for the first image. The last run is
        # again one of all images, of which hooks keep what they see.
        with torch.enable_grad():
            image = plain(images[:1]).detach().clone().requires_grad_()
            number = logits_among(model, candidates_in(_watched(model, image)[1], 1))
        mode, output = _watched(model, images, lifts=lifts)
        candidates = candidates_in(output, count)
    if number is None:
        raise unclear(model, count, output, candidates)
    found = outputs_from(model, count, candidates[number], mode)
    if len(candidates) == 1 and not (found.through or mode.disables or mode.cuts):
        notes.frank.add(id(model))
    return found


def _watched(model: nn.Module, images: Tensor, *, lifts: bool = True) -> tuple[SeeThrough, Any]:
    """Run a model, again without lifted gradients if it fails with them."""
    mode = SeeThrough(len(images), lifts=lifts)
    try:
        with mode:
            return mode, _call(model, images)
    except RuntimeError as error:
        if not mode.lifted or isinstance(error, torch.OutOfMemoryError):
            raise
    _forget_graphs(map(vars, model.modules()))
    return _watched(model, images, lifts=False)


def _call(model: nn.Module, images: Tensor) -> Any:
    # A copy: a model that changes its input in place must neither change the images nor fail on a leaf.
    return model(plain(images).to(input_dtype(model), copy=True))


def _forget_graphs(holders: Iterable[Mapping[str, Any]]) -> None:
    """Cut tensors off the graph of the last pass: for the next one they are numbers."""
    for holder in holders:
        for value in holder.values():
            for tensor in (value,) if isinstance(value, Tensor) else tensors_in(value, 1) if value is not None else ():
                if tensor.grad_fn is not None and not tensor._is_view():
                    tensor.detach_()


def input_dtype(model: nn.Module) -> torch.dtype:
    """Return the floating dtype of a model's input: that of its first floating parameter, else float32."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            return parameter.dtype
    return torch.float32


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module behind ``torch.compile``, or the module itself."""
    original = getattr(model, "_orig_mod", None)
    return original if isinstance(original, nn.Module) else model


def classifier_in(module: nn.Module) -> nn.Module:
    """Return the part of a module that maps images to logits: itself if it has a ``forward``, else its largest child.

    Lightning modules often call their model in their steps only and leave ``forward`` undefined.

    Raises:
        ConfigurationError: If neither the module nor a child has a ``forward``.

    Example:
        >>> class Module(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.model = nn.Linear(2, 2)
        >>> classifier_in(Module())
        Linear(in_features=2, out_features=2, bias=True)
    """
    if has_forward(module):
        return module
    children = [child for child in module.children() if has_forward(child)]
    if not children:
        raise ConfigurationError(
            f"{type(module).__name__} has no forward, nor a child that has one: define forward(images)"
        )
    return max(children, key=lambda child: sum(parameter.numel() for parameter in child.parameters()))


def has_forward(module: nn.Module) -> bool:
    """Whether a module defines a ``forward``."""
    defining = next(cls for cls in type(module).__mro__ if "forward" in vars(cls))
    own = vars(module).get("forward")
    # Lightning leaves the class's forward on a module that it compiles, or trains in several processes.
    own = getattr(own, "_torchdynamo_orig_callable", own)
    if own is not None and getattr(own, "__func__", own) is not vars(defining)["forward"]:
        return True
    # Lightning's own forward only calls that of nn.Module, which raises.
    return defining is not nn.Module and defining.__name__ != "LightningModule"


def target_scores(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the logit of each row's target, ``(N,)``. A one-logit head's class 0 is the negated logit.

    Args:
        logits: ``(N, K)``.
        targets: ``(N,)`` long, or ``(N, 2)`` for the first class's logit minus the second's.

    Example:
        >>> target_scores(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([0, 1]))
        tensor([1., 4.])
        >>> target_scores(torch.tensor([[3.0]]), torch.tensor([0]))
        tensor([-3.])
    """
    if targets.ndim == 2:
        return target_scores(logits, targets[:, 0]) - target_scores(logits, targets[:, 1])
    if logits.shape[1] == 1:
        return logits[:, 0] * (targets * 2 - 1)
    return logits.gather(1, targets[:, None])[:, 0]


def rounding_of(logits: Tensor, images: Tensor) -> Tensor:
    """Return by how much the logits of an image may differ between batches of other sizes, ``(N,)``: by rounding alone.

    What double precision tells is exact beside the single precision of `logits_of`.

    Example:
        >>> rounding_of(torch.tensor([[1.0, -2.0]]), torch.zeros(1, 3, 8, 8)).item() < 2e-6
        True
    """
    computed = torch.promote_types(images.dtype, torch.float32)
    return _ULPS * torch.finfo(computed).eps * logits.abs().amax(dim=1)


def probabilities(logits: Tensor, meaning: Meaning = "classes") -> Tensor:
    """Return class probabilities ``(N, K)``: softmax, and for a one-logit head ``(N, 2)`` from the sigmoid.

    Args:
        logits: ``(N, K)``.
        meaning: What they mean; each of several ``labels`` has a probability of its own.

    Example:
        >>> probabilities(torch.zeros(1, 1))
        tensor([[0.5000, 0.5000]])
    """
    if logits.shape[1] == 1:
        positive = logits.sigmoid()
        return torch.cat([1 - positive, positive], dim=1)
    return logits.sigmoid() if meaning == "labels" else logits.softmax(dim=1)


def likelihoods_of(model: nn.Module, images: Tensor, meaning: Meaning = "classes") -> tuple[Tensor, Tensor]:
    """Run a model, and return its logits ``(N, K)`` and `probabilities`, with what the model shows of their meaning."""
    found = outputs_of(model, images)
    return found.logits, probabilities(found.logits, seen_meaning(meaning, found.through, found.logits.shape[1]))


Targets: TypeAlias = Tensor | Sequence[int] | int | Callable[[Tensor], Tensor] | None
"""Classes ``(N,)`` or pairs ``(N, 2)``, one class for all, a function of the logits, or None for the predicted."""


def resolve_targets(targets: Targets, logits: Tensor) -> Tensor:
    """Return targets ``(N,)`` or ``(N, 2)`` long on the logits' device.

    Args:
        targets: See `Targets`; a pair means the first class's logit minus the second's.
        logits: ``(N, K)``.

    Raises:
        ConfigurationError: If a target is not a class of the model, or there is not one per image.

    Example:
        >>> resolve_targets(None, torch.tensor([[0.1, 0.9], [0.8, 0.2]]))
        tensor([1, 0])
    """
    count, classes = len(logits), max(logits.shape[1], 2)
    if targets is None:
        return probabilities(logits.detach()).argmax(dim=1)
    if callable(targets) and not isinstance(targets, Tensor):
        targets = targets(logits.detach())
    if isinstance(targets, int):
        targets = torch.full((count,), targets)
    targets = as_numbers(targets).to(logits.device)
    if targets.shape not in ((count,), (count, 2)):
        raise ConfigurationError(f"targets of shape {tuple(targets.shape)}: expected ({count},), one per image")
    wrong = targets[(targets < 0) | (targets >= classes)]
    if len(wrong):
        raise ConfigurationError(f"target {int(wrong[0])}: expected a class from 0 to {classes - 1}")
    return targets


def as_numbers(targets: Tensor | Sequence[int]) -> Tensor:
    """Return class numbers as a long tensor.

    Raises:
        ConfigurationError: If they are not numbers.
    """
    try:
        return torch.as_tensor(targets).long()
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"targets={targets!r}: expected class numbers, or None for the predicted") from error
