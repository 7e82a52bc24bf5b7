"""Adversarial examples: small changes of images that make the network predict another class."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from vis_callbacks import checks
from vis_callbacks.callback import SharedOptions
from vis_callbacks.data.normalization import Normalization
from vis_callbacks.data.samples import displayable
from vis_callbacks.data.targets import choose_targets, class_index
from vis_callbacks.event import Event
from vis_callbacks.model import Meaning, guarded, likelihoods_of, outputs_of, resolve_targets, seen_meaning
from vis_callbacks.panel import Panel, Tile
from vis_callbacks.synthesis.callback import SynthesisCallback
from vis_callbacks.synthesis.optimization.generate import normalization_for
from vis_callbacks.synthesis.optimization.image_statistics import ImageStatistics
from vis_callbacks.synthesis.optimization.loop import Goal, Method, OptimizerFactory, SchedulerFactory, ascend
from vis_callbacks.synthesis.optimization.objectives import logit
from vis_callbacks.synthesis.optimization.parameterizations import ImageSpec, NearPixels
from vis_callbacks.synthesis.optimization.recipes import stepwise


class Fooled(NamedTuple):
    """The result of `fool`: images changed until the network predicts another class.

    Attributes:
        images: ``(N, C, H, W)`` float32 in model space, within the bounds and in [0, 1] as pixels.
        probabilities: The target's probability after rounding the image to 8 bit, ``(N,)`` in [0, 1].
        steps: Steps taken, ``(N,)`` long.
        distance: L2 norm of the change, ``(N,)`` in pixel units.
        largest: Largest change of a pixel, ``(N,)`` in pixel units.
    """

    images: Tensor
    probabilities: Tensor
    steps: Tensor
    distance: Tensor
    largest: Tensor


@guarded
def fool(
    model: nn.Module,
    images: Tensor,
    targets: int | Sequence[int] | Tensor,
    *,
    min_probability: float = 0.9,
    steps: int = 500,
    linf: float | None = None,
    l2: float | None = None,
    normalization: Normalization | None = None,
    optimizer: OptimizerFactory | None = None,
    scheduler: SchedulerFactory | None = None,
    meaning: Meaning = "classes",
    progress: bool = True,
) -> Fooled:
    """Change images slightly until the model gives another class a high probability.

    Gradient ascent on the target's logit from the image itself (Szegedy et al., "Intriguing properties of neural
    networks", arXiv 1312.6199), with timm-vis's learning rate of 0.5, multiplied by 0.8 every 100 steps. An image is
    done only if its probability holds after rounding to 8 bit, as in a file.

    Args:
        model: From images to logits.
        images: ``(N, C, H, W)`` float, in the model's input space.
        targets: One class for all images, or one per image.
        min_probability: Probability that the target has to exceed, in [0, 1].
        steps: Largest number of steps, each with one forward and one backward pass.
        linf: Largest change of any pixel, in pixel units (8/255 is common). None: no bound.
        l2: Largest L2 norm of the change, in pixel units. None: no bound.
        normalization: Between pixels and the model's input. None: found from the model, else identity.
        optimizer: From parameters, which are in model space, to a torch optimizer. None: SGD.
        scheduler: From the optimizer and the number of steps to a learning rate schedule. None: as above.
        meaning: What the outputs mean; several that the model puts through a sigmoid are ``"labels"`` anyway.
        progress: Whether to show a progress bar on stderr once it takes longer than a few seconds.

    Returns:
        `Fooled`. Where the steps did not suffice, the probability is at most `min_probability`.

    Raises:
        ConfigurationError: If there is no such class, or a bound is not above 0.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
        >>> fooled = fool(model, torch.rand(1, 3, 2, 2), 4, steps=10, linf=0.1)
        >>> bool(fooled.largest <= 0.1 + 1e-6)
        True
    """
    for label, bound in (("linf", linf), ("l2", l2)):
        checks.optional(_check_bound, label, bound)
    normalization = normalization_for(model, images.shape[1], normalization)
    start = normalization.to_pixels(images.detach().float()).clamp(0, 1)
    with torch.no_grad():
        found = outputs_of(model, images)
    goals = resolve_targets(_as_targets(targets), found.logits)
    meaning = seen_meaning(meaning, found.through, found.logits.shape[1])

    def probability_in_8_bit(pixels: Tensor) -> Tensor:
        with torch.no_grad():
            likely = likelihoods_of(model, normalization.to_model((pixels * 255).round() / 255), meaning)[1]
        return likely.gather(1, goals[:, None])[:, 0]

    generator = torch.Generator().manual_seed(0)
    count, channels, height, width = start.shape
    spec = ImageSpec(
        (count, channels, height, width), normalization, ImageStatistics(channels), generator, start.device, start
    )
    made = ascend(
        model,
        NearPixels(spec, start, linf=linf, l2=l2),
        logit(goals),
        Method(steps, optimizer or partial(torch.optim.SGD, lr=0.5), scheduler or partial(stepwise, gamma=0.8)),
        normalization=normalization,
        generator=generator,
        goal=Goal(goals, min_probability, lambda pixels: probability_in_8_bit(pixels) > min_probability, meaning),
        what="fooling",
        progress=progress,
    )
    change = (made.pixels - start).flatten(1)
    return Fooled(
        normalization.to_model(made.pixels),
        probability_in_8_bit(made.pixels),
        made.steps,
        change.norm(dim=1),
        change.abs().amax(dim=1),
    )


def _check_bound(name: str, value: Any) -> float:
    return checks.number(name, value, 0, above=True, what="a number of pixel units")


def _as_targets(targets: int | Sequence[int] | Tensor) -> Tensor | int:
    return targets if isinstance(targets, int) else torch.as_tensor(targets, dtype=torch.long)


class FoolModel(SynthesisCallback):
    """Shows samples changed slightly until the network predicts another class, and the size of the change.

    Read it for how near another class is, from epoch to epoch; few steps and small changes are usual, not a fault.

    Steps and distance are logged as curves: a network that is harder to fool needs more of both.

    Args:
        target: The class to predict, by number or name. None: for each sample the class after its own.
        min_probability: Probability that the target has to exceed, in [0, 1].
        linf: Largest change of any pixel, in pixel units. None: no bound.
        l2: Largest L2 norm of the change, in pixel units. None: no bound.
        steps: Largest number of steps, each with one forward and one backward pass.
        optimizer: From parameters to a torch optimizer. None: see `fool`.
        progress: Whether to show a progress bar on stderr once it takes longer than a few seconds.
        options: Shared by all callbacks, see `VisualizationCallback`; `samples` is 4 unless given.
    """

    split = "samples"
    learns_from_images = False

    def __init__(
        self,
        target: int | str | None = None,
        *,
        min_probability: float = 0.9,
        linf: float | None = None,
        l2: float | None = None,
        steps: int = 100,
        optimizer: OptimizerFactory | None = None,
        progress: bool = True,
        **options: Unpack[SharedOptions],
    ) -> None:
        # Each sample needs many passes.
        options.setdefault("samples", 4)
        super().__init__(steps=steps, optimizer=optimizer, progress=progress, **options)
        self.target = checks.optional(checks.class_spec, "target", target)
        self.min_probability = checks.number("min_probability", min_probability, 0, 1)
        self.linf = checks.optional(_check_bound, "linf", linf)
        self.l2 = checks.optional(_check_bound, "l2", l2)

    def check_classes(self, class_names: tuple[str, ...]) -> None:
        """Raise a `ConfigurationError` if the target is unknown."""
        super().check_classes(class_names)
        if self.target is not None:
            class_index(self.target, self.sample_request.class_names or class_names)

    def visualize(self, event: Event) -> Iterable[Panel]:
        """Show each sample, the changed image, and the change amplified."""
        event.check_classes()
        samples = self.small_samples(event)
        own = choose_targets("label", samples, event.trace.logits)
        goals = (own + 1) % max(event.trace.logits.shape[1], 2)
        if self.target is not None:
            goals = torch.full_like(own, class_index(self.target, samples.class_names))
        made = fool(
            event.model,
            samples.images,
            goals,
            min_probability=self.min_probability,
            steps=self.steps,
            linf=self.linf,
            l2=self.l2,
            normalization=samples.normalization,
            optimizer=self.optimizer,
            meaning=event.meaning,
            progress=self.shows_progress,
        )
        before = samples.normalization.to_pixels(samples.images.float()).clamp(0, 1)
        after = samples.normalization.to_pixels(made.images).clamp(0, 1)
        note = self.size_note(event)
        for index in range(len(samples)):
            name, likely = samples.class_name(int(goals[index])), float(made.probabilities[index])
            steps, distance, largest = int(made.steps[index]), float(made.distance[index]), float(made.largest[index])
            times = 0.5 / max(largest, 1e-6)
            end = ("" if likely > self.min_probability else ", not fooled") + note
            panel = event.sample_panel(
                index,
                Tile(samples.displayable(after[index]), caption=f"{name} {likely:.0%}"),
                Tile(
                    displayable(after[index] - before[index], samples.bands),
                    "signed",
                    caption=f"change × {times:.0f}",
                    limit=largest or None,
                ),
                caption=f"{name}: {steps} steps, distance {distance:.2f}, largest change {largest * 255:.1f}/255{end}",
            )
            yield replace(panel, scalars={"steps": steps, "distance": distance, "target_probability": likely})
