"""One moment at which pictures are made, as a technique sees it."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial, reduce
from operator import or_
from typing import TypeVar

import torch
from torch import Tensor, nn

from vis_callbacks.data.samples import Samples
from vis_callbacks.data.targets import TargetSpec, choose_targets
from vis_callbacks.errors import ConfigurationError, SubjectError
from vis_callbacks.model.attention import UNREAD, AttentionReads
from vis_callbacks.model.batching import CPU_PIXELS, in_chunks, in_small_chunks, pixels_of
from vis_callbacks.model.classifier import probabilities
from vis_callbacks.model.feature_info import AtStride, LayerChoice
from vis_callbacks.model.features import feature_info, find_layout, trace_layer_choices
from vis_callbacks.model.layout import Layout
from vis_callbacks.model.meaning import Meaning, seen_meaning
from vis_callbacks.model.subject import Subject
from vis_callbacks.model.trace import Trace, joined
from vis_callbacks.panel import Panel, Tile

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """This process's share of work that several processes divide.

    Attributes:
        rank: Number of this process, from 0.
        count: Number of processes.

    Example:
        >>> [Share(rank, 2).of(["a", "b", "c"]) for rank in range(2)]
        [['a'], ['b', 'c']]
    """

    rank: int = 0
    count: int = 1

    def slice(self, items: int) -> slice:
        """Return which of `items` items are this process's: consecutive ones, in the order of the processes."""
        return slice(items * self.rank // self.count, items * (self.rank + 1) // self.count)

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process's items."""
        return items[self.slice(len(items))]


@dataclass(frozen=True)
class Needs:
    """What a technique reads from the pass that all techniques of an event share.

    Attributes:
        input_gradient: Whether it reads the gradient at the images.
        activations: Layers whose outputs it reads, by full name or as a choice, see `LayerChoice`.
        gradients: Layers whose outputs and gradients it reads.
        attention: What it reads of the attention.
    """

    input_gradient: bool = False
    activations: tuple[LayerChoice, ...] = ()
    gradients: tuple[LayerChoice, ...] = ()
    attention: AttentionReads = UNREAD


class SharedPass:
    """The one forward and one backward that techniques with the same samples and targets share.

    It runs when the first of them reads `trace`, and never if none does.

    Args:
        model: From images to logits, undisturbed.
        samples: The images, on the model's device.
        targets: The logits that are differentiated.
        clock: Called with the number of images; returns a context manager that times the pass.
        fitting: Pixels (images x height x width) that are known to fit into memory at once.
        chunk_size: Images that go through the model at once; None: as many as fit.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: Samples,
        targets: TargetSpec,
        clock: Callable[[int], AbstractContextManager[object]] = nullcontext,
        fitting: int = CPU_PIXELS,
        chunk_size: int | None = None,
    ) -> None:
        self._model = model
        self.samples = samples
        self._targets = targets
        self._clock = clock
        self._fitting = fitting
        self._chunk_size = chunk_size
        self._needs: list[Needs] = []
        self._layouts: dict[str | AtStride | None, Layout] = {}
        self._meaning: Meaning = "classes"
        self._likeliest: tuple[Tensor, Meaning, tuple[list[int], list[float]]] | None = None
        # The passes of single techniques, where that of all failed.
        self._alone: dict[Needs, Trace | Exception] | None = None

    def add(self, needs: Needs, subject: Subject | None = None) -> None:
        """Ask for something, before anybody reads the pass, of a network whose outputs mean what the subject says."""
        self._needs.append(needs)
        if subject is not None:
            self._meaning = subject.meaning
            if self.samples.class_names and not subject.takes_names(len(self.samples.class_names)):
                # A name would be that of another class.
                self.samples = dataclasses.replace(self.samples, class_names=())

    def release(self, needs: Needs) -> None:
        """Stop asking for something. When nobody asks any more, activations and gradients are freed."""
        self._needs.remove(needs)
        if "trace" in vars(self) and all(others == Needs() for others in self._needs):
            self.trace = dataclasses.replace(
                self.trace, input_gradient=None, activations={}, gradients={}, attention=()
            )
        if self._alone is not None and needs != Needs() and needs not in self._needs:
            self._alone.pop(needs, None)

    def part(self, items: Tensor) -> "SharedPass":
        """Return the pass of the samples with the numbers `items` ``(n,)``."""
        if len(items) == len(self.samples):
            return self
        part = SharedPass(
            self._model, self.samples.at(items), self._targets, self._clock, self._fitting, self._chunk_size
        )
        part._needs, part._meaning, part._layouts = self._needs, self._meaning, self._layouts
        part._alone = None if self._alone is None else {}
        return part

    def again(self, targets: Tensor) -> "SharedPass":
        """Return a pass of its own over the same samples, that nobody has asked for anything, for targets ``(N,)``."""
        samples = dataclasses.replace(self.samples, labels=targets.to(self.samples.labels.device), truths=None)
        again = SharedPass(self._model, samples, "label", fitting=self._fitting, chunk_size=self._chunk_size)
        again._meaning = self._meaning
        return again

    @cached_property
    def trace(self) -> Trace:
        """The result of the pass. Where more images are not known to fit, large ones go through it one by one."""
        return self._run(self._needs)

    def trace_for(self, needs: Needs) -> Trace:
        """Return the pass of all techniques, or if it fails, one that has only what one of them needs."""
        if self._alone is None:
            try:
                return self.trace
            except Exception:
                if all(others == needs for others in self._needs):
                    raise
                self._alone = {}
        if needs not in self._alone:
            try:
                self._alone[needs] = self._run([needs])
            except Exception as error:
                # Without its frames, which hold the tensors of the pass.
                self._alone[needs] = error.with_traceback(None)
        found = self._alone[needs]
        if isinstance(found, Exception):
            raise found
        return found

    def likeliest(self, logits: Tensor, meaning: Meaning) -> tuple[list[int], list[float]]:
        """Return the likeliest class of each sample, and its probability: worked out once for all panels."""
        if self._likeliest is None or self._likeliest[0] is not logits or self._likeliest[1] != meaning:
            likely = probabilities(logits, meaning).cpu()
            best = likely.argmax(dim=1)
            told = best.tolist(), likely.gather(1, best[:, None])[:, 0].tolist()
            self._likeliest = logits, meaning, told
        return self._likeliest[2]

    def layout(self, layer: str | AtStride | None) -> Layout:
        """Return how the output of a layer becomes a map, see `Event.layout`."""
        if layer not in self._layouts:
            # To see whether what is known of the layers still holds takes a walk over all modules: once for each event.
            self._layouts[layer] = find_layout(self._model, self.samples.images, layer)
        return self._layouts[layer]

    def _run(self, needs: Sequence[Needs]) -> Trace:
        images = self.samples.images
        pieces = in_small_chunks(
            partial(self._pass_of, needs),
            len(images),
            pixels=pixels_of(images),
            device=images.device,
            fitting=self._fitting,
            chunk_size=self._chunk_size,
        )
        with self._clock(len(images)):
            return dataclasses.replace(joined([seen for _, seen in pieces]), images=images)

    def _pass_of(self, needs: Sequence[Needs], items: Tensor) -> Trace:
        samples = self.part(items).samples
        return trace_layer_choices(
            self._model,
            samples.images,
            partial(choose_targets, self._targets, samples, meaning=self._meaning),
            input_gradient=any(one.input_gradient for one in needs),
            activations=_union(one.activations for one in needs),
            gradients=_union(one.gradients for one in needs),
            attention=reduce(or_, (one.attention for one in needs), UNREAD),
        )


@dataclass(frozen=True)
class Moment:
    """A point of a run.

    Attributes:
        epoch: 0 before training, then the number of the epoch that is running or has just ended.
        step: The x-axis value of the metrics logged at this moment.
        stage: ``"fit"``, ``"validate"`` or ``"test"``.
    """

    epoch: int
    step: int
    stage: str = "fit"


@dataclass(frozen=True)
class Event:
    """One moment at which pictures are made.

    The model is in eval mode and its parameters are frozen; every change to either is undone afterwards.

    Attributes:
        model: From images ``(N, C, H, W)`` to logits; on the training device.
        moment: Epoch, step and stage.
        seed: Seed for everything random; the global generators are already seeded with it.
        shared: The pass that is shared with other techniques; None for a callback without samples.
        first: Number of the first of these samples, if other processes have the ones before.
        share: This process's share of the work; all of it, unless the callback sets `split`.
        subject: What the model is in the user's module, and what its outputs mean.
        needs: What the technique asked for.
    """

    model: nn.Module
    moment: Moment
    seed: int = 0
    shared: SharedPass | None = None
    first: int = 0
    share: Share = field(default_factory=Share)
    subject: Subject = field(default_factory=Subject)
    needs: Needs = field(default_factory=Needs)

    @property
    def samples(self) -> Samples:
        """The fixed samples, on the model's device."""
        return self._pass.samples

    @property
    def trace(self) -> Trace:
        """Logits, and what the techniques of this event asked for in `needs`, from one forward and one backward."""
        return self._pass.trace_for(self.needs)

    @property
    def meaning(self) -> Meaning:
        """What the outputs mean, as far as the subject and the pass tell."""
        return seen_meaning(self.subject.meaning, self.trace.through, self.trace.logits.shape[1])

    def layout(self, layer: str | AtStride | None) -> Layout:
        """Return how the output of a layer becomes a map. All events show the same layer.

        Args:
            layer: A layer's name, or the last of a stride. None: the last layer that has a map and that the
                logits depend on.

        Raises:
            LayerError: If the layer has no map.
        """
        # The shared pass collects what is known about the layers, so that no other pass has to.
        self._try_pass()
        return self._pass.layout(layer)

    def layouts_across_depth(self, count: int) -> list[Layout]:
        """Return how the outputs of up to `count` layers become maps, from shallow to deep.

        Raises:
            LayerError: If no layer has a map.
        """
        self._try_pass()
        found = feature_info(self.model, self.samples.images)
        return [found.layout(name) for name in found.across_depth(count)]

    def in_pieces(self, work: Callable[["Event"], Tensor]) -> Tensor:
        """Return the output of `work` for all samples ``(N, ...)``, computed in smaller pieces if memory runs out."""

        def piece(items: Tensor) -> Tensor:
            return work(self if self.shared is None else dataclasses.replace(self, shared=self.shared.part(items)))

        count = len(self.samples)
        return torch.cat([found for _, found in in_chunks(piece, count, pixels=1, chunk_size=count)])

    def again(self, targets: Tensor) -> "Event":
        """Return this event with a pass of its own, which runs anew where the model was changed.

        Args:
            targets: The logits that are differentiated, ``(N,)``.
        """
        shared = self._pass.again(targets)
        shared.add(self.needs)
        return dataclasses.replace(self, shared=shared)

    def prediction(self, index: int) -> tuple[str, float | None]:
        """Return the name of the class predicted for a sample, and its probability in [0, 1].

        Where the outputs are no classes it is what they are, such as ``output 23.4``, without a probability.
        """
        logits, meaning = self.trace.logits, self.meaning
        if meaning == "value":
            return f"output {_listed(logits[index])}", None
        best, likely = self._pass.likeliest(logits, meaning)
        return self.output_name(best[index]), None if meaning == "embedding" else likely[index]

    def check_classes(self) -> None:
        """Raise a `SubjectError`, whose sentence is told once for all, if no output is known to be a class."""
        if self.subject.problem:
            raise SubjectError(self.subject.problem)
        if not self.subject.predicts:
            count, kind = self.trace.logits.shape[1], type(self.model).__name__
            what = f"{count} features" if self.subject.meaning == "embedding" else "a number"
            if self.subject.meaning == "value" and count > 1:
                what = f"{count} numbers"
            raise SubjectError(
                f"{kind} gives {what}, not classes: there are no class images and no adversarial images; set forward= "
                "if something else returns logits"
            )

    def output_name(self, number: int) -> str:
        """Return the name of a class, or of an output that is none; "" if there is but one value."""
        if self.meaning == "value":
            return "" if self.trace.logits.shape[1] == 1 else f"output {number}"
        return f"feature {number}" if self.meaning == "embedding" else self.samples.class_name(number)

    def sample_panel(self, index: int, *tiles: Tile, columns: int | None = None, caption: str = "") -> Panel:
        """Return a panel that shows a sample, then tiles, with its label, prediction and probability.

        Without classes, or where the subject has a problem, there is no prediction, and so no verdict.

        Args:
            index: The sample's number in `samples`.
            tiles: What to show beside it.
            columns: Tiles per row, including the sample. None: all in one row.
            caption: One line about the whole panel.
        """
        predicted, probability = self.prediction(index)
        samples, label, right = self.samples, self.samples.label(index), None
        if self.meaning == "value":
            label = None if samples.values is None else f"value {_listed(samples.values[index].reshape(-1))}"
            caption = ", ".join(filter(None, (predicted, caption)))
        elif self.meaning == "labels" and samples.truths is not None:
            true = [samples.class_name(number) for number in samples.truths[index].nonzero()[:, 0].tolist()]
            label, right = " + ".join(true) or "none", predicted in true
        verdict = self.subject.predicts and self.meaning not in ("value", "embedding")
        return Panel(
            self.samples.names[index],
            (Tile(self.samples.pixels[index]), *tiles),
            columns=columns,
            caption=caption,
            sample=self.first + index,
            label=label,
            predicted=predicted if verdict else None,
            probability=probability if verdict else None,
            right=right if verdict else None,
            content=samples.contents[index],
        )

    def _try_pass(self) -> None:
        # Why it fails is reported to whoever reads it; without it the layers are found by a pass of their own.
        with suppress(Exception):
            _ = self.trace

    @property
    def _pass(self) -> SharedPass:
        if self.shared is None:
            raise ConfigurationError("this callback sets uses_samples = False and then reads samples: set it to True")
        return self.shared


def _listed(values: Tensor, most: int = 4) -> str:
    shown = ", ".join(f"{value:.4g}" for value in values[:most].tolist())
    return shown + (", …" if len(values) > most else "")


def _union(choices: Iterable[tuple[LayerChoice, ...]]) -> list[LayerChoice]:
    return list(dict.fromkeys(choice for group in choices for choice in group))
