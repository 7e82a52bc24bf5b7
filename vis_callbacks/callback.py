"""The base class of every callback that makes pictures: options, contract, chain, and Lightning's state."""

import copy
import hashlib
import inspect
import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from types import CellType, CodeType
from typing import Any, ClassVar, Literal, NoReturn, TypedDict

from torch import Tensor, nn
from typing_extensions import Self

from vis_callbacks import checks
from vis_callbacks._lightning import LightningModule, Trainer, builds_model_late
from vis_callbacks.data.batches import BatchToImages
from vis_callbacks.data.normalization import Normalization
from vis_callbacks.data.samples import Samples
from vis_callbacks.data.selector import SampleRequest, SampleSource, fingerprint
from vis_callbacks.data.targets import TargetSpec, check_target
from vis_callbacks.errors import ConfigurationError, nearest
from vis_callbacks.event import Event, Moment, Needs
from vis_callbacks.model.limits import limits_of
from vis_callbacks.model.subject import Forward, check_forward
from vis_callbacks.output.destinations import Destinations, Handler, check_pattern
from vis_callbacks.panel import Panel
from vis_callbacks.run.budget import check_share
from vis_callbacks.run.hooks import RunHooks
from vis_callbacks.run.run import Run
from vis_callbacks.run.schedule import Schedule, Stage


class InputOptions(TypedDict, total=False):
    """How batches are read and shown, where that is not found; explained at `VisualizationCallback`."""

    mean: float | Sequence[float] | None
    std: float | Sequence[float] | None
    class_names: Sequence[str] | None
    bands: int | Sequence[int] | None
    batch_to_images: BatchToImages | None


class SharedOptions(InputOptions, total=False):
    """The keyword arguments that every callback takes; they are explained at `VisualizationCallback`."""

    samples: SampleSource
    targets: TargetSpec
    every_n_epochs: int | None
    every_n_steps: int | None
    on: Stage | Sequence[Stage]
    on_error: Literal["warn", "raise"]
    seed: int
    budget: float | None
    name: str | None
    transform: Callable[[Tensor], Tensor] | None
    forward: Forward


class VisualizationCallback(RunHooks):
    """Makes pictures of a model while it trains. A technique is a subclass with one method, `visualize`.

    Args:
        samples: Images to look at: an int for n of validation, spread over the classes (or evenly, without labels),
            ``"per_class"`` for one per class, a tensor ``(N, C, H, W)`` in model space, or image files. They are
            selected once, as soon as enough classes were seen, at the latest at the end of the first validation epoch;
            the pictures of the initial weights wait for that, those due by steps only while a single class was seen.
        targets: The logit that is explained: ``"predicted"``, ``"label"``, ``"contrast"`` (predicted minus label), a
            class number or a class name.
        every_n_epochs: Epochs between pictures. None: 1, unless `every_n_steps` is given. The first pictures are made
            before training.
        every_n_steps: Optimizer steps between pictures. None: not by steps.
        on: ``"validation"`` (without validation: the end of each training epoch), ``"train"``, ``"test"``, or several
            of them.
        mean: Mean that was subtracted from pixels in [0, 1], one number or one per channel. None: inferred.
        std: Standard deviation that they were divided by. None: inferred.
        class_names: Names of the classes, by number. None: inferred.
        bands: The channels to show as red, green and blue, or one in gray. None: the first three, or the mean of two.
        on_error: ``"warn"`` once and go on, or ``"raise"``.
        seed: Seed for everything random.
        budget: Share of the training time that these pictures may take, such as 0.05; the first twenty seconds are
            free. If need be they are made less often, and the report lists when, but always at the end of training;
            techniques of many passes make none before training. To bound all callbacks together, give the budget to
            `Report`. None: no bound.
        name: First part of the pictures' tags. None: the class's name. Two callbacks with the same options need
            different names.
        transform: Applied to each finished picture ``(3, H, W)`` in [0, 1] before it is written.
        batch_to_images: Returns the images ``(N, C, H, W)`` of a batch, or images and labels ``(N,)``. None: they are
            found in tuples, lists, dicts and objects.
        forward: What is shown: a function ``(module, images) -> logits``, its import path, or the dotted name of a
            child, such as ``"student"``. None: the part that the steps call and train, or that of `Report`.

    Raises:
        ConfigurationError: If an argument has a wrong type or value.

    Example:
        >>> from vis_callbacks import Panel, Tile
        >>> class Brightness(VisualizationCallback):
        ...     def visualize(self, event):
        ...         for name, pixels in zip(event.samples.names, event.samples.pixels):
        ...             yield Panel(name, Tile(pixels.mean(dim=0), "heat"))
        >>> Brightness(samples=4, every_n_epochs=2).name
        'Brightness'
    """

    uses_samples: ClassVar[bool] = True
    """Whether the technique looks at samples. If not, it makes pictures before any batch was seen."""

    split: Literal["samples", "items"] | None = None
    """How several processes split the work.

    * ``"samples"``: each process gets its own samples, and makes their panels.
    * ``"items"``: each process makes the panels of ``event.share.of(items)``, for items of the technique's own.
    * None: the first process works alone.

    The panels are joined in the order of the processes.
    """

    _arguments: str
    _run: Run | None = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remember the arguments, which distinguish callbacks of one class in a checkpoint."""
        # Lightning's callbacks are no abstract base classes, which would see to this.
        missing = [name for name in dir(cls) if getattr(getattr(cls, name), "__isabstractmethod__", False)]
        if missing:
            raise TypeError(f"{cls.__name__} lacks {', '.join(missing)}: write a subclass with that method")
        self = super().__new__(cls)
        self._arguments = ", ".join([*map(_stable, args), *(f"{key}={_stable(kwargs[key])}" for key in sorted(kwargs))])
        return self

    def __init__(
        self,
        *,
        samples: SampleSource = 8,
        targets: TargetSpec = "predicted",
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        on: Stage | Sequence[Stage] = "validation",
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        class_names: Sequence[str] | None = None,
        bands: int | Sequence[int] | None = None,
        on_error: Literal["warn", "raise"] = "warn",
        seed: int = 0,
        budget: float | None = None,
        name: str | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        batch_to_images: BatchToImages | None = None,
        forward: Forward = None,
        **unknown: NoReturn,
    ) -> None:
        super().__init__()
        for option in unknown:
            known = nearest(option, _options_of(type(self)))
            raise ConfigurationError(f"{type(self).__name__} has no option {option!r}; {known}")
        self.sample_request = SampleRequest(
            samples,
            _normalization(mean, std),
            checks.optional(checks.several, "class_names", class_names, checks.text, "a list of names", least=0) or (),
            batch_to_images,
            checks.optional(checks.bands, "bands", bands),
        )
        self.targets = checks.class_spec(
            "targets", targets, "'predicted', 'label', 'contrast', a class number or a class name"
        )
        self.schedule = Schedule.of(on, every_n_epochs, every_n_steps)
        self.on_error = checks.one_of("on_error", on_error, Literal["warn", "raise"])
        self.seed = checks.whole("seed", seed, least=None)
        self.budget = check_share(budget)
        self.left_out: list[int] = []
        self.name = checks.optional(checks.text, "name", name) or type(self).__name__
        self.transform = checks.optional(checks.function, "transform", transform)
        self.forward = check_forward(forward)
        self.destinations = Destinations()
        self.restored_subject: dict[str, Any] = {}
        self.restored_samples: dict[str, Any] = {}
        self._stages_chosen = False
        self._chain = ""
        self._unused_state: dict[str, Any] | None = None

    @abstractmethod
    def visualize(self, event: Event) -> Iterable[Panel]:
        """Make the pictures of one event.

        Args:
            event: The model, the samples, and one forward and backward shared with all techniques of this moment.

        Returns:
            One panel per picture; the panel's name becomes the second part of the tag.
        """

    def needs(self, event: Event) -> Needs:
        """Return what the technique reads from the event's shared pass. Logits are always in it."""
        del event
        return Needs()

    def passes(self, moment: Moment, samples: Samples) -> int:
        """Return about how many passes of one image an event takes beyond the shared one; 0 if that is not known.

        A budget estimates from it what pictures will cost that were never made, or that took fewer passes last time.
        """
        del moment, samples
        return 0

    def check(self, model: nn.Module) -> None:
        """Raise a `ConfigurationError` if an option does not fit the model. Called before training starts."""

    def check_classes(self, class_names: tuple[str, ...]) -> None:
        """Raise a `ConfigurationError` if an option names no class. Called before training starts."""
        check_target(self.targets, self.sample_request.class_names or class_names)

    def restart(self) -> None:
        """Forget an earlier run, for use with another Trainer. What `state_dict` holds is reset to its first values."""
        if self._unused_state is not None:
            self.load_state_dict(copy.deepcopy(self._unused_state))

    def shared_state(self) -> Any:
        """Return the state, tensors and plain values, that other processes need to continue as this one would.

        Called in the first process before an event whose work is split, and in the others after it.
        """
        return None

    def load_shared_state(self, state: Any) -> None:
        """Take over the state that another process returned from `shared_state`."""

    # torchbearer's chain.

    def on_train(self) -> Self:
        """Make pictures at the end of training epochs."""
        return self._on("train")

    def on_val(self) -> Self:
        """Make pictures at the end of validation."""
        return self._on("validation")

    def on_test(self) -> Self:
        """Make pictures at the end of a test."""
        return self._on("test")

    def to_file(self, filename: str) -> Self:
        """Also write each picture to a file, and to TensorBoard only if `to_tensorboard` is called too.

        Args:
            filename: May hold fields in braces: ``callback name tag epoch step stage index sample label predicted
                probability``. Missing folders are created.

        Raises:
            ConfigurationError: If a field is unknown.
        """
        self._destine(f"to_file({filename!r})")
        self.destinations.files.append(check_pattern(filename))
        return self

    def to_tensorboard(self) -> Self:
        """Log the pictures to TensorBoard, which is the default while no other destination is named."""
        self._destine("to_tensorboard()")
        self.destinations.tensorboard = True
        return self

    def to_pyplot(self) -> Self:
        """Show the pictures with pyplot."""
        self._destine("to_pyplot()")
        self.destinations.pyplot = True
        return self

    def with_handler(self, handler: Handler) -> Self:
        """Call a function with each picture ``(3, H, W)`` in [0, 1], its index in the event, and a dict of fields."""
        self._destine(f"with_handler({_stable(handler)})")
        self.destinations.handlers.append(handler)
        return self

    # What a Trainer calls.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Join the run, and check the options against the model if it is already built."""
        super().setup(trainer, pl_module, stage)
        run = Run.of(trainer)
        if self._run is not run:
            if self._unused_state is None:
                self._unused_state = copy.deepcopy(self.state_dict())
            else:
                self.restart()
            self._run = run
        if not run.allows_pictures(trainer):
            return
        run.add(self)
        run.warnings.warn_limits(limits_of(pl_module))
        if not builds_model_late(pl_module):
            run.inputs.check(self, pl_module)

    @property
    def state_key(self) -> str:
        """The key in a checkpoint: class, arguments and chained calls, which distinguish callbacks of one class."""
        return f"{type(self).__qualname__}({self._arguments}){self._chain}"

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to continue without a gap."""
        state: dict[str, Any] = {
            "last_epoch": self.schedule.last_epoch,
            "last_step": self.schedule.last_step,
            "left_out": list(self.left_out),
        }
        if self._run is not None and self in self._run.members.techniques[:1]:
            state["samples"] = self._run.inputs.selector.state_dict()
        if self._run is not None and (subject := self._run.inputs.subjects.subject(self.forward)):
            state["subject"] = subject.as_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.schedule.mark_done(epoch=state_dict["last_epoch"], step=state_dict["last_step"])
        self.left_out = list(state_dict["left_out"])
        self.restored_samples = state_dict.get("samples", {})
        self.restored_subject = state_dict.get("subject", {})

    def _on(self, stage: Stage) -> Self:
        self.schedule.on = (*self.schedule.on, stage) if self._stages_chosen else (stage,)
        self._stages_chosen = True
        self._chain += f".on({stage})"
        return self

    def _destine(self, link: str) -> None:
        self.destinations.choose()
        self._chain += f".{link}"


def _options_of(callback: type) -> list[str]:
    """Return the keyword arguments of a class and its bases."""
    made = [vars(one)["__init__"] for one in callback.__mro__ if "__init__" in vars(one)]
    options = [option for init in made for option in inspect.signature(init).parameters.values()]
    return list(dict.fromkeys(option.name for option in options if option.default is not option.empty))


def _normalization(mean: Any, std: Any) -> Normalization | None:
    """Return what `mean` and `std` say."""
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise ConfigurationError(f"mean={mean!r} with std={std!r}: give both or neither")
    means, stds = checks.per_channel("mean", mean), checks.per_channel("std", std, low=0, above=True)
    if len({len(means), len(stds)} - {1}) > 1:
        raise ConfigurationError(f"mean={means} with std={stds}: expected as many numbers in both, or a single one")
    return Normalization(means, stds)


def _stable(value: Any, within: tuple[Any, ...] = ()) -> str:
    """Return text that is the same in every process; `within` are the functions that keep the value."""
    if isinstance(value, Tensor):
        return fingerprint(value)
    name = getattr(value, "__qualname__", None)
    if name and "<" in name and value not in within and (code := getattr(value, "__code__", None)):
        # Lambdas and functions inside of functions share their names.
        inside = (*within, value)
        kept = [_stable(cell.cell_contents, inside) for cell in value.__closure__ or () if _is_set(cell)]
        text = f"{_written(code)} {kept} {_stable(value.__defaults__)}"
        return f"{name} {hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return name or re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _is_set(cell: CellType) -> bool:
    """Whether the variable that a function refers to has a value by now."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _written(code: CodeType) -> str:
    """Return what a function does, as text that does not depend on where it is written."""
    constants = [
        _written(one) if isinstance(one, CodeType) else sorted(map(repr, one)) if isinstance(one, frozenset) else one
        for one in code.co_consts
    ]
    return f"{code.co_code.hex()} {code.co_names} {constants}"
