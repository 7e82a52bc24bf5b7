"""Which network is shown, and what its outputs mean: from one step of each kind of training code."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from torchmetrics.classification import MulticlassAccuracy
from torchvision.transforms import v2

from vis_callbacks import ConfigurationError, LayerError
from vis_callbacks.errors import SubjectError
from vis_callbacks.model import evidence
from vis_callbacks.model.calls import CallWatch
from vis_callbacks.model.candidates import guesses
from vis_callbacks.model.classifier import input_dtype
from vis_callbacks.model.evidence import find_subject
from vis_callbacks.model.known_classes import Classes, stated_classes
from vis_callbacks.model.layers import find_layer, named_layers
from vis_callbacks.model.subject import Network, Subject, network_of

IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 4, 2, 1, 3, 4])
BATCH = (IMAGES, LABELS)


def net(classes: int = 5, width: int = 4) -> nn.Sequential:
    body = [nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(width, classes)) if classes else nn.Sequential(*body)


def frozen(part: nn.Module) -> nn.Module:
    return part.requires_grad_(False)


class Parts(nn.Module):
    """A module without a forward of its own, as many users write it."""

    def __init__(self, **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


class Whole(Parts):
    """One with a forward."""

    def forward(self, images: Tensor) -> Any:
        return self.net(images)


class Loss(Whole):
    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.net(images), labels)


class OfBatch(Whole):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.net(batch["image"])


class Chained(Parts):
    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(images))


class Fused(Parts):
    def forward(self, images: Tensor, table: Tensor) -> Tensor:
        return self.net(images) + self.table(table)


class Argmax(Whole):
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images).argmax(dim=1)


class WithoutGrad(Whole):
    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images).softmax(dim=1)


class Inferring(Whole):
    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)


class Pair(nn.Module):
    """Two outputs in one."""

    def __init__(self, first: int, second: int, **stated: int) -> None:
        super().__init__()
        self.body, self.first, self.second = net(0), nn.Linear(4, first), nn.Linear(4, second)
        vars(self).update(stated)

    def forward(self, images: Tensor) -> Any:
        features = self.body(images)
        return {"one": self.first(features), "other": [self.second(features)]}


class Featured(nn.Module):
    """Features, and the logits that are made of them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body, self.head = net(width), nn.Linear(width, 5)

    def forward(self, images: Tensor) -> Any:
        features = self.body(images)
        return features, self.head(features)


class Keyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = net()

    def forward(self, ids: Tensor | None = None, pixel_values: Tensor | None = None) -> Tensor:
        assert ids is None
        assert pixel_values is not None
        return self.inner(pixel_values)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.table = net(), nn.Linear(2, 5)

    def forward(self, images: Tensor, table: Tensor) -> Tensor:
        return self.inner(images) + self.table(table)


class Metric(nn.Module):
    """As torchmetrics': no weights, and a step of its own."""

    def forward(self, predictions: Tensor, labels: Tensor) -> Tensor:
        return (predictions.argmax(dim=1) == labels).float().mean()


class Margin(nn.Module):
    """As ArcFace: weights of its own, features and labels in, a loss out."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(5, 16))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(F.normalize(features) @ F.normalize(self.weight).T, labels)


def distilled(module: Any, batch: Any) -> None:
    with torch.no_grad():
        wanted = module.teacher(batch[0])
    logits = module.student(batch[0])
    if logits.shape == wanted.shape:
        F.kl_div(logits.log_softmax(1), wanted.softmax(1), reduction="batchmean")


def in_turn(*names: str) -> Callable[[Any, Any], None]:
    def step(module: Any, batch: Any) -> None:
        value = batch[0]
        for name in names:
            value = module.get_submodule(name)(value)

    return step


def calling(*names: str) -> Callable[[Any, Any], None]:
    def step(module: Any, batch: Any) -> None:
        for name in names:
            module.get_submodule(name)(batch[0])

    return step


def views(module: Any, batch: Any) -> None:
    F.cosine_embedding_loss(module.net(batch[0]), module.net(batch[1]), torch.ones(6))


def judged(module: Any, batch: Any) -> None:
    module.loss(module.net(batch[0]), batch[1])


def adversarial(module: Any, batch: Any) -> None:
    fake = module.generator(torch.rand(6, 2))
    module.discriminator(fake)
    module.discriminator(batch[0])


def averaged(module: Any, batch: Any) -> None:
    module.model(batch[0])
    with torch.no_grad():
        module.ema(batch[0])


def contrastive(module: Any, batch: Any) -> None:
    for view in (batch[0] + 0.1, batch[0] * 0.9):
        module.projector(module.encoder(view))


def checkpointed(module: Any, batch: Any) -> None:
    from torch.utils.checkpoint import checkpoint

    features = checkpoint(module.encoder, batch[0], use_reentrant=False)
    F.cross_entropy(module.head(features), batch[1]).backward()


class Normalizing(Parts):
    """Changes the images, then calls a part of its own."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net(self.normalize(images))


class NormalizingChain(Parts):
    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(images * 4 - 1))


class Inplace(Parts):
    """Changes the images that it gets."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.sub_(0.5))


NORMALIZE = v2.Normalize([0.5] * 3, [0.2] * 3)
CHANGED = (
    "the step changes the images before it calls net; set forward='net' if it only augments them, else to a function "
    "(module, images) -> logits that changes them too"
)


def normalized(module: Any, batch: Any) -> None:
    module.net(NORMALIZE(batch[0]))


def of_changed(change: Callable[[Tensor], Tensor], name: str = "net") -> Callable[[Any, Any], None]:
    return lambda module, batch: module.get_submodule(name)(change(batch[0]))


def tied() -> nn.Module:
    """Two heads that share their weights."""
    module = Parts(net=net(), copy=nn.Linear(4, 5))
    module.copy.weight = module.net[-1].weight
    return module


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 192)

    def forward(self, noise: Tensor) -> Tensor:
        return self.layer(noise).view(-1, 3, 8, 8)


@dataclass(frozen=True)
class Case:
    """A kind of training code, and what is right for it."""

    module: Callable[[], nn.Module]
    step: Callable[[Any, Any], None]
    network: str
    width: int | None = 5
    meaning: str = "classes"
    says: str = ""
    runs: bool = True
    batch: Any = BATCH
    classes: Classes = field(default_factory=Classes)
    training: bool = True


NAMES = Classes(names=5)
ONES = torch.tensor([[1, 0, 1, 0, 0]] * 6).float()

CASES = {
    "the module's own forward": Case(lambda: Whole(net=net()), lambda m, b: m(b[0]), ""),
    "a child": Case(lambda: Parts(net=net()), calling("net"), "net"),
    "a forward that no step calls": Case(lambda: Whole(net=net()), calling("net"), "net"),
    "distillation": Case(
        lambda: Parts(teacher=frozen(net(width=64)), student=net()), distilled, "student", classes=NAMES
    ),
    "distillation, a teacher that is not frozen": Case(
        lambda: Parts(teacher=net(width=64), student=net()), distilled, "student"
    ),
    "distillation, a teacher of more classes": Case(
        lambda: Parts(teacher=frozen(net(100)), student=net()), distilled, "student"
    ),
    "encoder and head": Case(
        lambda: Parts(encoder=net(0, 32), head=nn.Linear(32, 5)),
        in_turn("encoder", "head"),
        "encoder",
        32,
        "embedding",
        "no single part of Parts maps images to logits (encoder gives tensor (6, 32), and head gives tensor (6, 5)); "
        "do all of it in Parts.forward(), or set forward= to a function (module, images) -> logits",
        classes=NAMES,
    ),
    "an encoder with as many features as there are classes": Case(
        lambda: Parts(encoder=net(0, 5), head=nn.Linear(5, 5)),
        in_turn("encoder", "head"),
        "encoder",
        5,
        "embedding",
        "set forward=",
        classes=Classes(names=5),
    ),
    "frozen encoder and head": Case(
        lambda: Parts(encoder=frozen(net(0, 32)), head=nn.Linear(32, 5)),
        in_turn("encoder", "head"),
        "encoder",
        32,
        "embedding",
        "set forward=",
    ),
    "encoder with checkpointed activations, and head": Case(
        lambda: Parts(encoder=net(0, 32), head=nn.Linear(32, 5)), checkpointed, "encoder", 32, "embedding", "forward="
    ),
    "several heads": Case(
        lambda: Parts(encoder=net(0), one=nn.Linear(4, 5), other=nn.Linear(4, 2)),
        lambda m, b: (m.one(m.encoder(b[0])), m.other(m.encoder(b[0]))),
        "encoder",
        4,
        "embedding",
        "set forward=",
    ),
    "a forward that returns the loss": Case(lambda: Loss(net=net()), lambda m, b: m(*b), "net"),
    "a forward that takes the batch": Case(
        lambda: OfBatch(net=net()), lambda m, b: m(b), "net", batch={"image": IMAGES, "label": LABELS}
    ),
    "a forward that returns the argmax": Case(
        lambda: Argmax(net=net()), lambda m, b: (m(b[0]), m.net(b[0])), "net", training=False
    ),
    "a forward under no_grad": Case(
        lambda: WithoutGrad(net=net()), lambda m, b: (m(b[0]), m.net(b[0])), "net", training=False
    ),
    "a forward under no_grad in training": Case(
        lambda: WithoutGrad(net=net()), lambda m, b: (m(b[0]), m.net(b[0])), "net"
    ),
    "a forward under inference_mode": Case(
        lambda: Inferring(net=net()), lambda m, b: (m(b[0]), m.net(b[0])), "net", training=False
    ),
    "a wrapper that takes the batch": Case(
        lambda: Parts(model=OfBatch(net=net())),
        lambda m, b: m.model(b),
        "model.net",
        batch={"image": IMAGES, "label": LABELS},
    ),
    "several inputs": Case(
        lambda: Parts(model=TwoInputs()),
        lambda m, b: m.model(b[0], b[2]),
        "model",
        None,
        says="model.forward takes (images, table), not images alone; set forward=",
        runs=False,
        batch=(*BATCH, torch.rand(6, 2)),
    ),
    "several inputs of the module's own forward": Case(
        lambda: Fused(net=net(), table=nn.Linear(2, 5)),
        lambda m, b: m(b[0], b[2]),
        "",
        None,
        says="Fused.forward takes (images, table), not images alone; set forward=",
        runs=False,
        batch=(*BATCH, torch.rand(6, 2)),
    ),
    "several inputs that a step adds": Case(
        lambda: Parts(net=net(), table=nn.Linear(2, 5)),
        lambda m, b: m.net(b[0]) + m.table(b[2]),
        "net",
        5,
        "embedding",
        "no single part of Parts maps images to logits",
        batch=(*BATCH, torch.rand(6, 2)),
        classes=Classes(names=5),
    ),
    "several inputs that a step joins": Case(
        lambda: Parts(net=net(0), table=nn.Linear(2, 3), head=nn.Linear(7, 5)),
        lambda m, b: m.head(torch.cat([m.net(b[0]), m.table(b[2])], dim=1)),
        "net",
        4,
        "embedding",
        "no single part of Parts maps images to logits",
        batch=(*BATCH, torch.rand(6, 2)),
    ),
    "encoder and head, and a forward that no step calls": Case(
        lambda: Chained(encoder=net(0, 32), head=nn.Linear(32, 5)), in_turn("encoder", "head"), ""
    ),
    "parts of a child, and its forward that no step calls": Case(
        lambda: Parts(model=Chained(encoder=net(0, 32), head=nn.Linear(32, 5))),
        in_turn("model.encoder", "model.head"),
        "model",
    ),
    "images by keyword": Case(lambda: Parts(model=Keyword()), lambda m, b: m.model(pixel_values=b[0]), "model"),
    "a copy of averaged weights": Case(lambda: averaging(), averaged, "model"),
    "a generator and a discriminator": Case(
        lambda: Parts(generator=Generator(), discriminator=net(1)), adversarial, "discriminator", 1, "binary",
        batch=(IMAGES,),
    ),
    "a discriminator of ten classes": Case(
        lambda: Parts(generator=Generator(), discriminator=net(1)), adversarial, "discriminator", 1, "value",
        "discriminator gives one output, and there are 5 class names: no verdict is given; set forward=", classes=NAMES,
    ),
    "siamese": Case(
        lambda: Parts(net=net(0, 32)), views, "net", 32, "embedding",
        "net is called with 2 images at a time, and its 32 outputs need not be classes; set class_names=",
        batch=(IMAGES, IMAGES.flip(0), torch.tensor([0, 1, 0, 1, 1, 0])),
    ),
    "two views of one image, with class names": Case(
        lambda: Parts(net=net()), views, "net", batch=(IMAGES, IMAGES.flip(0), LABELS), classes=NAMES
    ),
    "contrastive, with a projector": Case(
        lambda: Parts(encoder=net(0, 32), projector=nn.Linear(32, 8)), contrastive, "encoder", 32, "embedding",
        "set forward=",
    ),
    "embeddings, more than class names": Case(
        lambda: Parts(net=net(0, 32)), calling("net"), "net", 32,
        says="net gives 32 outputs, and there are 5 class names: no verdict is given; set class_names=",
        classes=NAMES,
    ),
    "embeddings that a margin loss judges": Case(
        lambda: Parts(net=net(0, 16), loss=Margin()), judged, "net", 16,
        says="net gives 16 outputs, and there are 5 class names", classes=NAMES,
    ),
    "embeddings by their loss": Case(
        lambda: Parts(net=net(0, 16), loss=nn.TripletMarginLoss()),
        lambda m, b: m.loss(*[m.net(b[0])] * 3), "net", 16, "embedding",
    ),
    "a loss module": Case(lambda: Parts(net=net(), loss=nn.CrossEntropyLoss()), judged, "net"),
    "a metric": Case(lambda: Parts(loss=Metric(), net=net()), judged, "net"),
    "torchmetrics": Case(
        lambda: Parts(net=net(10), metrics=torchmetrics.MetricCollection([MulticlassAccuracy(num_classes=10)])),
        lambda m, b: m.metrics(m.net(b[0]), b[1]),
        "net",
        10,
        classes=Classes(names=4),
    ),
    "more outputs than names, but a loss of classes": Case(
        lambda: Parts(net=net(10), loss=nn.CrossEntropyLoss()), judged, "net", 10, classes=Classes(names=4)
    ),
    "more outputs than are stated, as of an embedding beside prototypes": Case(
        lambda: Parts(net=net(64)), calling("net"), "net", 64,
        says="net gives 64 outputs, and num_classes=5 is stated: no verdict is given; set forward=",
        classes=Classes(stated=frozenset({5})),
    ),
    "one output more than are stated, for no class": Case(
        lambda: Parts(net=net(6)), calling("net"), "net", 6, classes=Classes(stated=frozenset({5})),
    ),
    "more outputs than are stated, but a loss of classes": Case(
        lambda: Parts(net=net(64), loss=nn.CrossEntropyLoss()), judged, "net", 64,
        classes=Classes(stated=frozenset({5})),
    ),
    "fewer outputs than labels": Case(
        lambda: Parts(net=net(3)), calling("net"), "net", 3,
        says="net gives 3 outputs, and labels reach 4: no verdict is given; set forward=",
    ),
    "networks in a list": Case(
        lambda: Parts(nets=nn.ModuleList([frozen(net(width=9)), net()])), calling("nets.0", "nets.1"), "nets.1"
    ),
    "networks in a dict": Case(
        lambda: Parts(nets=nn.ModuleDict({"teacher": frozen(net(width=9)), "student": net()})),
        calling("nets.teacher", "nets.student"), "nets.student",
    ),
    "a network in a plain container": Case(
        lambda: Parts(inner=Parts(model=net())), calling("inner.model"), "inner.model"
    ),
    "two networks that are trained alike": Case(
        lambda: Parts(one=net(), other=net()), calling("one", "other"), "one", 5,
        says="one and other of Parts both map images to logits: no verdict is given; set forward='one' or ",
    ),
    "two networks, one of them evaluated": Case(
        lambda: Parts(one=net(), other=net()), calling("other"), "other", training=False
    ),
    "tied weights": Case(tied, calling("net"), "net"),
    "a segmentation": Case(
        lambda: Whole(net=nn.Conv2d(3, 5, 1)), lambda m, b: m(b[0]), "", None,
        says="no part of Whole maps images to logits (N, classes): Whole gives tensor (6, 5, 8, 8)", runs=False,
    ),
    "two outputs, one of the names' number": Case(
        lambda: Parts(net=Pair(16, 5)), calling("net"), "net", classes=NAMES
    ),
    "two outputs, one of num_classes": Case(
        lambda: Parts(net=Pair(5, 16, num_classes=5)), calling("net"), "net", batch=(IMAGES,)
    ),
    "two outputs, one of the labels' number": Case(lambda: Parts(net=Pair(16, 5)), calling("net"), "net"),
    "two outputs that are alike": Case(
        lambda: Parts(net=Pair(5, 5)), calling("net"), "net", 5,
        says="net gives outputs of 5 and 5, and nothing tells which are the logits: the first are shown; set",
        classes=NAMES,
    ),
    "one sigmoid unit": Case(
        lambda: Parts(net=net(1)), calling("net"), "net", 1, "binary", batch=(IMAGES, (LABELS > 2).float())
    ),
    "several labels": Case(
        lambda: Parts(net=net()), calling("net"), "net", 5, "labels", batch=(IMAGES, ONES), classes=NAMES
    ),
    "one-hot labels": Case(lambda: Parts(net=net()), calling("net"), "net", batch=(IMAGES, F.one_hot(LABELS))),
    "several labels by their loss": Case(
        lambda: Parts(net=net(), loss=nn.BCEWithLogitsLoss()), judged, "net", 5, "labels",
        batch=(IMAGES, F.one_hot(LABELS).float()),
    ),
    "regression": Case(
        lambda: Parts(net=net(1)), calling("net"), "net", 1, "value", batch=(IMAGES, torch.rand(6) * 30)
    ),
    "regression of whole numbers": Case(
        lambda: Parts(net=net(1)), calling("net"), "net", 1, "value", batch=(IMAGES, LABELS * 9)
    ),
    "regression by its loss": Case(
        lambda: Parts(net=net(1), loss=nn.MSELoss()), judged, "net", 1, "value",
        batch=(IMAGES, (LABELS[:, None] > 2).float()),
    ),
    "images that the step changes": Case(
        lambda: Parts(net=net()), normalized, "net", says=CHANGED, runs=False,
    ),
    "images that the step changes before the module": Case(
        lambda: Whole(net=net()), lambda m, b: m(b[0] / 255), "",
        says="the step changes the images before it calls Whole; set forward= to a function", runs=False,
    ),
    "images that a child without weights changes": Case(
        lambda: Parts(normalize=v2.Normalize([0.5] * 3, [0.2] * 3), net=net()),
        in_turn("normalize", "net"), "net", says=CHANGED, runs=False,
    ),
    "images in another order of channels": Case(
        lambda: Parts(net=net()), of_changed(lambda x: x[:, [2, 1, 0]]), "net", says=CHANGED, runs=False
    ),
    "images that the step resizes": Case(
        lambda: Parts(net=net()), of_changed(lambda x: F.interpolate(x, (12, 12))), "net",
        says="the step calls net with (3, 12, 12), not with the batch's images (3, 8, 8); "
        "do all of it in Parts.forward(), or set forward=", runs=False,
    ),
    "images that the step scales in place": Case(
        lambda: Parts(net=net()), of_changed(lambda x: x.mul_(255)), "net", says=CHANGED, runs=False,
        batch=(IMAGES.clone(), LABELS),
    ),
    "images that validation scales in place, as its samples are": Case(
        lambda: Parts(net=net()), of_changed(lambda x: x.mul_(255)), "net", training=False,
        batch=(IMAGES.clone(), LABELS),
    ),
    "images that the network itself changes in place": Case(
        lambda: Inplace(net=net()), lambda m, b: m(b[0].clone()), ""
    ),
    "images in another format": Case(
        lambda: Parts(net=net()), of_changed(lambda x: x.to(memory_format=torch.channels_last)), "net"
    ),
    "images in half precision": Case(lambda: Parts(net=net().half()), of_changed(Tensor.half), "net"),
    "images in bfloat16": Case(lambda: Parts(net=net().bfloat16()), of_changed(Tensor.bfloat16), "net"),
    "images in double precision": Case(lambda: Parts(net=net().double()), of_changed(Tensor.double), "net"),
    "bytes that become floats of the same value": Case(
        lambda: Parts(net=net()), of_changed(Tensor.float), "net", batch=((IMAGES * 255).byte(), LABELS)
    ),
    "a copy of the images, one of them not a number": Case(
        lambda: Parts(net=net()), of_changed(Tensor.clone), "net",
        batch=(torch.cat([torch.full((1, 3, 8, 8), torch.nan), IMAGES[1:]]), LABELS),
    ),
    "a wrapper that changes the images": Case(
        lambda: Parts(model=Normalizing(normalize=NORMALIZE, net=net())), calling("model"), "model"
    ),
    "a part of a wrapper whose forward changes the images as the step does": Case(
        lambda: Parts(model=Normalizing(normalize=NORMALIZE, net=net())),
        lambda m, b: m.model.net(m.model.normalize(b[0])), "model",
    ),
    "a part of a wrapper whose forward changes the images in another way": Case(
        lambda: Parts(model=Normalizing(normalize=v2.Normalize([0.1] * 3, [1.0] * 3), net=net())),
        lambda m, b: m.model.net(NORMALIZE(b[0])), "model.net",
        says="the step changes the images before it calls model.net; set forward='model.net' if", runs=False,
    ),
    "a forward that changes the images, which the step calls itself": Case(
        lambda: Normalizing(normalize=NORMALIZE, net=net()), lambda m, b: m.forward(b[0]), ""
    ),
    "a forward that changes the images as the step does": Case(
        lambda: Normalizing(normalize=NORMALIZE, net=net()), normalized, ""
    ),
    "a forward that does not change the images as the step does": Case(
        lambda: Whole(net=net()), normalized, "net", says=CHANGED, runs=False
    ),
    "a forward of encoder and head that changes the images": Case(
        lambda: NormalizingChain(encoder=net(0, 32), head=nn.Linear(32, 5)), lambda m, b: m.forward(b[0]), ""
    ),
    "a forward of encoder and head that does not change the images as the step does": Case(
        lambda: Chained(encoder=net(0, 32), head=nn.Linear(32, 5)),
        lambda m, b: m.head(m.encoder(NORMALIZE(b[0]))), "encoder", 32, "embedding",
        "no single part of Chained maps images to logits",
    ),
    "a backbone that gives maps, and a head": Case(
        lambda: Parts(backbone=nn.Conv2d(3, 4, 3), head=nn.Sequential(nn.Flatten(), nn.Linear(144, 5))),
        in_turn("backbone", "head"), "head",
        says="the step calls head with (4, 6, 6), not with the batch's images (3, 8, 8); "
        "do all of it in Parts.forward(), or set forward=", runs=False,
    ),
    "a forward of a backbone that gives maps, and a head": Case(
        lambda: Chained(encoder=nn.Conv2d(3, 4, 3), head=nn.Sequential(nn.Flatten(), nn.Linear(144, 5))),
        lambda m, b: m.forward(b[0]), "",
    ),
    "an image that the step makes of something else": Case(
        lambda: Parts(net=net()), of_changed(lambda x: x[:, None].expand(-1, 3, -1, -1)), "net",
        batch=(IMAGES[:, 0], LABELS),
    ),
    "one of two views that the step changes": Case(
        lambda: Parts(net=net()), lambda m, b: (m.net(b[0]), m.net(NORMALIZE(b[0]))), "net"
    ),
    "features and logits": Case(lambda: Parts(net=Featured(16)), calling("net"), "net", batch=(IMAGES, LABELS * 0)),
    "features and logits, in validation": Case(
        lambda: Parts(net=Featured(16)), calling("net"), "net", batch=(IMAGES, LABELS * 0), training=False
    ),
    "as many features as logits": Case(lambda: Parts(net=Featured(5)), calling("net"), "net"),
    "as many features as the labels reach": Case(
        lambda: Parts(net=Featured(4)), calling("net"), "net", batch=(IMAGES, LABELS.clamp_max(3))
    ),
    "labels beside an index": Case(
        lambda: Parts(net=net()), calling("net"), "net", batch=(IMAGES, torch.arange(6) + 900, LABELS)
    ),
}  # fmt: skip


def averaging() -> nn.Module:
    model = net()
    return Parts(ema=AveragedModel(model), model=model)


def watched(module: nn.Module, step: Callable[[Any, Any], None], batch: Any, *, training: bool = True) -> Any:
    optimized = frozenset(id(one) for name, one in module.named_parameters() if not name.startswith("ema"))
    watch = CallWatch(module, batch, optimized=optimized, training=training)
    try:
        with torch.set_grad_enabled(training):
            step(module, batch)
    finally:
        watch.stop()
    return watch


def subject_of(case: Case) -> Subject:
    torch.manual_seed(0)
    module = case.module()
    watch = watched(module, case.step, case.batch, training=case.training)
    classes = Classes(case.classes.names, case.classes.stated, watch.labels)
    return find_subject(module, calls=watch.calls, classes=classes, images=watch.images, optimized=watch.optimized)


@pytest.mark.parametrize("name", CASES)
def test_the_right_network_is_shown(name: str) -> None:
    case = CASES[name]
    found = subject_of(case)
    assert (found.network, found.width, found.meaning, found.runs) == (
        case.network, case.width, case.meaning, case.runs,
    )  # fmt: skip
    assert case.says in found.problem if case.says else not found.problem
    assert len(found.problem) < 300
    assert not case.says or "set " in found.problem
    assert found.predicts == (not case.says and case.meaning in ("classes", "binary", "labels"))
    assert Subject.from_dict({**found.as_dict(), "of a later version": 1}) == found


def test_what_fails_in_the_judgement_is_not_taken_for_a_network_that_cannot_be_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(module: nn.Module, subject: Subject, *_: Any) -> Subject:
        if "its forward changes images" in subject.evidence:
            raise ZeroDivisionError
        return known(module, subject, *_)

    known = evidence._meant
    monkeypatch.setattr(evidence, "_meant", fails)
    with pytest.raises(ZeroDivisionError):
        subject_of(CASES["a part of a wrapper whose forward changes the images as the step does"])


@pytest.mark.parametrize("name", CASES)
def test_the_network_maps_images_to_as_many_outputs_or_says_what_to_set(name: str) -> None:
    case = CASES[name]
    found = subject_of(case)
    torch.manual_seed(0)
    network = network_of(case.module(), found)
    if not found.runs:
        with pytest.raises(SubjectError, match="set forward="):
            network(IMAGES)
    else:
        assert network(IMAGES.to(input_dtype(network))).reshape(6, -1).shape == (6, found.width)


def test_class_numbers_that_are_stated() -> None:
    module = Parts(net=Pair(5, 16, num_classes=1000), metric=Metric(), hparams={"n_classes": 7})
    module.metric.num_classes = 5
    module.accuracy = MulticlassAccuracy(num_classes=6)
    assert stated_classes(module) == {5, 6, 7}


# Watching.


def test_a_copy_that_a_step_makes_has_no_hooks_and_none_stay() -> None:
    copies: list[nn.Module] = []

    def step(module: Any, batch: Any) -> None:
        copies.append(copy.deepcopy(module.net))
        copies.append(pickle.loads(pickle.dumps(module.net)))
        module.net(batch[0])

    module = Parts(net=net())
    before = {name: sorted(vars(part)) for name, part in module.named_modules()}
    watch = watched(module, step, BATCH)
    assert [call.name for call in watch.calls if call.direct] == ["net"]
    for copied in copies:
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in copied.modules())
    assert {name: sorted(vars(part)) for name, part in module.named_modules()} == before
    assert not _global_hooks()
    module.net(IMAGES)
    assert len([call for call in watch.calls if call.direct]) == 1


def test_a_step_that_raises_leaves_no_hook() -> None:
    def step(module: Any, batch: Any) -> None:
        module.net(batch[0])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        watched(Parts(net=net()), step, BATCH)
    assert not _global_hooks()


def test_a_call_that_fails_and_is_tried_again_is_seen_once() -> None:
    def step(module: Any, batch: Any) -> None:
        with pytest.raises(RuntimeError):
            module.net(batch[0][:, :2])
        module.net(batch[0])

    calls = watched(Parts(net=net()), step, BATCH).calls
    assert [(call.name, call.widths) for call in calls if call.direct] == [("net", (5,))]


def test_layers_choose_the_same_kernels_while_they_are_watched() -> None:
    # Hooks of its own would take an encoder layer off its fast path, and change the last bits of what is validated.
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    module = Parts(blocks=nn.ModuleList([layer]))
    tokens = torch.rand(2, 5, 8)
    seen: list[Tensor] = []
    with torch.no_grad():
        expected = layer(tokens)
    watched(module, lambda m, b: seen.append(m.blocks[0](b)), tokens, training=False)
    assert torch.equal(seen[0], expected)


@pytest.mark.parametrize("how", ["wrapped", "in place", "a function"])
def test_compiled_modules_are_not_watched_but_tried(how: str) -> None:
    module = Parts(teacher=frozen(net(width=9)), student=net())
    if how == "wrapped":
        module.student = torch.compile(module.student, backend="eager")
    elif how == "in place":
        module.student.compile(backend="eager")
    else:
        module.step = torch.compile(lambda images: module.student(images), backend="eager")
    watch = CallWatch(module, BATCH, optimized=frozenset(), training=True)
    try:
        assert watch.blind
        assert not _global_hooks()
    finally:
        watch.stop()
    found = find_subject(module, classes=Classes(labels=watch.labels), images=watch.images)
    assert (found.network, found.kind, found.width, found.problem) == ("student", "Sequential", 5, "")


def _global_hooks() -> bool:
    from torch.nn.modules import module

    return any(value for name, value in vars(module).items() if name.startswith("_global_") and name.endswith("hooks"))


# Before a batch has passed.

GUESSES = {
    "a forward": (lambda: Whole(net=net()), ""),
    "children": (lambda: Parts(teacher=frozen(net(width=64)), student=net()), "student"),
    "a forward that cannot be called": (lambda: Loss(net=net()), "net"),
    "a forward under no_grad": (lambda: WithoutGrad(net=net()), "net"),
    "losses and metrics": (lambda: Parts(loss=nn.CrossEntropyLoss(), metric=Metric(), net=net()), "net"),
    "a larger part that takes something else": (lambda: Parts(net=net(), table=nn.Linear(900, 900)), "net"),
    "a container": (lambda: Parts(nets=nn.ModuleDict({"a": Parts(b=net())})), "nets.a.b"),
}


@pytest.mark.parametrize("name", GUESSES)
def test_without_a_step_what_maps_the_images_to_logits_is_tried(name: str) -> None:
    make, network = GUESSES[name]
    module = make()
    before = copy.deepcopy(module.state_dict())
    found = find_subject(module, images=IMAGES)
    assert (found.network, found.width, found.problem) == (network, 5, "")
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert all(part.training for part in module.modules())


def test_without_images_the_module_or_its_largest_trained_child_is_taken() -> None:
    assert find_subject(Whole(net=net())).network == ""
    assert find_subject(Parts(teacher=frozen(net(width=64)), student=net())).network == "student"
    assert guesses(Whole(net=net()))[0].__class__ is Whole


# The option.


def by_path(module: Any, images: Tensor) -> Tensor:
    """What an import path names in a test."""
    return module.head(module.encoder(images))


def broken(module: Any, images: Tensor) -> Tensor:
    return module.head(module.encoder(images, 1, 2))


def one_argument(images: Tensor) -> Tensor:
    return images


def chain() -> nn.Module:
    return Parts(encoder=net(0, 32), head=nn.Linear(32, 5), nets=nn.ModuleDict({"a": nn.ModuleList([net()])}))


@pytest.mark.parametrize(
    ("forward", "network", "text"),
    [
        (by_path, "", "by_path"),
        (f"{__name__}.by_path", "", f"{__name__}.by_path"),
        (f"{__name__}:by_path", "", f"{__name__}:by_path"),
        (lambda module, images: by_path(module, images), "", "<lambda>"),
        ("nets.a.0", "nets.a.0", "nets.a.0"),
    ],
    ids=["function", "import path", "import path with a colon", "lambda", "child in a dict and a list"],
)
def test_the_option_says_what_is_shown(forward: Any, network: str, text: str) -> None:
    torch.manual_seed(0)
    module = chain()
    found = find_subject(module, forward=forward, images=IMAGES, classes=NAMES)
    assert (found.network, found.forward, found.width, found.meaning, found.problem) == (
        network,
        text,
        5,
        "classes",
        "",
    )
    shown = network_of(module, found, forward)
    expected = module.get_submodule(network)(IMAGES) if network else by_path(module, IMAGES)
    assert torch.equal(shown(IMAGES), expected)
    names = list(named_layers(shown))
    assert names == list(named_layers(module.get_submodule(network) if network else module))


@pytest.mark.parametrize(
    ("forward", "says"),
    [
        (
            "encodr",
            "forward='encodr': expected a child of Parts (nearest: encoder, encoder.3, encoder.2), or an import",
        ),
        ("nets.b", "forward='nets.b': expected a child of Parts (nearest: nets"),
        ("no.such.module", "forward='no.such.module': expected a child of Parts"),
        ("torch.nn.nothing", "forward='torch.nn.nothing': expected"),
        ("math.pi", "forward='math.pi': expected"),
        ("x" * 500, "forward='xxx"),
    ],
)
def test_a_wrong_name_is_refused(forward: str, says: str) -> None:
    for refuse in (find_subject, guesses):
        with pytest.raises(ConfigurationError) as raised:
            refuse(chain(), forward=forward)
        assert says in str(raised.value)
        assert len(str(raised.value)) < 300


@pytest.mark.parametrize("forward", [broken, one_argument])
def test_a_function_that_takes_something_else_says_so(forward: Any) -> None:
    module = chain()
    network = network_of(module, find_subject(module, forward=forward, images=IMAGES), forward)
    with pytest.raises(SubjectError, match=f"forward='{forward.__name__}' was called with Parts and images") as raised:
        network(IMAGES)
    assert "it must be a function (module, images) -> logits" in str(raised.value)
    assert len(str(raised.value)) < 300


def test_a_network_that_is_called_in_another_way_has_the_layers_and_facts_of_its_module() -> None:
    module = chain()
    module.pretrained_cfg = {"input_size": (3, 8, 8)}
    network = network_of(module, find_subject(module, forward=by_path), by_path)
    assert isinstance(network, Network)
    assert [name for name, _ in network.named_parameters()] == [name for name, _ in module.named_parameters()]
    assert network.pretrained_cfg == module.pretrained_cfg
    module.head = nn.Linear(32, 7)
    assert network(IMAGES).shape == (6, 7)


def test_layers_are_found_by_their_names_in_the_users_module() -> None:
    module = Parts(teacher=frozen(net()), student=net())
    student = network_of(module, Subject("student"))
    assert find_layer(student, "student.0")[1] is find_layer(student, "0")[1] is module.student[0]
    with pytest.raises(LayerError):
        find_layer(student, "teacher.0")


def test_a_property_that_fails_states_no_classes_and_hinders_nothing() -> None:
    class Late(Parts):
        @property
        def num_classes(self) -> int:
            raise RuntimeError("the data are not there yet")

    module = Late(net=net())
    assert stated_classes(module) == frozenset()
    assert find_subject(module, images=IMAGES).network == "net"
