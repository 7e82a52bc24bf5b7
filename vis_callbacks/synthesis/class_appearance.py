"""The image that a class's logit loves most."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from vis_callbacks import checks
from vis_callbacks.callback import SharedOptions
from vis_callbacks.data.normalization import Normalization
from vis_callbacks.data.samples import Samples
from vis_callbacks.data.targets import class_index
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.event import Event, Moment
from vis_callbacks.model.batching import in_chunks, pixels_of
from vis_callbacks.model.classifier import logits_of, probabilities
from vis_callbacks.model.frugal import in_small_chunks
from vis_callbacks.model.guard import guarded
from vis_callbacks.panel import Panel, Tile
from vis_callbacks.synthesis.callback import SynthesisCallback, shown
from vis_callbacks.synthesis.optimization.feature_prior import FeatureStatistics
from vis_callbacks.synthesis.optimization.generate import synthesise
from vis_callbacks.synthesis.optimization.image_statistics import ImageStatistics
from vis_callbacks.synthesis.optimization.loop import Goal, OptimizerFactory, SchedulerFactory
from vis_callbacks.synthesis.optimization.objectives import logit
from vis_callbacks.synthesis.optimization.recipes import Recipe, find_recipe
from vis_callbacks.synthesis.optimization.robustness import Trust, trust
from vis_callbacks.synthesis.optimization.sizes import image_shape

if TYPE_CHECKING:
    from typing_extensions import Unpack

_EARLY = 1
"""The last epoch whose images mean little."""

_HASTY_EVENTS = 2
"""So many events of a training get few steps if they are early, and nothing goes on from their images."""

_TRUSTED = 0.73
"""From this trust on, other networks mostly recognise an image."""

_MANY_STEPS = 256
"""With fewer, all go into one try."""

_FEWEST_STEPS = 64
"""With fewer, a new try is not worth it."""

_GROUP_SEED = 100_003
"""Between the seeds of groups of classes that are made one after the other; more than there are events."""

_JUDGED = 256
"""Real images by which the worst classes are found."""


@guarded
def class_appearance(
    model: nn.Module,
    classes: int | Sequence[int] | Tensor,
    *,
    image_size: int | Sequence[int],
    steps: int | None = None,
    recipe: str | Recipe = "best",
    decay: float | None = None,
    normalization: Normalization | None = None,
    init: Tensor | None = None,
    optimizer: OptimizerFactory | None = None,
    scheduler: SchedulerFactory | None = None,
    min_probability: float | None = None,
    image_statistics: ImageStatistics | None = None,
    feature_statistics: FeatureStatistics | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Tensor:
    """Make an image for each class that the model scores as high as possible, all in one batch and in eval mode.

    ``recipe="simonyan"`` is argmax of S_c(I) - decay ‖I‖², where S_c is the class's logit and I the model's input
    (Simonyan et al., "Deep inside convolutional networks", arXiv 1312.6034). The other recipes bring better images from
    the same logit: what matters is how the image is written down, what happens to it before the model sees it, and what
    it is held to. ``"best"``, the default, pins the energy of frequency bands to that of natural images, shows the
    model changing views and resolutions, and holds features to the statistics that BatchNorm has kept.

    Args:
        model: From images ``(N, C, H, W)`` to logits ``(N, K)``.
        classes: One class index, or one for each image.
        image_size: An int, ``(H, W)`` or ``(C, H, W)``.
        steps: Steps of the optimizer; each is one forward and one backward. None: the recipe's.
        recipe: "best", "draft" for a few dozen steps, "persistent", "simonyan", "timm-vis", "l1", "l2", "regularised",
            "fourier", "maco", or your own `Recipe`. "persistent" is "best" and does not give up: from 256 steps on it
            keeps a fifth of the passes for images that the model does not trust. They begin anew with other seeds,
            and what is trusted most is returned.
        decay: Weight of ‖I‖², in place of the recipe's own penalty. None: the recipe's.
        normalization: From pixels to the model's input. None: found from the model, else identity.
        init: Images in [0, 1], ``(C, H, W)`` or one for each class, to go on from. None: the recipe's own start.
        optimizer: From parameters to a torch optimizer. None: the recipe's.
        scheduler: From the optimizer and the number of steps to a learning rate schedule. None: the recipe's.
        min_probability: An image is returned as soon as its class's probability in a pass exceeds this, in [0, 1].
        image_statistics: Statistics of real images, for the recipes that use them. None: those of photographs.
        feature_statistics: Statistics of the model's features for real images, for models that keep none in BatchNorm;
            see `collect_statistics`. None: BatchNorm's.
        seed: Seed of everything random.
        progress: Whether to show progress on stderr when it takes longer than a few seconds.

    Returns:
        ``(len(classes), C, H, W)`` float32 in [0, 1].

    Raises:
        ConfigurationError: If a class, a size, the recipe or `init` does not fit.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5))
        >>> class_appearance(model, [0, 4], image_size=8, steps=4).shape
        torch.Size([2, 3, 8, 8])
    """
    try:
        wanted = torch.as_tensor([classes] if isinstance(classes, int) else classes, dtype=torch.long).flatten()
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"classes={classes!r}: expected class numbers") from error
    chosen = find_recipe(recipe)
    full = chosen.steps if steps is None else steps
    spare = int(full * chosen.spare)
    if init is not None or min_probability is not None or full < _MANY_STEPS or spare * len(wanted) < _FEWEST_STEPS:
        spare = 0

    def make(targets: Tensor, steps: int, seed: int) -> Tensor:
        return synthesise(
            model,
            logit(targets),
            len(targets),
            image_size=image_size,
            recipe=chosen,
            steps=steps,
            decay=decay,
            normalization=normalization,
            init=init,
            optimizer=optimizer,
            scheduler=scheduler,
            goal=None if min_probability is None else Goal(targets, min_probability),
            image_statistics=image_statistics,
            feature_statistics=feature_statistics,
            seed=seed,
            what="class appearance",
            progress=progress,
        ).pixels

    made = make(wanted, full - spare, seed)
    if not spare:
        return made
    passes = spare * len(wanted)
    found = trust(model, made, wanted, normalization=normalization).trust
    while True:
        low = (found < _TRUSTED).nonzero()[:, 0]
        steps = min(full - spare, passes // max(len(low), 1))
        if not len(low) or steps < _FEWEST_STEPS:
            return made
        passes -= steps * len(low)
        seed += 1
        targets = wanted[low.cpu()]
        again = make(targets, steps, seed)
        better = trust(model, again, targets, normalization=normalization).trust
        rises = better > found[low]
        made[low[rises]], found[low[rises]] = again[rises], better[rises]


class _Plan(NamedTuple):
    """How an event goes: with little effort, from the beginning, in so many steps."""

    hasty: bool
    fresh: bool
    steps: int


class ClassAppearance(SynthesisCallback):
    """Shows the image that each class's logit loves most, and goes on with it from one event to the next.

    Under each image stand the class's logit and probability, and the trust in it (see `trust`). In the first epochs
    the image means little and is marked as early: BatchNorm's statistics still lag behind the weights.

    Args:
        classes: Classes by number or name; ``"rotating"`` for other ones each time, ``"worst"`` for those whose own
            images have the lowest probability. None: all, or the first ten.
        count: How many classes are rotating, or worst.
        steps: Steps of the optimizer in an event that goes on with the last images, and in the first one after
            training began; the untrained network gets a quarter.
        fresh_steps: Steps of an event that begins anew: the one after those, and every `restart_every`; not of the
            first one of a training, which can be gone on from.
        restart_every: Events from one new beginning to the next, so that what the network has forgotten goes.
        recipe: See `class_appearance`.
        decay: Weight of ‖I‖². None: the recipe's.
        warm_start: Whether to go on from the last event's images, also after a resume, or to begin anew each time.
        image_size: An int, ``(H, W)`` or ``(C, H, W)``. None: that of the samples.
        optimizer: From parameters to a torch optimizer. None: the recipe's.
        progress: Whether to show progress on stderr when it takes longer than a few seconds.
        options: Shared by all callbacks, see `VisualizationCallback`.

    Raises:
        ConfigurationError: If an argument cannot be meant.
    """

    split = "items"

    def __init__(
        self,
        classes: Sequence[int | str] | Literal["rotating", "worst"] | None = None,
        *,
        count: int = 10,
        steps: int = 16,
        fresh_steps: int = 48,
        restart_every: int = 5,
        recipe: str | Recipe = "draft",
        decay: float | None = None,
        warm_start: bool = True,
        image_size: int | Sequence[int] | None = None,
        optimizer: OptimizerFactory | None = None,
        progress: bool = True,
        **options: Unpack[SharedOptions],
    ) -> None:
        super().__init__(steps=steps, image_size=image_size, optimizer=optimizer, progress=progress, **options)
        find_recipe(recipe)
        self.classes = checks.optional(_check_classes, "classes", classes)
        self.count = checks.whole("count", count)
        self.fresh_steps = checks.whole("fresh_steps", fresh_steps)
        self.restart_every = checks.whole("restart_every", restart_every)
        self.recipe = recipe
        self.decay = checks.optional(checks.number, "decay", decay, low=0)
        self.warm_start = checks.switch("warm_start", warm_start)
        if classes == "worst":
            self._pool_size = _JUDGED
            self._pool = self._new_pool()
        self._events = 0
        # How many events have gone into the last images; 0: none that may be gone on from.
        self._age = 0
        self._last: dict[int, Tensor] = {}

    def check_classes(self, class_names: tuple[str, ...]) -> None:
        """Raise a `ConfigurationError` if a class is not there."""
        super().check_classes(class_names)
        if isinstance(self.classes, tuple):
            for wanted in self.classes:
                class_index(wanted, self.sample_request.class_names or class_names)

    def passes(self, moment: Moment, samples: Samples) -> int:
        """A step of all classes is one of each."""
        count = self.count if isinstance(self.classes, str) else len(self.classes or samples.class_names[:10]) or 10
        return self._plan(moment, known=bool(self._last)).steps * count

    def visualize(self, event: Event) -> Iterable[Panel]:
        """Show one image for each class, with its logit, probability and trust."""
        samples, moment = event.samples, event.moment
        classes = event.share.of(self._chosen(event))
        if not classes:
            return
        early = _is_early(moment)
        hasty, fresh, steps = self._plan(moment, known=all(index in self._last for index in classes))
        image_statistics, feature_statistics = self.image_statistics(event), self.feature_statistics(event)

        def make(items: Tensor) -> tuple[Tensor, Trust]:
            wanted = [classes[item] for item in items.tolist()]
            made = class_appearance(
                event.model,
                wanted,
                image_size=self.size(event),
                steps=steps,
                recipe=self.recipe,
                decay=self.decay,
                normalization=samples.normalization,
                init=None if fresh else torch.stack([self._last[index] for index in wanted]).float(),
                optimizer=self.optimizer,
                image_statistics=image_statistics,
                feature_statistics=feature_statistics,
                # Other views each time: what is gone on from has seen those of the last event. Other noise for each
                # group, which otherwise would all begin with the same image.
                seed=event.seed + self._events + _GROUP_SEED * wanted[0],
                progress=self.progress,
            )
            found = trust(event.model, made, torch.tensor(wanted), normalization=samples.normalization)
            # Half precision is finer than 8 bit, and checkpoints stay small.
            return made.half().cpu(), found

        pixels = math.prod(image_shape(event.model, self.size(event))[1:])
        parts = [part for _, part in in_small_chunks(make, len(classes), pixels=pixels, device=samples.images.device)]
        images = torch.cat([made for made, _ in parts])
        self._events += 1
        self._age = 0 if hasty else 1 if fresh else self._age + 1
        self._last = dict(zip(classes, images, strict=True))
        seen = [row for _, found in parts for row in zip(found.logits, found.probabilities, found.trust, strict=True)]
        note = " (early)" if early else ""
        for index, number in enumerate(classes):
            name = samples.class_name(number)
            score, likely, trusted = map(float, seen[index])
            yield Panel(
                name,
                Tile(shown(images[index].float())),
                caption=f"{name}: logit {score:.1f}, probability {likely:.0%}, trust {trusted:.0%}{note}",
                scalars={"logit": score, "probability": likely, "trust": trusted},
            )

    def state_dict(self) -> dict[str, Any]:
        """Keep the images, to go on from them."""
        return {**super().state_dict(), "last": dict(self._last), "age": self._age, "events": self._events}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the images of a checkpoint."""
        super().load_state_dict(state_dict)
        self._last, self._age, self._events = dict(state_dict["last"]), state_dict["age"], state_dict["events"]

    def shared_state(self) -> Any:
        """Tell the images too, to go on from them."""
        return {**super().shared_state(), "last": self._last, "age": self._age, "events": self._events}

    def load_shared_state(self, told: Any) -> None:
        """Go on from the images that another process has made."""
        super().load_shared_state(told)
        self._last.update(told["last"])
        self._age, self._events = told["age"], told["events"]

    def _plan(self, moment: Moment, *, known: bool) -> _Plan:
        """Decide how an event goes; from images that are known it can go on."""
        # Hardly anything of the first images would be true of the network a little later.
        hasty = _is_early(moment) and self._events < _HASTY_EVENTS
        fresh = hasty or not (known and self.warm_start) or self._age % self.restart_every == 0
        # A training that makes its first images late has a budget to keep to, or was told so.
        late = moment.stage == "fit" and self._events == 0
        steps = self.fresh_steps if fresh and not (hasty or late) else self.steps
        if _is_early(moment) and moment.epoch == 0:
            # Of an untrained network no image is worth many steps.
            steps = max(steps // 4, 1)
        return _Plan(hasty, fresh, steps)

    def _chosen(self, event: Event) -> list[int]:
        known = max(event.trace.logits.shape[1], 2)
        count = min(self.count, known)
        if isinstance(self.classes, tuple):
            return [class_index(wanted, event.samples.class_names) for wanted in self.classes]
        if self.classes == "rotating":
            return sorted((self._events * count + offset) % known for offset in range(count))
        if self.classes == "worst":
            return self._worst(event, known)[:count]
        return list(range(min(10, known)))

    def _worst(self, event: Event, known: int) -> list[int]:
        images, labels = self.real_images(event)
        with torch.no_grad():
            found = torch.cat(
                [
                    part
                    for _, part in in_chunks(
                        lambda items: probabilities(logits_of(event.model, images[items])),
                        len(images),
                        pixels=pixels_of(images),
                        device=images.device,
                    )
                ]
            )
        own = found.gather(1, labels.clamp_min(0)[:, None])[:, 0]
        # Classes of which no image was seen come last.
        means = [own[labels == index].mean().nan_to_num(2.0) for index in range(known)]
        return torch.stack(means).argsort(stable=True).tolist()


def _check_classes(name: str, value: Any) -> Literal["rotating", "worst"] | tuple[int | str, ...]:
    if isinstance(value, str) and value in ("rotating", "worst"):
        return cast('Literal["rotating", "worst"]', value)
    return checks.several(name, value, checks.class_spec, "'rotating', 'worst' or a list of classes")


def _is_early(moment: Moment) -> bool:
    return moment.stage == "fit" and moment.epoch <= _EARLY
