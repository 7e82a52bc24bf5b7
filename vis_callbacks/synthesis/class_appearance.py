"""The image that a class's logit loves most."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vis_callbacks.callback import SharedOptions, VisualizationCallback
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.event import Event
from vis_callbacks.model.classifier import logits_of, probabilities, resolve_targets, target_scores
from vis_callbacks.model.normalization import Normalization
from vis_callbacks.model.undisturbed import leaves_no_trace
from vis_callbacks.panel import Panel, Tile
from vis_callbacks.synthesis.ascent import Goal, OptimizerFactory, SchedulerFactory
from vis_callbacks.synthesis.objectives import logit
from vis_callbacks.synthesis.priors import FeatureStatistics
from vis_callbacks.synthesis.recipes import Recipe
from vis_callbacks.synthesis.statistics import ImageStatistics
from vis_callbacks.synthesis.synthesis import synthesise
from vis_callbacks.targets import class_index

if TYPE_CHECKING:
    from typing_extensions import Unpack


@leaves_no_trace
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
        recipe: "best", "simonyan", "timm-vis", "l1", "l2", "regularised", "fourier", "maco", or your own `Recipe`.
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
    wanted = torch.as_tensor([classes] if isinstance(classes, int) else classes, dtype=torch.long).flatten()
    made = synthesise(
        model,
        logit(wanted),
        len(wanted),
        image_size=image_size,
        recipe=recipe,
        steps=steps,
        decay=decay,
        normalization=normalization,
        init=init,
        optimizer=optimizer,
        scheduler=scheduler,
        goal=None if min_probability is None else Goal(wanted, min_probability),
        image_statistics=image_statistics,
        feature_statistics=feature_statistics,
        seed=seed,
        what="class appearance",
        progress=progress,
    )
    return made.pixels


class ClassAppearance(VisualizationCallback):
    """Shows the image that each class's logit loves most, and continues it from epoch to epoch.

    Args:
        classes: Classes by number or name. None: the first ten.
        steps: Steps of the optimizer in each event.
        image_size: An int, ``(H, W)`` or ``(C, H, W)``. None: that of the samples.
        recipe: See `class_appearance`.
        decay: Weight of ‖I‖². None: the recipe's.
        optimizer: From parameters to a torch optimizer. None: the recipe's.
        warm_start: Whether to go on from the last event's image, also after a resume, or to start anew each time.
        progress: Whether to show progress on stderr when it takes longer than a few seconds.
        options: Shared by all callbacks, see `VisualizationCallback`.
    """

    def __init__(
        self,
        classes: Sequence[int | str] | None = None,
        *,
        steps: int = 64,
        image_size: int | Sequence[int] | None = None,
        recipe: str = "simonyan",
        decay: float | None = None,
        optimizer: OptimizerFactory | None = None,
        warm_start: bool = True,
        progress: bool = True,
        **options: Unpack[SharedOptions],
    ) -> None:
        super().__init__(**options)
        if steps < 1:
            raise ConfigurationError(f"steps={steps}: expected a number from 1")
        self.classes = None if classes is None else tuple(classes)
        self.steps = steps
        self.image_size = image_size
        self.recipe = recipe
        self.decay = decay
        self.optimizer = optimizer
        self.warm_start = warm_start
        self.progress = progress
        self.last: Tensor | None = None

    def check_classes(self, class_names: tuple[str, ...]) -> None:
        """Raise a `ConfigurationError` if a class is not there."""
        super().check_classes(class_names)
        for wanted in self.classes or ():
            class_index(wanted, self.sample_request.class_names or class_names)

    def visualize(self, event: Event) -> Iterable[Panel]:
        """Show one image for each class, with its logit and probability."""
        samples = event.samples
        known = max(event.trace.logits.shape[1], 2)
        wanted = self.classes if self.classes is not None else range(min(known, 10))
        classes = [class_index(one, samples.class_names) for one in wanted]
        images = class_appearance(
            event.model,
            classes,
            image_size=tuple(samples.images.shape[1:]) if self.image_size is None else self.image_size,
            steps=self.steps,
            recipe=self.recipe,
            decay=self.decay,
            normalization=samples.normalization,
            init=self.last if self.warm_start else None,
            optimizer=self.optimizer,
            seed=event.seed,
            progress=self.progress,
        )
        self.last = images.cpu()
        with torch.no_grad():
            logits = logits_of(event.model, samples.normalization.to_model(images))
        targets = resolve_targets(torch.tensor(classes), logits)
        scores = target_scores(logits, targets)
        likely = probabilities(logits).gather(1, targets[:, None])[:, 0]
        for index, number in enumerate(classes):
            name = samples.class_name(number)
            yield Panel(
                name,
                Tile(images[index, :3] if images.shape[1] > 3 else images[index]),
                caption=f"{name}: logit {scores[index]:.1f}, probability {likely[index]:.0%}",
                scalars={"logit": float(scores[index]), "probability": float(likely[index])},
            )

    def state_dict(self) -> dict[str, Any]:
        """Keep the images, to go on from them."""
        return {**super().state_dict(), "last": self.last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the images of a checkpoint."""
        super().load_state_dict(state_dict)
        self.last = state_dict["last"]
