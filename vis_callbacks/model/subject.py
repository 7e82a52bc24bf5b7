"""The subject of every picture: which network, how it is called, and what its output means."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import partial
from importlib import import_module
from typing import Any, TypeAlias

from torch import Tensor, nn

from vis_callbacks import checks
from vis_callbacks.errors import ConfigurationError, SubjectError, brief, nearest
from vis_callbacks.model.calls import picked
from vis_callbacks.model.classifier import unwrapped
from vis_callbacks.model.layers import known_as, named_layers
from vis_callbacks.model.meaning import Meaning

Forward: TypeAlias = Callable[[nn.Module, Tensor], Any] | str | None
"""A function from module and images to logits, its import path, a child's dotted name, or None: found."""

FUNCTION = "a function (module, images) -> logits"
"""What ``forward=`` takes, in the words of errors."""
_LONGEST = 280


@dataclass(frozen=True)
class Subject:
    """What pictures are about.

    Attributes:
        network: Dotted name of the network inside the user's module; "" is the module itself.
        kind: Class name of the network.
        forward: The option ``forward=`` as text; "" where the network was found.
        keyword: The argument that takes the images; "" for the first one.
        meaning: What its outputs are, see `Meaning`.
        width: Number of outputs; None before the first pass.
        evidence: How the network was found, in one sentence.
        problem: Where the evidence contradicts itself, one sentence that names the option to set; then no class is
            predicted. "" where it does not.
        runs: Whether the network can be called with images; if not, `problem` says why.
        output: Which of several outputs ``(N, K)`` is meant; None: there is but one.
    """

    network: str = ""
    kind: str = ""
    forward: str = ""
    keyword: str = ""
    meaning: Meaning = "classes"
    width: int | None = None
    evidence: str = ""
    problem: str = ""
    runs: bool = True
    output: int | None = None

    @property
    def predicts(self) -> bool:
        """Whether the outputs tell a class."""
        return not self.problem and self.meaning in ("classes", "binary", "labels")

    def takes_names(self, count: int) -> bool:
        """Whether this many class names are those of the outputs, as far as known."""
        return self.width is None or count == max(self.width, 2)

    @property
    def class_count(self) -> int | None:
        """The number of classes by the outputs; None if they are no classes, or unknown."""
        if self.width is None or self.meaning not in ("classes", "labels", "binary"):
            return None
        return max(self.width, 2)

    @property
    def name(self) -> str:
        """The network by name and class, such as ``student (ResNet)``."""
        return f"{self.network} ({self.kind})" if self.network else self.kind

    @property
    def outputs(self) -> str:
        """What the network gives, in words."""
        if self.width is None:
            return "not known yet"
        words = {"binary": "2 classes", "value": "a number" if self.width == 1 else f"{self.width} numbers"}
        words["embedding"] = f"{self.width} features"
        return words.get(self.meaning, f"{self.width} classes")

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for checkpoints and the picture store."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Subject":
        """Return the subject that `as_dict` described; unknown values are ignored."""
        known = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


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
        vars(self).update(_module=module, _call=call, training=False)

    @property
    def module(self) -> nn.Module:
        """The module that is called."""
        return vars(self)["_module"]  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the module, such as what timm states about it."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(vars(self)["_module"], name)

    def forward(self, images: Tensor) -> Any:
        """Call the module."""
        return vars(self)["_call"](images)


def _called(function: Callable[[nn.Module, Tensor], Any], text: str, module: nn.Module, images: Tensor) -> Any:
    try:
        return function(module, images)
    except TypeError as error:
        shape = tuple(images.shape)
        found = f"forward={text!r} was called with {kind_of(module)} and images {shape}: {brief(error)}"
        raise SubjectError(sentence(found, f"it must be {FUNCTION}")) from error


def _picked(part: nn.Module, subject: Subject, images: Tensor) -> Any:
    """Return the one of several outputs that are the logits."""
    output = part(**{subject.keyword: images}) if subject.keyword else part(images)
    assert subject.output is not None
    assert subject.width is not None
    return picked(output, len(images), subject.output, subject.width)


def check_forward(forward: Any) -> Forward:
    """Return the option ``forward=``; whether the module has what it names is checked at `setup`.

    Raises:
        ConfigurationError: If it is no function and no text.
    """
    if forward is None or (isinstance(forward, str) and forward) or callable(forward):
        return forward  # type: ignore[no-any-return]
    raise checks.refused(
        "forward", forward, "a function (module, images) -> logits, its import path, or a child's name"
    )


def network_of(module: nn.Module, subject: Subject, forward: Forward = None) -> nn.Module:
    """Return the subject's network, from images to logits, in a user's module."""
    called = None if forward is None else function_of(module, forward)
    part = module if called is not None else part_of(module, subject.network)
    if not subject.runs:
        return Network(part, partial(_refuse, subject.problem))
    if called is not None:
        return Network(module, partial(_called, called, text_of(forward), module))
    if subject.output is not None:
        return Network(part, partial(_picked, part, subject))
    if subject.keyword:
        return Network(part, lambda images: part(**{subject.keyword: images}))
    return known_as(part, subject.network)


def function_of(module: nn.Module, forward: Forward) -> Callable[[nn.Module, Tensor], Any] | None:
    """Return the function that an option names; None where it names a child."""
    if forward is None or not isinstance(forward, str):
        return forward
    names = list(named_layers(module))
    if forward in names:
        return None
    package, _, name = forward.replace(":", ".").rpartition(".")
    with suppress(ImportError, AttributeError, ValueError, TypeError):
        return checks.function("forward", getattr(import_module(package), name))  # type: ignore[no-any-return]
    raise ConfigurationError(
        f"forward={forward[:60]!r}: expected a child of {kind_of(module)} ({nearest(forward, names, most=3)}), or an "
        "import path such as 'package.module.function'"
    )


def text_of(forward: Forward) -> str:
    """Return an option ``forward=`` as a user would write it."""
    name = str(getattr(forward, "__qualname__", type(forward).__name__))
    return forward if isinstance(forward, str) else name.rpartition("<locals>.")[2]


def part_of(module: nn.Module, name: str) -> nn.Module:
    """Return a part of a module by its dotted name; "" is the module itself."""
    return named_layers(module)[name] if name else module


def sentence(text: str, remedy: str) -> str:
    """Return what was found and what to do as one sentence, whose first half is cut where it is too long."""
    room = _LONGEST - len(remedy) - 2
    return f"{text if len(text) <= room else text[: room - 1] + '…'}; {remedy}"


def _refuse(problem: str, _: Tensor) -> Any:
    raise SubjectError(problem)


def kind_of(part: nn.Module) -> str:
    """Return the name of a part's class."""
    return type(unwrapped(part)).__name__
