"""Class appearance: images that maximise the logit of a class."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from vis_callbacks import checks
from vis_callbacks.callback import SharedOptions
from vis_callbacks.data.normalization import Normalization
from vis_callbacks.data.samples import Samples
from vis_callbacks.data.targets import class_index
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.event import Event, Moment
from vis_callbacks.model import (
    Meaning,
    device_of,
    guarded,
    in_chunks,
    in_small_chunks,
    likelihoods_of,
    outputs_of,
    pixels_of,
    seen_meaning,
)
from vis_callbacks.panel import Panel, Tile
from vis_callbacks.synthesis.callback import SynthesisCallback
from vis_callbacks.synthesis.optimization.feature_prior import FeatureStatistics
from vis_callbacks.synthesis.optimization.generate import generate, image_shape
from vis_callbacks.synthesis.optimization.image_statistics import ImageStatistics
from vis_callbacks.synthesis.optimization.loop import Goal, OptimizerFactory, SchedulerFactory
from vis_callbacks.synthesis.optimization.objectives import logit
from vis_callbacks.synthesis.optimization.recipes import Recipe, find_recipe
from vis_callbacks.synthesis.optimization.robustness import Robustness, robustness

_EARLY = 1
"""Last epoch whose images are marked as early."""

_PROVISIONAL_EVENTS = 2
"""Early events whose images get few steps, and from which no later event continues."""

_ROBUST = 0.73
"""From this robustness on, other networks mostly recognise an image."""

_RETRY_FROM = 256
"""With fewer steps, nothing is reserved for new attempts."""

_MIN_RETRY_STEPS = 64
"""With fewer steps, a new attempt is not worth it."""

_SEED_STRIDE = 100_003
"""Difference of the seeds of groups of classes; more than there are events."""

_WORST_POOL = 256
"""Number of real images by which the worst classes are found."""


@guarded
def class_appearance(
    model: nn.Module,
    classes: int | Sequence[int] | Tensor,
    *,
    image_size: int | Sequence[int] | None = None,
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
    meaning: Meaning = "classes",
    progress: bool = True,
) -> Tensor:
    """Make one image per class that maximises the class's logit, all in one batch and in eval mode.

    ``recipe="simonyan"`` is argmax of S_c(I) - decay ‖I‖², where S_c is the class's logit and I the model's input
    (Simonyan et al., "Deep inside convolutional networks", arXiv 1312.6034). The other recipes get better images from
    the same logit by another parameterization, by random transforms and by regularizers. ``"best"``, the default, fixes
    the energy of frequency bands to that of natural images, transforms views and resolutions at random, and keeps
    features close to the statistics that BatchNorm has recorded.

    Args:
        model: From images ``(N, C, H, W)`` to logits ``(N, K)``.
        classes: One class index, or one per image.
        image_size: An int, ``(H, W)`` or ``(C, H, W)``. None: what the model states, as timm's do.
        steps: Steps of the optimizer, each with one forward and one backward pass. None: the recipe's.
        recipe: "best", "draft" for a few dozen steps, "persistent", "simonyan", "timm-vis", "l1", "l2", "regularised",
            "fourier", "maco", or your own `Recipe`. "persistent" is "best" with new attempts: from 256 steps on it
            reserves a fifth of the passes for images of low robustness. They start again with other seeds, and the
            most robust image is returned.
        decay: Weight of ‖I‖², in place of the recipe's own penalty. None: the recipe's.
        normalization: From pixels to the model's input. None: found from the model, else identity.
        init: Images in [0, 1] to start from, ``(C, H, W)`` or one per class. None: the recipe's own start.
        optimizer: From parameters to a torch optimizer. None: the recipe's.
        scheduler: From the optimizer and the number of steps to a learning rate schedule. None: the recipe's.
        min_probability: Stop an image as soon as its class's probability exceeds this, in [0, 1]. None: never.
        image_statistics: Statistics of real images, for the recipes that use them. None: those of photographs.
        feature_statistics: Statistics of the model's features of real images, see `collect_statistics`; for models
            without BatchNorm. None: BatchNorm's.
        seed: Seed of all random numbers.
        meaning: What the outputs mean; several that the model puts through a sigmoid are ``"labels"`` anyway.
        progress: Whether to show a progress bar on stderr once it takes longer than a few seconds.

    Returns:
        ``(len(classes), C, H, W)`` float32 in [0, 1].

    Raises:
        ConfigurationError: If a class, a size, the recipe or `init` is wrong.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5))
        >>> class_appearance(model, [0, 4], image_size=8, steps=4).shape
        torch.Size([2, 3, 8, 8])
    """
    try:
        wanted = torch.as_tensor([classes] if isinstance(classes, int) else classes, dtype=torch.long).flatten()
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"classes={classes!r}: expected class numbers") from error
    if min_probability is not None:
        with torch.no_grad():
            found = outputs_of(model, torch.zeros(1, *image_shape(model, image_size), device=device_of(model)))
        meaning = seen_meaning(meaning, found.through, found.logits.shape[1])
    chosen = find_recipe(recipe)
    full = chosen.steps if steps is None else steps
    spare = int(full * chosen.retry_share)
    if init is not None or min_probability is not None or full < _RETRY_FROM or spare * len(wanted) < _MIN_RETRY_STEPS:
        spare = 0

    def make(targets: Tensor, steps: int, seed: int) -> Tensor:
        return generate(
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
            goal=None if min_probability is None else Goal(targets, min_probability, meaning=meaning),
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
    score = robustness(model, made, wanted, normalization=normalization, meaning=meaning).score
    while True:
        low = (score < _ROBUST).nonzero()[:, 0]
        steps = min(full - spare, passes // max(len(low), 1))
        if not len(low) or steps < _MIN_RETRY_STEPS:
            return made
        passes -= steps * len(low)
        seed += 1
        targets = wanted[low.cpu()]
        again = make(targets, steps, seed)
        new_score = robustness(model, again, targets, normalization=normalization, meaning=meaning).score
        better = new_score > score[low]
        made[low[better]], score[low[better]] = again[better], new_score[better]


class _Plan(NamedTuple):
    """How an event makes its images.

    Attributes:
        provisional: Whether no later event continues from these images.
        fresh: Whether they start from noise, not from the last event's images.
        steps: Steps of the optimizer.
    """

    provisional: bool
    fresh: bool
    steps: int


class ClassAppearance(SynthesisCallback):
    """Shows images that maximise the logit of each class, and continues them from one event to the next.

    Read it for what the network has learned of a class; a low trust means that the image fools the network.

    The caption of an image gives the class's logit, its probability, and the image's trust, the mean probability when
    the image is blurred, gray or downsampled. Images of the first epochs mean little and are marked as early:
    BatchNorm's statistics still lag behind the weights.

    Args:
        classes: Classes by number or name; ``"rotating"`` for other classes at each event, ``"worst"`` for those whose
            real images have the lowest probability. None: all, up to the first ten.
        count: Number of classes if rotating or worst.
        steps: Steps of the optimizer in an event that continues the last images, and in the first events of training;
            the untrained network gets a quarter.
        fresh_steps: Steps in any other event that starts from noise.
        restart_every: Start from noise every this many events, so that what the network has forgotten vanishes.
        recipe: See `class_appearance`.
        decay: Weight of ‖I‖². None: the recipe's.
        warm_start: Whether to continue the last event's images, also after a resume. False: start from noise each time.
        image_size: An int, ``(H, W)`` or ``(C, H, W)``. None: the size of the samples, but at most 512 on the longer
            side if the model takes smaller images.
        optimizer: From parameters to a torch optimizer. None: the recipe's.
        progress: Whether to show a progress bar on stderr once it takes longer than a few seconds.
        options: Shared by all callbacks, see `VisualizationCallback`.

    Raises:
        ConfigurationError: If an argument has a wrong value.
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
            self._pool_size = _WORST_POOL
            self._pool = self._new_pool()
        self._events = 0
        # Events that contributed to the last images; 0: the next event must not continue them.
        self._age = 0
        self._last: dict[int, Tensor] = {}

    def check_classes(self, class_names: tuple[str, ...]) -> None:
        """Raise a `ConfigurationError` if a class is unknown."""
        super().check_classes(class_names)
        if isinstance(self.classes, tuple):
            for wanted in self.classes:
                class_index(wanted, self.sample_request.class_names or class_names)

    def passes(self, moment: Moment, samples: Samples) -> int:
        """Return the number of passes: one per step and class."""
        count = self.count if isinstance(self.classes, str) else len(self.classes or samples.class_names[:10]) or 10
        return self.at_size(self._plan(moment, known=bool(self._last)).steps * count, samples)

    def visualize(self, event: Event) -> Iterable[Panel]:
        """Show one image per class, with its logit, probability and robustness."""
        event.check_classes()
        samples, moment = event.samples, event.moment
        classes = event.share.of(self._chosen(event))
        if not classes:
            return
        early = _is_early(moment)
        provisional, fresh, steps = self._plan(moment, known=all(index in self._last for index in classes))
        image_statistics, feature_statistics = self.image_statistics(event), self.feature_statistics(event)

        def make(items: Tensor) -> tuple[Tensor, Robustness]:
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
                # Other transforms than in the last event, and other noise for each group of classes: with one seed
                # all groups would start from the same image.
                seed=event.seed + self._events + _SEED_STRIDE * wanted[0],
                meaning=event.meaning,
                progress=self.shows_progress,
            )
            scores = robustness(
                event.model,
                made,
                torch.tensor(wanted),
                normalization=samples.normalization,
                meaning=event.meaning,
            )
            # Half precision is finer than 8 bit, and keeps checkpoints small.
            return made.half().cpu(), scores

        pixels = math.prod(image_shape(event.model, self.size(event))[1:])
        parts = [part for _, part in in_small_chunks(make, len(classes), pixels=pixels, device=samples.images.device)]
        images = torch.cat([made for made, _ in parts])
        self._events += 1
        self._age = 0 if provisional else 1 if fresh else self._age + 1
        self._last = dict(zip(classes, images, strict=True))
        rows = [row for _, one in parts for row in zip(one.logits, one.probabilities, one.score, strict=True)]
        note = self.size_note(event) + (" (early)" if early else "")
        for index, number in enumerate(classes):
            name = samples.class_name(number)
            score, probability, trust = map(float, rows[index])
            yield Panel(
                name,
                Tile(samples.displayable(images[index].float())),
                caption=f"{name}: logit {score:.1f}, probability {probability:.0%}, trust {trust:.0%}{note}",
                scalars={"logit": score, "probability": probability, "trust": trust},
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with the last images."""
        return {**super().state_dict(), "last": dict(self._last), "age": self._age, "events": self._events}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the last images of a checkpoint."""
        super().load_state_dict(state_dict)
        self._last, self._age, self._events = dict(state_dict["last"]), state_dict["age"], state_dict["events"]

    def shared_state(self) -> Any:
        """Return what other processes need, with the last images."""
        return {**super().shared_state(), "last": self._last, "age": self._age, "events": self._events}

    def load_shared_state(self, state: Any) -> None:
        """Take over the images that another process has made."""
        super().load_shared_state(state)
        self._last.update(state["last"])
        self._age, self._events = state["age"], state["events"]

    def _plan(self, moment: Moment, *, known: bool) -> _Plan:
        """Decide how an event makes its images; `known`: whether each class has an image to continue."""
        # The first images say hardly anything about the network a little later.
        provisional = _is_early(moment) and self._events < _PROVISIONAL_EVENTS
        fresh = provisional or not (known and self.warm_start) or self._age % self.restart_every == 0
        # If the first event of training comes late, a budget or schedule asks for little work.
        late = moment.stage == "fit" and self._events == 0
        steps = self.fresh_steps if fresh and not (provisional or late) else self.steps
        if _is_early(moment) and moment.epoch == 0:
            # No image of an untrained network is worth many steps.
            steps = max(steps // 4, 1)
        return _Plan(provisional, fresh, steps)

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
                        lambda items: likelihoods_of(event.model, images[items], event.meaning)[1],
                        len(images),
                        pixels=pixels_of(images),
                        device=images.device,
                    )
                ]
            )
        own = found.gather(1, labels.clamp_min(0)[:, None])[:, 0]
        # Classes without a real image come last.
        means = [own[labels == index].mean().nan_to_num(2.0) for index in range(known)]
        return torch.stack(means).argsort(stable=True).tolist()


def _check_classes(name: str, value: Any) -> Literal["rotating", "worst"] | tuple[int | str, ...]:
    if isinstance(value, str) and value in ("rotating", "worst"):
        return cast('Literal["rotating", "worst"]', value)
    return checks.several(name, value, checks.class_spec, "'rotating', 'worst' or a list of classes")


def _is_early(moment: Moment) -> bool:
    return moment.stage == "fit" and moment.epoch <= _EARLY
