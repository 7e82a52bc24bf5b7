"""The plain numbers by which the checks judge a training: measured apart, so that each judgement is a pure function."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

LayerKind = Literal["BatchNorm", "Dropout"]

_LOSSES = 4  # steps whose losses must agree


@dataclass(frozen=True)
class StageFacts:
    """What passed by in one epoch of training or validation.

    Attributes:
        confusion: Answers by label: row for the label, column for the answer. Empty: the answers are not known.
        entropy: Of the labels, in nats.
        cross_entropy: Mean over the second half of the epoch.
        doubted: Answers that deny the label with confidence (the first two probabilities differ by more than a half).
        second: How many of these have the label as their second choice.
        images: How many images were measured.
        means: Mean of each channel.
        spread: Standard deviation over the images of their channel means.
        ends: The least and the greatest value of some images added: to invert them is to subtract from it.
        contrast: Root mean square of the images' standard deviations.
        constant: How many of the images have a single colour.
        flat: Of each channel, how many images have a single value in it.
        gray: Share of some images whose channels are all alike, but for contrast and brightness.
        broken: How many images hold NaN or infinity; the numbers above are of the others.
        labels: How often each class was the label.
        tail: Share of right answers in the last quarter of the epoch, and how many answers that are.
    """

    confusion: tuple[tuple[int, ...], ...] = ()
    entropy: float = 0.0
    cross_entropy: float | None = None
    doubted: int = 0
    second: int = 0
    images: int = 0
    means: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()
    ends: float = 0.0
    contrast: float = 0.0
    constant: int = 0
    flat: tuple[int, ...] = ()
    gray: float = 0.0
    broken: int = 0
    labels: tuple[int, ...] = ()
    tail: tuple[float, int] = (0.0, 0)

    @property
    def answers(self) -> int:
        """How many answers are known."""
        return sum(map(sum, self.confusion))

    @property
    def right(self) -> int:
        """How many of them are right."""
        return sum(row[number] for number, row in enumerate(self.confusion))

    @property
    def accuracy(self) -> float:
        """Share of right answers; 0 if none is known."""
        return self.right / max(1, self.answers)

    @property
    def by_chance(self) -> float:
        """Share that would be right if labels and answers, each as frequent as they are, had nothing in common."""
        columns = zip(*self.confusion, strict=True)
        both = sum(sum(row) * sum(column) for row, column in zip(self.confusion, columns, strict=True))
        return float(both) / max(1, self.answers) ** 2


def gap_between(train: StageFacts, validation: StageFacts | None) -> float:
    """Return the share of right answers by which training is better, at the end of its epoch; 0 if unknown."""
    if validation is None or not validation.answers or not train.tail[1]:
        return 0.0
    return train.tail[0] - validation.accuracy


@dataclass(frozen=True)
class WeightFacts:
    """One parameter.

    Attributes:
        name: Its name.
        count: How many numbers it has.
        dimensions: How many axes.
        trainable: Whether it wants gradients.
        optimized: Whether an optimizer has it.
        changed: Whether any bit differs from the start of the training.
        had_gradient: Whether a gradient was ever seen.
        growth: Its norm as a multiple of that at the start. None: it was zero, or all but zero.
        finite: Whether all numbers are.
        virgin: Whether it is surely untouched since initialisation, as norm layers of ones are, or surely not. None: it
            may be.
    """

    name: str
    count: int
    dimensions: int
    trainable: bool
    optimized: bool
    changed: bool
    had_gradient: bool
    growth: float | None
    finite: bool
    virgin: bool | None


def are_virgin(weights: Sequence[WeightFacts]) -> bool:
    """Whether weights are surely untouched since initialisation: some surely are, and none has surely learned.

    Training leaves no norm layer at ones and zeros, so one tells for those beside it that may be either. Of kernels
    most numbers must look untouched, as a small one may by chance.
    """
    if any(one.virgin is False for one in weights):
        return False
    if any(one.virgin for one in weights if one.dimensions < 2):
        return True
    kernels = [one for one in weights if one.dimensions >= 2]
    return 2 * sum(one.count for one in kernels if one.virgin) > sum(one.count for one in kernels)


@dataclass(frozen=True)
class LayerFacts:
    """How many channels of a layer give the same for all images and at all places."""

    name: str
    channels: int
    dead: int
    convolutional: bool


@dataclass(frozen=True)
class LayerMode:
    """How a layer that works otherwise in training was found in a step.

    Attributes:
        name: Its name.
        kind: ``"BatchNorm"`` or ``"Dropout"``.
        training: Whether it was in training mode.
        trained: Whether weights of it, or beside it, are trained.
    """

    name: str
    kind: LayerKind
    training: bool
    trained: bool


@dataclass(frozen=True)
class OrderFacts:
    """In which order the labels of an epoch of training came.

    Attributes:
        images: How many labels there were.
        batches: In how many batches.
        present: Of how many classes.
        runs: How many runs of one class they made.
        random_runs: How many they would make in random order.
        share: How often images of two batches have the same class; of batches one to sixteen apart, the most.
        random_share: How often they would in random order.
    """

    images: int
    batches: int
    present: int
    runs: int
    random_runs: float
    share: float
    random_share: float

    @property
    def kept(self) -> float:
        """How much more often than in random order batches share classes: 0 as often, 1 always."""
        return (self.share - self.random_share) / max(1 - self.random_share, 1e-6)


@dataclass(frozen=True)
class FirstStep:
    """One of the first steps: are the outputs probabilities, and which function of them is the loss?

    Attributes:
        probabilities: Whether all rows of outputs lie in [0, 1] and sum to 1.
        plain: Relative distance of the loss to the cross entropy of the outputs.
        twice: Relative distance of the loss to the cross entropy of softmax(outputs).
        smoothing: The smoothing of labels with which the loss is the cross entropy of the outputs.
        smoothing_twice: The same of softmax(outputs).
    """

    probabilities: bool
    plain: float
    twice: float
    smoothing: float = 0.0
    smoothing_twice: float = 0.0


@dataclass(frozen=True)
class LossFacts:
    """Which functions the loss of a step takes.

    Attributes:
        twice: ``"softmax"`` or ``"sigmoid"``, if the loss takes it of what is one already; else "".
        likelihood_of: What ``nll_loss`` gets that is no log-probability: ``"logits"`` or ``"probabilities"``; else "".
    """

    twice: str = ""
    likelihood_of: str = ""


@dataclass(frozen=True)
class PlaceFacts:
    """How well a part of small copies of the training images tells their class by itself.

    Attributes:
        right: Right answers of a rule that sees only the part.
        tried: How many images were tried.
        box: The part, as shares of width and height: left, top, right, bottom.
        marked: The class that a mark in the part tells, or classes; empty if none does.
        marks: How many of its images have it.
        of_class: How many images of this class were looked at.
        elsewhere: How many of other classes have it.
        repeated: Whether the mark is the same to the bit; else the rule knows the class by it.
        beyond: How well most other parts, or guessing, tell the classes: share of right answers, or of a single class
            the F1 score.
        share: Share of the margin that is lost where the part is pasted from another class, 99 % lower bound. None: it
            was not tried.
    """

    right: int = 0
    tried: int = 0
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    marked: tuple[int, ...] = ()
    marks: int = 0
    of_class: int = 0
    elsewhere: int = 0
    repeated: bool = True
    beyond: float = 0.0
    share: float | None = None

    @property
    def score(self) -> float:
        """How well the mark tells its class, as an F1 score."""
        return 2 * self.marks / max(1, self.of_class + self.marks + self.elsewhere)


@dataclass(frozen=True)
class RepairFacts:
    """What changes if validation images are shown in another way.

    Attributes:
        name: The way, in words.
        better: Images that are right only this way.
        worse: Images that are right only as they come.
        tried: How many were tried.
        wrong: How many of these are wrong as they come.
        classes: Of how many classes `better` are.
        channels: Whether this way has the channels in another order.
    """

    name: str
    better: int
    worse: int
    tried: int
    wrong: int = 0
    classes: int = 0
    channels: bool = False

    @property
    def gain(self) -> float:
        """Share of images by which more are right this way."""
        return (self.better - self.worse) / max(1, self.tried)

    @property
    def mended(self) -> float:
        """Share of the wrong images that are right this way."""
        return self.better / max(1, self.wrong)

    @property
    def kept(self) -> float:
        """Share of the right images that are right this way too."""
        return 1 - self.worse / max(1, self.tried - self.wrong)


@dataclass(frozen=True)
class Facts:
    """All numbers of one event.

    Attributes:
        epoch: The epoch that has just ended.
        steps: Steps of training so far.
        classes: Names of the classes.
        train: What passed by in training.
        validation: What passed by in validation. None: there is none.
        cross_entropy_before: That of training at the event before. None: this is the first.
        weights: The parameters.
        layers: The layers whose channels were looked at.
        first_steps: The first steps of the training.
        losses: Which functions the losses of the first steps take.
        order: In which order the labels of training came. None: there were none.
        modes: The BatchNorm and Dropout layers as they were found in a step of each stage.
        place: The best window.
        border: The outermost ring.
        repairs: Validation images shown in other ways.
        reordered: The same with the channels in the order that fits those of training. None: it is the same, or was not
            tried.
        batch_statistics: The same with BatchNorm in training mode. None: there is no BatchNorm, or it was not tried.
        remembered: The largest share that running statistics still hold of their start.
        leaked: How many validation images were seen in training.
        keyed: How many validation images were compared.
        near: How many of some validation images are all but the same as one of some training images.
        near_asked: How many of these there were.
    """

    epoch: int
    steps: int
    classes: tuple[str, ...]
    train: StageFacts = field(default_factory=StageFacts)
    validation: StageFacts | None = None
    cross_entropy_before: float | None = None
    weights: Sequence[WeightFacts] = ()
    layers: Sequence[LayerFacts] = ()
    first_steps: Sequence[FirstStep] = ()
    losses: Sequence[LossFacts] = ()
    order: OrderFacts | None = None
    modes: Mapping[str, Sequence[LayerMode]] = field(default_factory=dict)
    place: PlaceFacts = field(default_factory=PlaceFacts)
    border: PlaceFacts = field(default_factory=PlaceFacts)
    repairs: Sequence[RepairFacts] = ()
    reordered: RepairFacts | None = None
    batch_statistics: RepairFacts | None = None
    remembered: float = 0.0
    leaked: int = 0
    keyed: int = 0
    near: int = 0
    near_asked: int = 0

    @property
    def loss(self) -> LossFacts:
        """What the losses of the first steps have in common; nothing where there are too few to tell."""
        if len(self.losses) < _LOSSES:
            return LossFacts()
        twice, likelihoods = ({getattr(one, what) for one in self.losses} for what in ("twice", "likelihood_of"))
        return LossFacts(*(found.pop() if len(found) == 1 else "" for found in (twice, likelihoods)))

    @property
    def gap(self) -> float:
        """Share of right answers by which training is better than validation, see `gap_between`."""
        return gap_between(self.train, self.validation)

    def share_of(self, weights: Sequence[WeightFacts]) -> float:
        """Return the share of all weights that some are."""
        return sum(one.count for one in weights) / max(1, sum(one.count for one in self.weights))

    def told(self, weights: Sequence[WeightFacts]) -> str:
        """Return the beginning of a sentence about some weights; not of all where a small head is none of them."""
        share = self.share_of(weights)
        shown = "All" if share == 1 else f"{min(share, 0.99):.0%}"
        return f"{shown} of the weights, from {weights[0].name} on,"

    def name(self, number: int) -> str:
        """Return the name of a class."""
        return self.classes[number] if number < len(self.classes) else str(number)

    @property
    def stages(self) -> Mapping[str, StageFacts]:
        """Training, and validation if there is any."""
        return {"training": self.train, **({"validation": self.validation} if self.validation is not None else {})}
