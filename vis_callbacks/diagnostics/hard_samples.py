"""Hard samples: the images that the network gets wrong, forgets, or never settles on."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from vis_callbacks import checks
from vis_callbacks.callback import SharedOptions, VisualizationCallback
from vis_callbacks.data.samples import Samples
from vis_callbacks.diagnostics.answer_history import AnswerHistory, HardSample, image_keys
from vis_callbacks.diagnostics.answer_watch import AnswerWatch
from vis_callbacks.diagnostics.gallery import Gallery
from vis_callbacks.event import Event
from vis_callbacks.model.subject import Subject
from vis_callbacks.panel import Panel, Tile

_WIDTH, _STRIP = 144, 24  # pixels of a picture, and of the strip below it
_GREEN, _RED, _PALE = (
    np.array(colour, np.float32)[:, None, None] for colour in ((0.10, 0.50, 0.22), (0.78, 0.16, 0.16), (0.9, 0.9, 0.9))
)
_PAIRS = 3
_ACROSS = 4
_STRIP_TEXT = "bars: probability of the label in each pass, green where it was right"


class HardSamples(VisualizationCallback):
    """Shows the images that the network gets most confidently wrong, finds hardest, forgets, or never settles on.

    The answers are those of the run's own steps: no image goes through the network once more. Below each image stands
    its history, a bar for each pass: the probability of its label, green where the answer was right. The hardest are
    those with the smallest mean margin, among which wrong labels gather. Pairs of classes that are taken for each other
    are shown with images of both.

    An image is known again by its pixels as they come from the loader. Where augmentation makes other pixels of it each
    time, only the last answers are shown. Of several processes the first one tells what it has seen. Where an image has
    several labels, or none, nothing is shown.

    Pleiss et al., "Identifying Mislabeled Data using the Area Under the Margin Ranking", 2020, arXiv:2001.10528;
    Toneva et al., "An Empirical Study of Example Forgetting", 2019, arXiv:1812.05159.

    Args:
        images: How many images of each kind.
        options: Shared by all callbacks, see `VisualizationCallback`.

    Raises:
        ConfigurationError: If an option has a wrong value.

    Example:
        >>> HardSamples().hardest()
        []
    """

    def __init__(self, images: int = 16, **options: Unpack[SharedOptions]) -> None:
        super().__init__(**options)
        self.images = checks.whole("images", images)
        self._histories = _histories()
        self._galleries = _galleries()
        self._watch = AnswerWatch(self.sample_request.batch_to_images)
        self._part = -1
        self._keys: Tensor | None = None

    def hardest(self, count: int = 100, *, stage: Literal["train", "validation"] = "train") -> list[HardSample]:
        """Return the hardest images of a set, the hardest first; `image_keys` gives the keys of a data set's images.

        Args:
            count: How many at most.
            stage: Of which set.
        """
        history = self._histories[checks.one_of("stage", stage, Literal["train", "validation"])]
        history.fold()
        return history.hardest(count)

    # What the run tells of the training.

    def training_starts(self, module: nn.Module, optimized: frozenset[int]) -> None:
        """Look at another network."""
        del module, optimized
        self._watch = AnswerWatch(self.sample_request.batch_to_images)

    def batch_starts(
        self, stage: str, epoch: int, part: int, module: nn.Module, batch: Any, subject: Subject | None
    ) -> None:
        """Look at a batch, which the step may change."""
        del epoch
        self._keys = None
        if stage in self._histories:
            found = self._watch.start(stage, module, batch, subject)
            if found is not None:
                self._part, self._keys = part, image_keys(found.images, found.labels)

    def batch_ends(self, stage: str, module: nn.Module, outputs: Any, optimized: Callable[[], frozenset[int]]) -> None:
        """Note the answers."""
        del module, outputs, optimized
        found, keys = self._watch.end(stage), self._keys
        if found is not None and keys is not None:
            batch, logits = found
            scores = self._histories[stage].add(self._part, keys, batch.labels, logits)
            self._galleries[stage].add(keys, scores, batch.images)

    def training_ends(self, epoch: int) -> None:
        """There is nothing left to say."""

    def stop_watching(self) -> None:
        """Take the hook from the network."""
        self._watch.stop()

    # What makes the pictures.

    def visualize(self, event: Event) -> Iterable[Panel]:
        """Show each kind of each set in one panel."""
        if event.moment.stage != "fit" or not event.moment.epoch:
            return
        for stage, name in (("train", "training"), ("validation", "validation")):
            history, gallery = self._histories[stage], self._galleries[stage]
            history.fold()
            gallery.fold()
            if len(history):
                yield from self._panels(name, history, gallery, event.samples)

    def restart(self) -> None:
        """Forget the images of an earlier run."""
        super().restart()
        self._histories, self._galleries = _histories(), _galleries()

    def state_dict(self) -> dict[str, Any]:
        """Keep what is known of the images."""
        return {**super().state_dict(), "histories": {name: one.state_dict() for name, one in self._histories.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with what is known of the images."""
        super().load_state_dict(state_dict)
        for name, one in self._histories.items():
            one.load_state_dict(state_dict["histories"][name])

    def _panels(self, name: str, history: AnswerHistory, gallery: Gallery, samples: Samples) -> Iterator[Panel]:
        most = 4 * self.images
        kinds = {"confident": history.confident(most)}
        if history.followed:
            kinds = {"hardest": history.hardest(most), "forgotten": history.forgotten(most), **kinds}
            kinds["unsettled"] = history.unsettled(most)
        pairs = history.confused(_PAIRS)
        taken = [[history.taken_for(*pair, 2 * _ACROSS) for pair in ((a, b), (b, a))] for a, b, _ in pairs]
        gallery.keep(one.key for kind in (*kinds.values(), *(half for both in taken for half in both)) for one in kind)
        count = len(history)
        says = {
            "hardest": f"{name}: smallest mean margin of {count:,} images, where wrong labels gather",
            "forgotten": f"{name}: was right, is wrong; {history.now_forgotten:,} of {count:,} images",
            "confident": f"{name}: wrong with the most confidence in the last pass",
            "unsettled": f"{name}: right and wrong in turn",
        }
        if not history.followed:
            says["confident"] += "; its images differ in each pass, so they have no history"
        numbers = {"hardest": {"never right": history.never_right}, "forgotten": {"forgotten": history.now_forgotten}}
        for kind, found in kinds.items():
            tiles = _tiles(found, self.images, gallery, samples)
            if tiles:
                yield Panel(
                    f"{name}-{kind}",
                    tiles,
                    columns=min(len(tiles), _ACROSS),
                    captions_inside=True,
                    caption=f"{says[kind]}. Label → answer; {_STRIP_TEXT}",
                    scalars={what: float(value) for what, value in numbers.get(kind, {}).items()},
                )
        rows, told = [], []
        for (a, b, times), both in zip(pairs, taken, strict=True):
            for half in both:
                row = _tiles(half, _ACROSS, gallery, samples)
                rows += [*row, *[_blank(one) for one in row[:1]] * (_ACROSS - len(row))]
            told.append(f"{samples.class_name(a)} and {samples.class_name(b)} ({times} times)")
        if rows:
            caption = f"{name}: taken for each other most: {', '.join(told)}. Label → answer"
            yield Panel(f"{name}-confused", rows, columns=_ACROSS, captions_inside=True, caption=caption)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without what belongs to one training in one process."""
        watch = AnswerWatch(self.sample_request.batch_to_images)
        return {**super().__getstate__(), "_galleries": _galleries(), "_watch": watch, "_keys": None}


def _histories() -> dict[str, AnswerHistory]:
    return {"train": AnswerHistory(), "validation": AnswerHistory()}


def _galleries() -> dict[str, Gallery]:
    return {"train": Gallery(), "validation": Gallery()}


def _tiles(found: Iterable[HardSample], count: int, gallery: Gallery, samples: Samples) -> list[Tile]:
    """Return up to `count` images, of those that there is a picture of."""
    tiles = (_tile(one, gallery, samples) for one in found)
    return list(islice((tile for tile in tiles if tile is not None), count))


def _tile(one: HardSample, gallery: Gallery, samples: Samples) -> Tile | None:
    """Return an image with its history below; None if there is no picture of it yet."""
    image = gallery[one.key]
    if image is None:
        return None
    pixels = samples.displayable(samples.normalization.to_pixels(image)).expand(3, -1, -1)
    enlarged = max(1, _WIDTH // pixels.shape[-1])
    picture = pixels.repeat_interleave(enlarged, 1).repeat_interleave(enlarged, 2)
    strip = history_strip(one.history, one.right, picture.shape[-1])
    caption = f"{samples.class_name(one.label)} → {samples.class_name(one.answer)} ({one.confidence:.0%})"
    return Tile(torch.cat([picture, torch.ones(3, 3, picture.shape[-1]), strip], dim=1), caption=caption)


def _blank(like: Tile) -> Tile:
    return Tile(torch.ones_like(like.values))


def history_strip(history: Sequence[float | None], right: Sequence[bool], width: int) -> Tensor:
    """Return bars ``(3, 24, width)``, one for each pass: how likely the label was, green where it was right.

    Example:
        >>> history_strip([0.1, None, 0.9], [False, False, True], 30).shape
        torch.Size([3, 24, 30])
    """
    strip = np.ones((3, _STRIP, width), np.float32)
    ends = [round(width * at / len(history)) for at in range(len(history) + 1)]
    for start, end, likely, was_right in zip(ends, ends[1:], history, right, strict=False):
        if likely is not None:
            stop = max(start + 1, end - 1)
            strip[:, :, start:stop] = _PALE
            strip[:, _STRIP - max(2, round(_STRIP * likely)) :, start:stop] = _GREEN if was_right else _RED
    return torch.from_numpy(strip)
