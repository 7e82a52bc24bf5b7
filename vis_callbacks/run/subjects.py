"""The subjects of one run's pictures: found once from what the steps do, then the same throughout training."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import ReferenceType, ref

from torch import Tensor, nn

from vis_callbacks.errors import ConfigurationError, brief
from vis_callbacks.model.calls import Call, CallWatch
from vis_callbacks.model.candidates import guesses
from vis_callbacks.model.evidence import changed_for, find_subject
from vis_callbacks.model.known_classes import Classes
from vis_callbacks.model.labels import Labels, together
from vis_callbacks.model.subject import Forward, Network, Subject, network_of

_MOST_BATCHES = 4
"""Batches of validation that are watched for a network, beside the first one of training."""


@dataclass
class _Evidence:
    """What the batches have shown so far."""

    validated: int = 0
    trained: int = 0
    calls: dict[bool, list[Call]] = field(default_factory=lambda: {False: [], True: []})
    labels: tuple[Labels, ...] = ()
    images: Tensor | None = None
    optimized: frozenset[int] = frozenset()
    blind: bool = False
    fresh: bool = False

    @property
    def all_calls(self) -> list[Call]:
        """The calls, by steps of training where there are any: only those show what is trained.

        Which images go in is told by validation, where there is any: training may augment them.
        """
        names = {call.name for call in self.calls[True]}
        plain: dict[str, Call] = {}
        for call in self.calls[False]:
            known = plain.get(call.name)
            if call.image is not None and (known is None or known.image == -1):
                plain[call.name] = call
        told = [
            replace(call, image=other.image, images=other.images, given=other.given)
            if call.image == -1 and (other := plain.get(call.name)) is not None
            else call
            for call in self.calls[True]
        ]
        return [*told, *(call for call in self.calls[False] if call.name not in names)]

    def add(self, watch: CallWatch) -> None:
        """Add what was seen while one batch passed."""
        self.fresh = True
        self.trained += watch.training
        self.validated += not watch.training
        self.calls[watch.training] += watch.calls
        self.labels = together(self.labels, watch.labels) if self.labels else watch.labels
        self.images = watch.images if self.images is None else self.images
        self.optimized, self.blind = watch.optimized, watch.blind


class Subjects:
    """Holds one subject per ``forward=`` option of a run.

    Attributes:
        default: The option of the whole run, for callbacks that have none of their own.
    """

    def __init__(self) -> None:
        self.default: Forward = None
        self._options: dict[object, Forward] = {}
        self._found: dict[object, Subject] = {}
        self._networks: dict[object, nn.Module] = {}
        self._module: ReferenceType[nn.Module] | None = None
        self._watch: CallWatch | None = None
        self._seen = _Evidence()

    def request(self, forward: Forward) -> None:
        """Announce an option, so that its subject is found."""
        forward = self._option(forward)
        self._options.setdefault(_key(forward), forward)

    def start(self, module: nn.Module) -> None:
        """Start a fit, validation or test of a module. Subjects of another module are forgotten."""
        self.stop_watching()
        if self._module is None or self._module() is not module:
            self._found, self._networks, self._module = {}, {}, ref(module)
        self._seen = _Evidence()

    def restore(self, module: nn.Module, forward: Forward, values: Mapping[str, Any]) -> None:
        """Go on with the subject of a checkpoint, if the module still has its network."""
        forward = self._option(forward)
        subject = Subject.from_dict(values)
        try:
            network_of(module, subject, forward)
        except (ConfigurationError, KeyError):
            # The option, or the network, names what the module does not have: the subject is found anew.
            return
        if not subject.problem:
            self._found.setdefault(_key(forward), subject)

    def get(self, module: nn.Module, forward: Forward) -> tuple[Subject, nn.Module] | None:
        """Return the subject of an option and its network, or None if it is not known yet."""
        forward = self._option(forward)
        key = _key(forward)
        subject = self._found.get(key)
        if subject is None or self._module is None or self._module() is not module:
            return None
        network = network_of(module, subject, forward)
        known = self._networks.get(key)
        if isinstance(network, Network) and isinstance(known, Network) and known.module is network.module:
            # What was learnt of its layers is known by this very object.
            network = known
        self._networks[key] = network
        return subject, network

    def subject(self, forward: Forward) -> Subject | None:
        """Return the subject of an option, or None if it is not known yet."""
        return self._found.get(_key(self._option(forward)))

    def candidates(self, module: nn.Module, forward: Forward) -> list[nn.Module]:
        """Return what may be the network of an option, the likeliest first; all that it may be before a batch passes.

        Raises:
            ConfigurationError: If the option names nothing, or the module has nothing that can be called.
        """
        forward, known = self._option(forward), self.get(module, forward)
        return guesses(module, forward) if known is None else [known[1]]

    @property
    def wanted(self) -> bool:
        """Whether any subject is not known yet."""
        return any(key not in self._found for key in self._options)

    @property
    def without_images(self) -> bool:
        """Whether batches have passed by of which none had images."""
        return bool(self._seen.trained or self._seen.validated) and self._seen.images is None

    def watch(
        self,
        module: nn.Module,
        batch: Any,
        *,
        optimized: frozenset[int],
        training: bool,
        readers: Sequence[Callable[[Any], Any]] = (),
    ) -> None:
        """Watch the calls of a step, which starts now with this batch, if that can still tell anything.

        See `CallWatch` for the arguments.
        """
        self.stop_watching()
        if self.wanted and (self._seen.trained == 0 if training else self._seen.validated < _MOST_BATCHES):
            # Whatever is in a batch: where it cannot be understood, what maps images to logits is tried.
            with suppress(Exception):
                self._watch = CallWatch(module, batch, optimized=optimized, training=training, readers=readers)

    def stop_watching(self) -> None:
        """Stop watching: the step has ended, or failed. Idempotent."""
        if self._watch is not None:
            self._watch.stop()
            self._seen.add(self._watch)
            self._watch = None

    def settle(
        self,
        module: nn.Module,
        classes: Callable[[Forward], Classes],
        *,
        fitting: bool,
        validates: bool,
        final: bool,
    ) -> Iterator[Subject]:
        """Yield the subjects that the batches seen so far can tell, when they are found.

        Args:
            module: The user's module.
            classes: Returns what is known of the classes of an option.
            fitting: Whether steps of training will follow, which show what is trained.
            validates: Whether batches of validation will follow, of which the images are not augmented.
            final: Whether nothing else will be seen.
        """
        seen = self._seen
        if not (seen.fresh or final):
            return
        seen.fresh = False
        calls = seen.all_calls
        sure = final or bool(seen.trained) or seen.blind or (not fitting and seen.validated >= _MOST_BATCHES)
        waits = validates and not seen.validated and not final
        for key, forward in self._options.items():
            if key in self._found:
                continue
            try:
                known = classes(forward)
                subject = find_subject(
                    module,
                    forward=forward,
                    calls=calls,
                    classes=replace(known, labels=(*known.labels, *seen.labels)),
                    # Without them nothing is tried, which takes a pass.
                    images=seen.images if sure or forward is not None else None,
                    optimized=seen.optimized,
                )
            except Exception as error:
                problem = f"the network of {type(module).__name__} could not be told ({brief(error)}); set forward="
                subject = Subject(kind=type(module).__name__, problem=problem, runs=False)
            shown = any(_is_in(subject.network, call) and (call.trained or not fitting) for call in calls)
            told = shown and subject.width is not None and not subject.problem
            if waits and changed_for(subject, calls) is not None and not told:
                continue
            if sure or told or forward is not None:
                self._found[key] = subject
                yield subject
        if not self.wanted:
            self._seen = _Evidence()

    def export(self) -> Sequence[Subject | None]:
        """Return the subjects for other processes, in the order of the options, which is the same in all of them."""
        return [self._found.get(key) for key in self._options]

    def take_over(self, subjects: Sequence[Subject | None]) -> None:
        """Use the subjects that another process has found."""
        for key, subject in zip(self._options, subjects, strict=True):
            if subject is not None:
                self._found[key] = subject

    def _option(self, forward: Forward) -> Forward:
        return self.default if forward is None else forward


def _key(forward: Forward) -> object:
    return forward if forward is None or isinstance(forward, str) else id(forward)


def _is_in(network: str, call: Call) -> bool:
    """Whether a call is one of a network or of its parts."""
    return not network or f"{call.name}.".startswith(f"{network}.")
