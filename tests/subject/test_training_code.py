"""Real training code: of each way to write it, what its pictures are of, and what they say."""

from __future__ import annotations

import json
import random
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tests.helpers import tiny
from tests.helpers.techniques import few
from tests.subject import modules
from tests.subject.closed_form import correlation
from tests.training.undisturbed import _fingerprint
from vis_callbacks import ClassAppearance, Event, GradCAM, Report, Saliency, VisualizationWarning
from vis_callbacks.functional import grad_cam

SIDE = 16
NAMES = ("circle", "square", "star", "cross")
ALL = ("GradCAM", "Saliency", "ClassAppearance")
OF_IMAGES = ("GradCAM", "Saliency")


class Rows(Dataset[Any]):
    """Noisy images, sorted by class, with a square whose place and colour say the class.

    Args:
        row: From an image ``(3, 16, 16)`` in [0, 1] and its class to a row.
        classes: Names of the classes; none: the data do not know them.
        seed: Seed of the noise.
    """

    def __init__(
        self,
        row: Callable[[Tensor, int], Any] = lambda image, label: (image, label),
        classes: Sequence[str] = NAMES,
        seed: int = 0,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(16) // 4
        self.images = 0.4 * torch.rand(16, 3, SIDE, SIDE, generator=generator)
        for image, label in zip(self.images, self.labels.tolist(), strict=True):
            top, left = SIDE // 2 * (label // 2), SIDE // 2 * (label % 2)
            image[label % 3 : label % 3 + 1 + label % 2, top : top + SIDE // 2, left : left + SIDE // 2] += 0.5
        self.row = row
        if classes:
            self.classes = list(classes)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.row(self.images[index], int(self.labels[index]))


def softmax(module: Any, batch: Any) -> Tensor:
    """Probabilities of a module whose ``forward`` gives logits."""
    return module(batch[0]).softmax(dim=1)


def one_sigmoid(module: Any, batch: Any) -> Tensor:
    """Probabilities of both classes, where ``forward`` gives that of the second."""
    p = module(batch[0]).flatten()
    return torch.stack([1 - p, p], dim=1)


def one_logit(module: Any, batch: Any) -> Tensor:
    p = module(batch[0]).flatten().sigmoid()
    return torch.stack([1 - p, p], dim=1)


def binary(image: Tensor, label: int) -> Any:
    return image, label % 2


def several_labels(image: Tensor, label: int) -> Any:
    row = torch.zeros(4)
    row[label] = row[(label + 1) % 4] = 1
    return image, row


def meta_tensor(image: Tensor, label: int) -> Any:
    from monai.data import MetaTensor

    return MetaTensor(image, meta={"filename": "a"}), label


@dataclass(frozen=True)
class Case:
    """A way to write training code, and what is true of it.

    Attributes:
        make: The module.
        data: From a seed to the rows.
        network: Dotted name of the network that is shown; None: that is not said here.
        meaning: What its outputs are.
        width: How many there are.
        own: The module's own probabilities ``(N, K)`` for a batch; None: no class is predicted.
        names: Names of the classes as they are shown.
        same: The same network without what stands in the way of seeing it (another output, ``no_grad``, a sigmoid):
            the class activation map is that of it.
        forward: The option.
        says: A pattern of the one warning; "": there is none.
        or_asks: Whether one sentence that names ``forward=``, and no verdict, is right too.
        shown: The callbacks that make pictures; None: that is not said here.
        needs: A package without which the case is skipped.
        slow: Whether it is tried in the long run only.
        trainer: Options of the Trainer.
        before: Callbacks before ours.
        after: Callbacks after ours.
    """

    make: Callable[[], Any]
    data: Callable[[int], Dataset[Any]] = lambda seed: Rows(seed=seed)
    network: str | None = ""
    meaning: str = "classes"
    width: int | None = 4
    own: Callable[[Any, Any], Tensor] | None = softmax
    names: Sequence[str] = NAMES
    same: Callable[[Any], nn.Module] | None = None
    forward: Any = None
    says: str = ""
    or_asks: bool = False
    shown: Sequence[str] | None = ALL
    needs: str = ""
    slow: bool = False
    trainer: Mapping[str, Any] = field(default_factory=dict)
    before: Callable[[], Sequence[Any]] = tuple
    after: Callable[[], Sequence[Any]] = tuple


def rows(row: Callable[[Tensor, int], Any], classes: Sequence[str] = NAMES) -> Callable[[int], Dataset[Any]]:
    return lambda seed: Rows(row, classes, seed)


def part(name: str, finish: Callable[[Tensor], Tensor] = lambda x: x.softmax(dim=1)) -> Callable[[Any, Any], Tensor]:
    """Probabilities of a child of the module."""
    return lambda module, batch: finish(module.get_submodule(name)(batch[0]))


def encoder_and_head(module: Any, images: Tensor) -> Tensor:
    return module.head(module.encoder(images))


def averaging() -> Any:
    """Validation uses the averaged weights, and a fit ends with them."""
    if not hasattr(modules.pl.callbacks, "EMAWeightAveraging"):
        pytest.skip("Lightning averages weights since 2.6")
    return modules.pl.callbacks.EMAWeightAveraging(decay=0.5)


ASK = "forward="
"""What a sentence names where nobody but the user knows."""

CASES = {
    "plain": Case(modules.Plain, same=lambda module: module.model),
    # Section 1: the network.
    "distillation": Case(
        modules.Distillation, network="student", own=part("student"), same=lambda module: module.student
    ),
    "distillation that evaluates both": Case(
        modules.DistillationEvaluatingBoth, network="student", own=part("student"), slow=True
    ),
    "mean teacher": Case(modules.MeanTeacher, network="student", own=part("student"), slow=True),
    "distillation, the teacher wanted": Case(
        modules.Distillation, network="teacher", own=part("teacher"), forward="teacher", slow=True
    ),
    "encoder and head": Case(modules.EncoderAndHead, network=None, own=None, says=ASK, shown=OF_IMAGES),
    "encoder and head, forward=": Case(
        modules.EncoderAndHead,
        own=lambda module, batch: encoder_and_head(module, batch[0]).softmax(dim=1),
        forward=encoder_and_head,
        same=lambda module: nn.Sequential(module.encoder, module.head),
    ),
    "encoder and two heads": Case(
        modules.EncoderAndHeads, network=None, own=None, says=ASK, shown=OF_IMAGES, slow=True
    ),
    "encoder and two heads, forward= as an import path": Case(
        modules.EncoderAndHeads,
        own=lambda module, batch: modules.shape_of(module, batch[0]).softmax(dim=1),
        forward="tests.subject.modules.shape_of",
        same=lambda module: nn.Sequential(module.encoder, module.heads["shape"]),
    ),
    "forward of a batch": Case(
        modules.ForwardOfABatch,
        rows(lambda image, label: {"image": image, "label": label}),
        network="model",
        own=lambda module, batch: module(batch).softmax(dim=1),
    ),
    "forward of a loss": Case(
        modules.ForwardOfALoss, network="model", own=part("model"), same=lambda module: module.model
    ),
    "forward of a class": Case(
        modules.ForwardOfAClass, network="model", own=part("model"), same=lambda module: module.model
    ),
    "forward without gradient": Case(
        modules.ForwardWithoutGradient, network="model", own=part("model"), same=lambda module: module.model, slow=True
    ),
    "augmentation and normalization inside": Case(
        modules.AugmentsInside,
        or_asks=True,
        network=None,
        own=lambda module, batch: module.net(module.normalize(batch[0])).softmax(dim=1),
    ),
    "loss and metrics as children": Case(modules.WithMetrics, needs="torchmetrics", slow=True),
    "image and table": Case(
        modules.ImageAndTable,
        rows(lambda image, label: (image, torch.ones(3), label)),
        network=None,
        own=None,
        says=ASK,
        shown=(),
    ),
    "image and table, forward=": Case(
        modules.ImageAndTable,
        rows(lambda image, label: (image, torch.ones(3), label)),
        own=lambda module, batch: module(batch[0], batch[1]).softmax(dim=1),
        forward=lambda module, images: module(images, torch.ones(len(images), 3)),
        slow=True,
    ),
    "siamese": Case(
        modules.Siamese,
        rows(lambda image, label: (image, image.flip(1), float(label % 2))),
        network=None,
        meaning="embedding",
        width=None,
        own=None,
        says="2 images|two images|forward=",
        shown=None,
    ),
    "linear probe": Case(modules.LinearProbe, network=None, own=None, says=ASK, shown=None, slow=True),
    "two networks": Case(modules.CoTeaching, network=None, own=None, says=ASK, shown=None, slow=True),
    "two networks, forward= names one": Case(
        modules.CoTeaching, network="second", own=part("second"), forward="second", slow=True
    ),
    "ensemble": Case(modules.Ensemble, network=None, own=None, says=ASK, shown=None, slow=True),
    "the steps call forward itself": Case(modules.CallsItsForward),
    "a forward that changes the images as the steps do": Case(modules.NormalizesTwice, slow=True),
    "a part of a wrapper that normalizes": Case(
        modules.PartOfAWrapper, network="model", own=part("model"), same=lambda module: module.model
    ),
    "augmented in training": Case(modules.AugmentsInTraining, network="net", own=part("net")),
    "augmented in training, no sanity check": Case(
        modules.AugmentsInTraining, network="net", own=part("net"), trainer={"num_sanity_val_steps": 0}
    ),
    "augmented in training, no validation": Case(
        modules.AugmentsInTraining,
        network=None,
        own=None,
        says="the step changes the images before it calls net; set forward='net' if it only augments them",
        shown=(),
        trainer={"limit_val_batches": 0},
    ),
    "augmented in training, no validation, forward=": Case(
        modules.AugmentsInTraining,
        network="net",
        own=part("net"),
        forward="net",
        trainer={"limit_val_batches": 0},
        slow=True,
    ),
    "soft labels of mixup, no sanity check": Case(modules.Mixup, trainer={"num_sanity_val_steps": 0}, slow=True),
    "resized in the steps": Case(
        modules.ResizesInTheStep,
        network=None,
        own=None,
        says=r"net with \(3, 24, 24\), not with the batch's images \(3, 16, 16\); do all of it in ",
        shown=(),
        slow=True,
    ),
    "features and logits of labels that reach the features": Case(
        lambda: modules.FeaturesAndLogits(outputs=20),
        rows(lambda image, label: (image, label * 5), ()),
        width=20,
        own=lambda module, batch: module(batch[0])[1].softmax(dim=1),
        names=[str(number) for number in range(20)],
        slow=True,
    ),
    "logits and probabilities": Case(modules.LogitsAndProbabilities, own=lambda module, batch: module(batch[0])[1]),
    "images scaled in the steps": Case(
        modules.ScalesInTheStep,
        rows(lambda image, label: (image * 255, label)),
        network=None,
        own=lambda module, batch: module.model(batch[0] / 255).softmax(dim=1),
        or_asks=True,
    ),
    "called in two parts": Case(modules.InTwoParts, network="model", own=part("model"), needs="timm", slow=True),
    "GAN": Case(modules.GAN, network=None, width=None, own=None, says="(?i)forward=|class", shown=OF_IMAGES),
    # Section 2: the output.
    "one sigmoid": Case(
        modules.OneSigmoid,
        rows(binary, ("no", "yes")),
        meaning="binary",
        width=1,
        names=("no", "yes"),
        own=one_sigmoid,
        same=lambda module: module.model,
    ),
    "one sigmoid, squeezed": Case(
        lambda: modules.OneSigmoid(squeezed=True),
        rows(binary, ("no", "yes")),
        meaning="binary",
        width=1,
        names=("no", "yes"),
        own=one_sigmoid,
        same=lambda module: module.model,
        slow=True,
    ),
    "one sigmoid, float labels": Case(
        lambda: modules.OneSigmoid(squeezed=True),
        rows(lambda image, label: (image, float(label % 2)), ("no", "yes")),
        meaning="binary",
        width=1,
        own=one_sigmoid,
        names=("no", "yes"),
    ),
    "one logit": Case(
        modules.OneLogit, rows(binary, ("no", "yes")), meaning="binary", width=1, own=one_logit, names=("no", "yes")
    ),
    "one logit, float labels": Case(
        modules.OneLogit,
        rows(lambda image, label: (image, float(label % 2)), ()),
        meaning="binary",
        width=1,
        own=one_logit,
        names=("0", "1"),
        slow=True,
    ),
    "softmax inside": Case(
        modules.SoftmaxInside, own=lambda module, batch: module(batch[0]), same=lambda module: module.model[:-1]
    ),
    "log-softmax inside": Case(
        modules.LogSoftmaxInside, own=lambda module, batch: module(batch[0]).exp(), same=lambda module: module.model
    ),
    "several labels": Case(
        modules.MultiLabel,
        rows(several_labels),
        meaning="labels",
        own=lambda module, batch: module(batch[0]).sigmoid(),
    ),
    "several labels, sigmoids inside": Case(
        modules.MultiLabelSigmoid,
        rows(several_labels),
        meaning="labels",
        own=lambda module, batch: module(batch[0]),
        same=lambda module: module.model[:-1],
        slow=True,
    ),
    "soft labels of mixup": Case(modules.Mixup, slow=True),
    "features and logits": Case(
        modules.FeaturesAndLogits,
        own=lambda module, batch: module(batch[0])[1].softmax(dim=1),
        same=lambda module: nn.Sequential(module.body, module.fc),
    ),
    "logits and features": Case(
        lambda: modules.FeaturesAndLogits("logits first"),
        own=lambda module, batch: module(batch[0])[0].softmax(dim=1),
        slow=True,
    ),
    "features and logits in a dict": Case(
        lambda: modules.FeaturesAndLogits("dict"),
        own=lambda module, batch: module(batch[0])["out"].softmax(dim=1),
        slow=True,
    ),
    "features and logits, nested": Case(
        lambda: modules.FeaturesAndLogits("nested"),
        own=lambda module, batch: module(batch[0])[1][1]["y"].softmax(dim=1),
    ),
    "features and logits, no names": Case(
        modules.FeaturesAndLogits,
        rows(lambda image, label: (image, label), ()),
        own=lambda module, batch: module(batch[0])[1].softmax(dim=1),
        names=("0", "1", "2", "3"),
    ),
    "two heads, the names tell which": Case(
        modules.TwoHeads,
        own=lambda module, batch: module(batch[0])[1].softmax(dim=1),
        same=lambda module: nn.Sequential(module.body, module.second),
    ),
    "two heads of the same width": Case(
        lambda: modules.TwoHeads(4, 4), network=None, own=None, says=ASK, shown=OF_IMAGES
    ),
    "two heads of the same width, forward=": Case(
        lambda: modules.TwoHeads(4, 4),
        own=lambda module, batch: module(batch[0])[1].softmax(dim=1),
        forward=lambda module, images: module(images)[1],
        slow=True,
    ),
    "embedding with margins": Case(
        modules.ArcFace, meaning="embedding", width=16, own=None, says="16.*4|4.*16", shown=OF_IMAGES
    ),
    "contrastive": Case(modules.Contrastive, meaning="embedding", width=8, own=None, says="8.*4|4.*8", shown=OF_IMAGES),
    "two views": Case(
        modules.TwoViews,
        rows(lambda image, label: ((image, image.flip(2)), label)),
        meaning="embedding",
        width=8,
        own=None,
        says=".",
        shown=None,
    ),
    "regression": Case(
        modules.Regression,
        rows(lambda image, label: (image, 10.0 * label + 0.5), ()),
        meaning="value",
        width=1,
        own=None,
        says="no class images",
        shown=OF_IMAGES,
    ),
    "regression, squeezed": Case(
        lambda: modules.Regression(squeezed=True),
        rows(lambda image, label: (image, 10.0 * label + 0.5), ()),
        meaning="value",
        width=1,
        own=None,
        says="no class images",
        shown=OF_IMAGES,
        slow=True,
    ),
    "regression of whole numbers": Case(
        modules.Regression,
        rows(lambda image, label: (image, 10 * label + 20), ()),
        meaning="value",
        width=1,
        own=None,
        says="no class images",
        shown=OF_IMAGES,
    ),
    "regression of two numbers": Case(
        lambda: modules.Regression(outputs=2),
        rows(lambda image, label: (image, torch.tensor([3.7 * label, 1.2])), ()),
        meaning="value",
        width=2,
        own=None,
        says="no class images",
        shown=OF_IMAGES,
        slow=True,
    ),
    # They may be classes without a name, or features.
    "four names, ten outputs": Case(
        lambda: modules.Plain(modules.conv(outputs=10)), width=10, own=None, says="4.*10|10.*4", shown=None
    ),
    "segmentation": Case(
        modules.Segmentation,
        rows(lambda image, label: (image, torch.full((SIDE, SIDE), label)), ()),
        network=None,
        width=None,
        own=None,
        says=r"\(\d+, 4, 16, 16\)",
        shown=(),
    ),
    "autoencoder": Case(
        modules.Autoencoder, network=None, width=None, own=None, says=r"\(\d+, 3, 16, 16\)", shown=(), slow=True
    ),
    # Sections 3 and 4: the layer and the gradient.
    "frozen backbone under no_grad": Case(
        modules.TransferLearning, same=lambda module: nn.Sequential(module.feature_extractor, module.classifier)
    ),
    "frozen backbone, detached": Case(modules.TransferLearningDetached, says="detach|gradient", shown=None),
    "no convolution": Case(modules.Perceptron, says="no convolution|no layer", shown=("Saliency", "ClassAppearance")),
    "growing": Case(modules.Growing, slow=True),
    # Section 5: the images.
    "dict batches": Case(
        modules.DictBatch,
        rows(lambda image, label: {"image": image, "label": label, "path": "a.png"}),
        own=lambda module, batch: module(batch["image"]).softmax(dim=1),
        slow=True,
    ),
    "transforms on the device": Case(
        modules.OnDevice,
        rows(lambda image, label: ((image * 255).byte(), label)),
        own=lambda module, batch: module(module.prepare(batch[0])).softmax(dim=1),
    ),
    "kornia on the device": Case(
        modules.OnDeviceKornia,
        own=lambda module, batch: module(module.normalize(batch[0])).softmax(dim=1),
        needs="kornia",
        slow=True,
    ),
    "six bands": Case(
        lambda: modules.Plain(modules.conv(channels=6)),
        rows(lambda image, label: (torch.cat([image * 3000, image * 500]), label)),
    ),
    "MetaTensor": Case(modules.Plain, rows(meta_tensor), needs="monai"),
    "bags": Case(
        modules.Bags,
        rows(lambda image, label: (torch.stack([image, image.flip(1), image]), label % 2), ("no", "yes")),
        network=None,
        width=None,
        own=None,
        says=r"\(\d+, 3, 3, 16, 16\)",
        shown=(),
    ),
    "video": Case(
        modules.Video,
        rows(lambda image, label: (torch.stack([image] * 5, dim=1), label)),
        network=None,
        width=None,
        own=None,
        says=r"\(\d+, 3, 5, 16, 16\)",
        shown=(),
    ),
    # How it is trained.
    "averaged weights, before ours": Case(modules.Plain, before=lambda: [averaging()]),
    "averaged weights, after ours": Case(modules.Plain, after=lambda: [averaging()]),
    "manual optimisation, accumulated": Case(modules.ManualAccumulation),
    "accumulation": Case(modules.Plain, trainer={"accumulate_grad_batches": 2}, slow=True),
    "without validation": Case(modules.Plain, trainer={"limit_val_batches": 0}, slow=True),
}
TABLE = [pytest.param(name, marks=[pytest.mark.slow] * case.slow, id=name) for name, case in CASES.items()]


@dataclass(frozen=True)
class Fit:
    """What a training left."""

    module: Any
    folder: Path
    fingerprint: dict[str, str]
    warnings: list[str]

    @property
    def records(self) -> list[dict[str, Any]]:
        return tiny.records(self.folder)

    @property
    def facts(self) -> dict[str, Any]:
        (path,) = self.folder.rglob("visualizations/run.json")
        return json.loads(path.read_text())


def fit(case: Case, ours: Sequence[Any], folder: Path) -> Fit:
    """Train for two tiny epochs."""
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    module = case.make()
    module.seen = []
    trainer = tiny.trainer(folder, [*case.before(), *ours, *case.after()], **case.trainer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(
            module,
            DataLoader(case.data(0), batch_size=4, shuffle=True),
            DataLoader(case.data(1), batch_size=4),
        )
    said = [str(one.message) for one in caught if issubclass(one.category, VisualizationWarning)]
    return Fit(module, folder, dict(_fingerprint(module, trainer, folder)), said)


class KeptGradCAM(GradCAM):
    """Keeps its last maps, and the images that they are of."""

    def attribute(self, event: Event) -> Tensor:
        maps = super().attribute(event)
        if getattr(self, "moment", None) != event.moment:
            self.moment, self.images, self.maps = event.moment, [], []
        self.images += event.samples.images.cpu()
        self.maps += maps.cpu()
        return maps


def callbacks(case: Case) -> list[Any]:
    short = ClassAppearance(samples=2, **few(ClassAppearance.__init__))
    return [
        KeptGradCAM(samples=4, name="GradCAM"),
        Saliency(samples=4),
        short,
        Report(**({"forward": case.forward} if case.forward else {})),
    ]


@pytest.mark.parametrize("name", TABLE)
def test_the_pictures_of_a_training_are_of_the_right_thing_and_change_nothing(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    if case.needs:
        pytest.importorskip(case.needs)
    without = fit(case, [], tmp_path / "without")
    ours = callbacks(case)
    found = fit(case, ours, tmp_path / "with")
    assert found.fingerprint == without.fingerprint
    if case.or_asks and found.warnings:
        case = replace(case, own=None, says=ASK, shown=None, network=None)
    problems = [*_of_warnings(case, found), *_of_subject(case, found), *_of_records(case, found)]
    if case.same is not None:
        problems += _of_maps(case.same(found.module).eval(), ours[0])
    assert not problems, "\n".join(problems)


def _of_warnings(case: Case, found: Fit) -> list[str]:
    problems = [f"a warning of {len(one)} characters: {one}" for one in found.warnings if len(one) >= 300]
    if len(found.warnings) != bool(case.says):
        problems.append(f"{len(found.warnings)} warnings instead of {int(bool(case.says))}: {found.warnings}")
    elif case.says and not re.search(case.says, found.warnings[0]):
        problems.append(f"{found.warnings[0]!r} does not say {case.says!r}")
    return problems


def _of_subject(case: Case, found: Fit) -> list[str]:
    subject = found.facts.get("subject")
    if not subject:
        return ["run.json names no subject"]
    expected = {"network": case.network, "meaning": case.meaning, "width": case.width}
    if case.own is None and subject["problem"]:
        # Without a verdict, the sentence that says why is what counts.
        expected = {}
    problems = [
        f"{what} {subject[what]!r} instead of {value!r}: {subject}"
        for what, value in expected.items()
        if value is not None and subject[what] != value
    ]
    if case.own and subject["problem"]:
        problems.append(f"there is a problem: {subject['problem']}")
    return problems


def _of_maps(same: nn.Module, kept: KeptGradCAM) -> list[str]:
    if not hasattr(kept, "maps"):
        return ["no maps"]
    images, maps = torch.stack(kept.images), torch.stack(kept.maps)
    expected = grad_cam(same, images)
    compared = [(one, other) for one, other in zip(maps, expected, strict=True) if other.any()]
    if not compared:
        return ["nothing to compare: the maps to expect are zero everywhere"]
    worst = min(correlation(one, other) if one.any() else 0.0 for one, other in compared)
    return [] if worst >= 0.99 else [f"a class activation map correlates {worst:.2f} with that of the same network"]


def _of_records(case: Case, found: Fit) -> list[str]:
    last = [record for record in found.records if record["epoch"] == 2 and record["file"]]
    shown = {record["callback"] for record in last}
    problems = (
        []
        if case.shown is None or shown == {*case.shown}
        else [f"pictures of {sorted(shown)} instead of {sorted(case.shown or ())}"]
    )
    samples = [record for record in last if record["sample"] is not None]
    if case.own is None:
        verdicts = [record for record in samples if record["predicted"] or record["probability"] is not None]
        return [*problems, *(f"a verdict: {_facts(record)}" for record in verdicts[:1])]
    own = _own(case, found)
    for record in samples:
        if _facts(record) not in own:
            problems.append(f"{_facts(record)} instead of one of {own}")
            break
    labels, possible = _classes(record["label"] for record in samples), _classes(label for label, _, _ in own)
    if samples and labels != possible:
        problems.append(f"the samples show the classes {sorted(labels)} only")
    return problems


def _facts(record: Mapping[str, Any]) -> tuple[str, str, float]:
    probability = -1.0 if record["probability"] is None else round(record["probability"], 3)
    return record["label"], record["predicted"], probability


def _own(case: Case, found: Fit) -> list[tuple[str, str, float]]:
    """What the module itself says of the images: label, prediction and probability."""
    assert case.own is not None
    module = found.module.eval()
    seed = 0 if case.trainer.get("limit_val_batches") == 0 else 1
    facts = []
    for batch in DataLoader(case.data(seed), batch_size=16):
        labels = batch["label"] if isinstance(batch, dict) else batch[-1]
        with torch.no_grad():
            for row, label in zip(case.own(module, batch), labels, strict=True):
                facts.append((_label(case, label), case.names[int(row.argmax())], round(float(row.max()), 3)))
    return facts


def _classes(labels: Iterable[str | None]) -> set[str]:
    return {one for label in labels for one in str(label).split(" + ")}


def _label(case: Case, label: Tensor) -> str:
    if label.ndim:
        return " + ".join(name for name, one in zip(case.names, label.tolist(), strict=True) if one)
    return case.names[int(label)]


def test_a_verdict_can_be_wrong(tmp_path: Path) -> None:
    """The checks find what they look for: another network's probabilities, and a picture that is missing."""
    case = Case(modules.Plain, own=lambda module, batch: module(batch[0] * 0).softmax(dim=1), shown=("Fool",))
    problems = _of_records(case, fit(case, callbacks(case), tmp_path))
    assert "pictures of" in problems[0]
    assert "instead of one of" in problems[1]
