"""The base of every callback: when, on what, what on error. No image mathematics."""

from __future__ import annotations

import copy
import inspect
import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, TypedDict

from torch import Tensor, nn

from vis_callbacks import checks
from vis_callbacks._lightning import LightningModule, Trainer, builds_model_late
from vis_callbacks.data.normalization import Normalization
from vis_callbacks.data.samples import BatchToImages, Samples, SampleSource
from vis_callbacks.data.selector import SampleRequest, fingerprint
from vis_callbacks.data.targets import TargetSpec, check_target
from vis_callbacks.errors import ConfigurationError, nearest
from vis_callbacks.event import Event, Moment, Needs
from vis_callbacks.model.classifier import classifier_in
from vis_callbacks.output.destinations import Destinations, Handler, check_pattern
from vis_callbacks.panel import Panel
from vis_callbacks.run.budget import check_share
from vis_callbacks.run.hooks import RunHooks
from vis_callbacks.run.run import Run
from vis_callbacks.run.schedule import Schedule, Stage

if TYPE_CHECKING:
    from typing_extensions import Self


class SharedOptions(TypedDict, total=False):
    """The keyword arguments that every callback takes; they are explained at `VisualizationCallback`."""

    samples: SampleSource
    targets: TargetSpec
    every_n_epochs: int | None
    every_n_steps: int | None
    on: Stage | Sequence[Stage]
    mean: float | Sequence[float] | None
    std: float | Sequence[float] | None
    class_names: Sequence[str] | None
    on_error: Literal["warn", "raise"]
    seed: int
    budget: float | None
    name: str | None
    transform: Callable[[Tensor], Tensor] | None
    batch_to_images: BatchToImages | None


class VisualizationCallback(RunHooks):
    """Makes pictures of a model while it trains. A technique is a subclass with one method, `visualize`.

    Args:
        samples: Images to look at: the first n of validation, ``"per_class"`` for one of each class, a tensor
            ``(N, C, H, W)`` in model space, or image files.
        targets: Whose logit is explained: ``"predicted"``, ``"label"``, ``"contrast"`` (predicted against label), a
            class number or a class name.
        every_n_epochs: Epochs between pictures; 1 unless `every_n_steps` is given. The first are made before training.
        every_n_steps: Optimizer steps between pictures.
        on: ``"validation"`` (in a run without validation the end of each training epoch), ``"train"``, ``"test"``, or
            several of them.
        mean: Mean that was subtracted from pixels in [0, 1], one number or one a channel. None: found.
        std: Standard deviation that they were divided by. None: found.
        class_names: Names of the classes, by number. None: found.
        on_error: ``"warn"`` once and go on, or ``"raise"``.
        seed: Seed of whatever is random.
        budget: The share of the training time that these pictures may take, such as 0.05: they are made less often, if
            need be, and the report says when; those of many passes are not made before training. For all callbacks
            together, give it to `Report`. None: no bound.
        name: First part of the pictures' tags; the class's name unless given. Two callbacks with the same options
            need different ones.
        transform: Applied to each finished picture ``(3, H, W)`` in [0, 1] before it goes out.
        batch_to_images: Returns the images of a batch, or images and labels, where they are not found by themselves.

    Raises:
        ConfigurationError: If an argument cannot be meant.

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
    """Whether the technique looks at samples; if not, it can work before any batch has passed by."""

    split: Literal["samples", "items"] | None = None
    """How several processes share the work, if it is worth it.

    * ``samples``: each gets its own part of the samples, and makes their panels.
    * ``items``: each makes the panels of ``event.share.of(items)``, whatever the items are.

    The panels are put together in the order of the processes. Otherwise the first process works alone.
    """

    _arguments: str
    _run: Run | None = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remember the arguments: they tell apart callbacks of one class in a checkpoint."""
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
        on_error: Literal["warn", "raise"] = "warn",
        seed: int = 0,
        budget: float | None = None,
        name: str | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        batch_to_images: BatchToImages | None = None,
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
        self.destinations = Destinations()
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
            One panel a picture; its name becomes the second part of the tag.
        """

    def needs(self, event: Event) -> Needs:
        """Say what is read from the event's shared pass; logits always are in it."""
        del event
        return Needs()

    def passes(self, moment: Moment, samples: Samples) -> int:
        """Return about how many passes of one image an event takes beyond the shared one; 0 if that is not known.

        A budget reckons with it for pictures that it has not seen yet, or that take more passes than the last ones.
        """
        del moment, samples
        return 0

    def check(self, model: nn.Module) -> None:
        """Raise a `ConfigurationError` if an option does not fit the model. Called before training starts."""

    def check_classes(self, class_names: tuple[str, ...]) -> None:
        """Raise a `ConfigurationError` if an option names no class. Called before training starts."""
        check_target(self.targets, self.sample_request.class_names or class_names)

    def restart(self) -> None:
        """Forget an earlier run: the callback joins that of another Trainer. What `state_dict` keeps is as at first."""
        if self._unused_state is not None:
            self.load_state_dict(copy.deepcopy(self._unused_state))

    def shared_state(self) -> Any:
        """Return what other processes need to know to go on as this one would: tensors and plain values.

        Called in the first process before an event whose work is shared, and in the others after it.
        """
        return None

    def load_shared_state(self, told: Any) -> None:
        """Take over what another process tells."""

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
        """Write each picture to a file as well, and no longer to TensorBoard unless that is asked for too.

        Args:
            filename: May hold fields in braces: ``callback name tag epoch step stage index sample label predicted
                probability``. Folders are made.

        Raises:
            ConfigurationError: If a field is unknown.
        """
        self._destine(f"to_file({filename!r})")
        self.destinations.files.append(check_pattern(filename))
        return self

    def to_tensorboard(self) -> Self:
        """Log the pictures to TensorBoard; they are, unless another destination was named."""
        self._destine("to_tensorboard()")
        self.destinations.tensorboard = True
        return self

    def to_pyplot(self) -> Self:
        """Show the pictures with pyplot."""
        self._destine("to_pyplot()")
        self.destinations.pyplot = True
        return self

    def with_handler(self, handler: Handler) -> Self:
        """Call a function with each picture ``(3, H, W)`` in [0, 1], its index in the event, and a dict about it."""
        self._destine(f"with_handler({_stable(handler)})")
        self.destinations.handlers.append(handler)
        return self

    # What a Trainer asks for.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Join the run, and check the options against the model if it is built already."""
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
        if not builds_model_late(pl_module):
            self.check(classifier_in(pl_module))

    @property
    def state_key(self) -> str:
        """Tells callbacks of one class apart by their arguments and by what was chained to them."""
        return f"{type(self).__qualname__}({self._arguments}){self._chain}"

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to go on without a gap."""
        state: dict[str, Any] = {
            "last_epoch": self.schedule.last_epoch,
            "last_step": self.schedule.last_step,
            "left_out": list(self.left_out),
        }
        if self._run is not None and self in self._run.callbacks[:1]:
            state["samples"] = self._run.selector.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.schedule.mark_done(epoch=state_dict["last_epoch"], step=state_dict["last_step"])
        self.left_out = list(state_dict["left_out"])
        self.restored_samples = state_dict.get("samples", {})

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


def _stable(value: Any) -> str:
    """Text that is the same in another process."""
    if isinstance(value, Tensor):
        return fingerprint(value)
    return getattr(value, "__qualname__", None) or re.sub(r" at 0x[0-9a-f]+", "", repr(value))
