"""The subject of every picture: which network, how it is called, and what its output means."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from typing import Any, TypeAlias

from torch import Tensor, nn

from vis_callbacks import checks
from vis_callbacks.errors import ConfigurationError, nearest
from vis_callbacks.model.calls import Call
from vis_callbacks.model.classifier import classifier_in, unwrapped
from vis_callbacks.model.meaning import Meaning

Forward: TypeAlias = Callable[[nn.Module, Tensor], Any] | str | None
"""A function from module and images to logits, its import path, a child's dotted name, or None: found."""


@dataclass(frozen=True)
class Subject:
    """What pictures are about.

    Attributes:
        network: Dotted name of the network inside the user's module; "" is the module itself.
        kind: Class name of the network.
        forward: The option ``forward=`` as text; "" where the network was found.
        meaning: What its outputs are, see `Meaning`.
        width: Number of outputs; None before the first pass.
        evidence: How the network was found, in one sentence.
        problem: Where the evidence contradicts itself, one sentence that names the option to set; then no class is
            predicted. "" where it does not.
    """

    network: str = ""
    kind: str = ""
    forward: str = ""
    meaning: Meaning = "classes"
    width: int | None = None
    evidence: str = ""
    problem: str = ""

    @property
    def predicts(self) -> bool:
        """Whether the outputs tell a class."""
        return not self.problem and self.meaning in ("classes", "binary", "labels")

    def takes_names(self, count: int) -> bool:
        """Whether this many class names are those of the outputs, as far as known."""
        return self.width is None or count == max(self.width, 2)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for checkpoints and the picture store."""
        return asdict(self)


class Network(nn.Module):
    """A module called in another way, as images -> logits, with its own layers, weights and names.

    Args:
        module: The user's module, or a part of it.
        call: From images to logits.
    """

    def __init__(self, module: nn.Module, call: Callable[[Tensor], Any]) -> None:
        super().__init__()
        # Shared, not registered: the layers keep their names, and the guard sees each of them once.
        vars(self).update({name: vars(module)[name] for name in ("_modules", "_parameters", "_buffers")})
        vars(self).update(_module=module, _call=call)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the module, such as what timm states about it."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(vars(self)["_module"], name)

    def forward(self, images: Tensor) -> Any:
        """Call the module."""
        return vars(self)["_call"](images)


def network_of(module: nn.Module, subject: Subject, forward: Forward = None) -> nn.Module:
    """Return the subject's network, from images to logits, in a user's module."""
    if forward is not None:
        called = _function(module, forward)
        return Network(module, partial(called, module)) if called is not None else module.get_submodule(str(forward))
    return module.get_submodule(subject.network)


def find_subject(
    module: nn.Module, *, forward: Forward = None, calls: Sequence[Call] = (), classes: int | None = None
) -> Subject:
    """Find what pictures of a module are about.

    Args:
        module: The user's module.
        forward: The option, which is evidence enough.
        calls: The calls that were watched while a batch passed. Without them the module itself is taken if it has a
            ``forward``, else its largest trained child that has.
        classes: The number of classes, where names or labels tell it.

    Raises:
        ConfigurationError: If the option names nothing, or nothing can be called.
    """
    if forward is not None:
        called = _function(module, forward)
        text = forward if isinstance(forward, str) else getattr(forward, "__qualname__", type(forward).__name__)
        part = module if called is not None else module.get_submodule(text)
        return Subject(
            "" if called is not None else text, _kind(part), text, width=classes, evidence=f"forward={text!r} says so"
        )
    seen = [call for call in calls if call.images and call.widths]
    if not seen:
        part = classifier_in(module)
        name = next(name for name, one in module.named_modules() if one is part)
        how = "no call of it was watched" if not calls else "no part of the module was called with images"
        return Subject(name, _kind(part), width=classes, evidence=how)
    return _of_calls(module, seen, calls, classes)


def _of_calls(module: nn.Module, seen: Sequence[Call], calls: Sequence[Call], classes: int | None) -> Subject:
    # Features that go on into a head are no logits, though they have the shape of some.
    heads = {width for call in calls if not call.images and call.trained for width in call.features if call.widths}
    fit = [call for call in seen if classes in call.widths] if classes else seen
    fit = [call for call in fit if not set(call.widths) <= heads]
    fit = [call for call in fit if call.trained] or fit
    names = list(dict.fromkeys(call.name for call in fit))
    chosen = "" if "" in names else names[0] if names else None
    if chosen is None or (len(names) > 1 and chosen):
        found = ", ".join(f"{call.name or type(module).__name__} gives {call.widths}" for call in seen[:3])
        problem = f"no single part of {type(module).__name__} maps images to logits ({found}): set forward="
        part = classifier_in(module)
        name = next(name for name, one in module.named_modules() if one is part)
        return Subject(name, _kind(part), problem=problem[:280], evidence=found[:200])
    call = next(call for call in fit if call.name == chosen)
    width = classes if classes in call.widths else call.widths[0]
    part = module.get_submodule(chosen)
    return Subject(
        chosen, _kind(part), width=width, evidence=f"the step calls it with images and it gives (N, {width})"
    )


def _function(module: nn.Module, forward: Forward) -> Callable[[nn.Module, Tensor], Any] | None:
    """Return the function that an option names; None where it names a child."""
    if not isinstance(forward, str):
        return forward
    names = [name for name, _ in module.named_modules() if name]
    if forward in names:
        return None
    package, _, name = forward.replace(":", ".").rpartition(".")
    try:
        found: Callable[[nn.Module, Tensor], Any] = getattr(import_module(package), name)
        return checks.function("forward", found)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"forward={forward!r}: expected a child of {type(module).__name__} ({nearest(forward, names)}), or an "
            "path such as 'package.module.function'"
        ) from error


def _kind(part: nn.Module) -> str:
    return type(unwrapped(part)).__name__
