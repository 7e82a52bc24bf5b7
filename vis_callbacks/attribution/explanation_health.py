"""Explanation health: how far a training's maps can be trusted, from epoch to epoch."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from vis_callbacks import checks
from vis_callbacks.attribution.callback import AttributionCallback
from vis_callbacks.attribution.faithfulness import deletion_and_insertion, rank_correlation, shuffled_output_layer
from vis_callbacks.attribution.grad_cam import GradCAM
from vis_callbacks.callback import SharedOptions, VisualizationCallback
from vis_callbacks.data.samples import Samples
from vis_callbacks.event import Event, Moment, Needs
from vis_callbacks.model.batching import in_chunks
from vis_callbacks.model.classifier import probabilities
from vis_callbacks.panel import Panel, Tile

_STEPS = 5
_SETTLED = 0.95  # rank correlation with the maps of the last event
_ALIKE = 0.8  # rank correlation with the maps of a shuffled output layer


class ExplanationHealth(VisualizationCallback):
    """Shows how far maps can be trusted: whether they find what the answer hangs on, and depend on what was learned.

    Read it for when maps begin to say something, and when they stop changing; it judges the maps, not the network.

    Below each other stand a sample, its map, and its map with the weights of the output layer shuffled: where the two
    are alike, the map does not show what was learned of the classes (Adebayo et al., 2018). *Deletion* and *insertion*
    are the mean probability of the target while pixels are blurred, or come back, in the order of the map (Petsiuk et
    al., 2018). *Change* is 1 less the rank correlation with the last event's maps, *dependence* 1 less that with the
    maps of the shuffled layer.

    Args:
        technique: Whose maps. None: `GradCAM`. Its own samples, targets and schedule do not count.
        options: Shared by all callbacks, see `VisualizationCallback`.

    Raises:
        ConfigurationError: If an option has a wrong value.

    Example:
        >>> from vis_callbacks import Saliency
        >>> ExplanationHealth(Saliency(), samples=4).technique.name
        'Saliency'
    """

    def __init__(self, technique: AttributionCallback | None = None, **options: Unpack[SharedOptions]) -> None:
        super().__init__(**options)
        self.technique = GradCAM() if technique is None else technique
        if not isinstance(self.technique, AttributionCallback):
            raise checks.refused("technique", technique, "an attribution callback such as GradCAM()")
        self._before: Tensor | None = None
        self._of = ""

    def check(self, model: nn.Module) -> None:
        """Check the options of the technique."""
        super().check(model)
        self.technique.check(model)

    def needs(self, event: Event) -> Needs:
        """What the technique needs."""
        return self.technique.needs(event)

    def passes(self, moment: Moment, samples: Samples) -> int:
        """Return how many images go through the network."""
        return len(samples) * 2 * (_STEPS + 1) + 2 * self.technique.passes(moment, samples)

    def visualize(self, event: Event) -> Iterable[Panel]:
        """Show the samples with both maps in one panel."""
        if event.meaning in ("value", "embedding"):
            return []
        images, targets = event.samples.images, event.trace.targets.reshape(len(event.samples), -1)[:, 0]
        maps = self._maps(event)
        deletion, insertion = self._curves(event, images, maps.to(images.device), targets)
        numbers = {"deletion": deletion, "insertion": insertion}
        with shuffled_output_layer(event.model, event.trace.logits.shape[1], self.seed) as layer:
            shuffled = self._maps(event.again(targets)) if layer else None
        if shuffled is not None:
            numbers["dependence"] = 1 - float(rank_correlation(maps, shuffled).mean())
        pooled, of = nn.functional.adaptive_avg_pool2d(maps, 28), " ".join(map(str, event.samples.contents))
        if self._before is not None and self._of == of:
            numbers["change"] = 1 - float(rank_correlation(pooled, self._before).mean())
        self._before, self._of = pooled, of
        names = [event.output_name(int(target)) for target in targets]
        return [self._panel(event.samples.pixels, names, maps, shuffled, numbers, layer)]

    def state_dict(self) -> dict[str, Any]:
        """Keep the maps, to see whether they change."""
        return {**super().state_dict(), "before": self._before, "of": self._of}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the maps of a checkpoint."""
        super().load_state_dict(state_dict)
        self._before, self._of = state_dict["before"], state_dict["of"]

    def _maps(self, event: Event) -> Tensor:
        """Return maps of one channel ``(N, 1, H, W)``."""
        maps = event.in_pieces(lambda piece: self.technique.attribute(piece).detach().float().cpu())
        return maps.sum(dim=1, keepdim=True)

    def _curves(self, event: Event, images: Tensor, maps: Tensor, targets: Tensor) -> tuple[float, float]:
        meaning, places = event.meaning, torch.arange(len(images), device=images.device)

        def score(mixed: Tensor) -> Tensor:
            with torch.no_grad():
                pieces = in_chunks(
                    lambda items: event.model(mixed[items.to(mixed.device)]),
                    len(mixed),
                    pixels=mixed[0, 0].numel(),
                    device=mixed.device,
                )
                logits = torch.cat([found for _, found in pieces])
            return probabilities(logits.float(), meaning)[places, targets]

        deletion, insertion = deletion_and_insertion(score, images, maps, _STEPS)
        return float(deletion.mean()), float(insertion.mean())

    def _panel(
        self,
        pixels: Tensor,
        names: list[str],
        maps: Tensor,
        shuffled: Tensor | None,
        numbers: dict[str, float],
        layer: str,
    ) -> Panel:
        technique = self.technique
        rows = [[Tile(one, caption=name) for one, name in zip(pixels, names, strict=True)]]
        for caption, values in (("map", maps), ("shuffled", shuffled)):
            if values is not None:
                shown = technique.tiles(values, pixels, technique.default_display)
                rows.append([dataclasses.replace(tile, caption=caption) for tile in shown])
        said = [f"{technique.name}: deletion {numbers['deletion']:.2f}, insertion {numbers['insertion']:.2f}"]
        if numbers["deletion"] >= numbers["insertion"]:
            said.append("what the maps put first counts no more than the rest: do not read them yet")
        if "dependence" in numbers and 1 - numbers["dependence"] > _ALIKE:
            said.append(f"the maps look alike with the weights of {layer} shuffled: they show little of the classes")
        if "change" in numbers:
            settled = 1 - numbers["change"] > _SETTLED
            said.append("settled since the last event" if settled else f"changed by {numbers['change']:.2f}")
        return Panel(
            technique.name,
            [tile for row in rows for tile in row],
            columns=len(pixels),
            caption="; ".join(said),
            scalars=numbers,
            captions_inside=True,
        )
