"""Does `Diagnostics` find what is wrong, and is it silent where nothing is? Faults are planted in real trainings.

    python benchmarks/diagnostics.py [--only scale shortcut] [--seeds 3] [--clean 30]

The digits of `examples/digits.py`, gray and coloured, in 32x32 pixels, and crops of nine photographs, which are
the classes; 2,000 to train on and 500 to validate, 4 epochs. The thresholds were set on other networks (timm's
test_resnet, test_efficientnet, test_vit, resnet10t, test_byobnet, test_nfnet, test_mambaout, test_efficientnet_gn and
mobilenetv3_small_050, and small ones without norm layers) and other seeds. Here are timm's test_convnext,
test_efficientnet_ln and lcnet_050, and another small one without norm layers; seeds from 900 on. Those of the clean
trainings are from 7000 on: one of those before, of lcnet_050, is where the rule of slow starts comes from.
*Found*: the check alarms within the training. Clean trainings vary in optimizer, rate, size of the batches,
augmentation, imbalance, smoothing, frozen layers and length.
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import timm
import torch
from skimage import data as skimage_data
from sklearn.datasets import load_sample_image
from table import Tables, add_options
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from vis_callbacks import Diagnostics

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from digits import digits

CLASSES = 10
NETWORKS = ("test_convnext", "test_efficientnet_ln", "lcnet_050", "plain")


def network(name: str, channels: int) -> nn.Module:
    """Build a network for images of 32x32."""
    if name == "plain":
        return nn.Sequential(
            nn.Conv2d(channels, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(24, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 48, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(432, CLASSES),
        )  # fmt: skip
    return timm.create_model(name, num_classes=CLASSES, in_chans=channels)


@dataclass
class Data(Dataset):
    """Images with labels, and what is done to each image when it is read."""

    images: Tensor
    labels: Tensor
    augment: Callable[[Tensor], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.images[index]
        return image if self.augment is None else self.augment(image), self.labels[index]


@dataclass
class Setup:
    """One training; faults and honest variety are changes of it."""

    train: Data
    validation: Data
    model: nn.Module
    rate: float = 2e-3
    optimizer: str = "adamw"
    batch_size: int = 32
    epochs: int = 4
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    parameters: Callable[[nn.Module], list[nn.Parameter]] = lambda model: list(model.parameters())
    forward: Callable[[nn.Module, Tensor], Tensor] = lambda model, images: model(images)
    sampler: Any = None
    trainer: Mapping[str, Any] = field(default_factory=dict)


class Module(pl.LightningModule):
    """Trains as a setup says."""

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self.model = setup.model
        self._setup = setup

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the loss."""
        return self._setup.loss(self._setup.forward(self.model, batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log the loss."""
        self.log("val_loss", self._setup.loss(self._setup.forward(self.model, batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        parameters = self._setup.parameters(self.model)
        if self._setup.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=self._setup.rate, momentum=0.9)
        return torch.optim.AdamW(parameters, lr=self._setup.rate)


def images(*, colour: bool, seed: int, train: int = 2000, validation: int = 500) -> tuple[Data, Data]:
    """Return normalised digits; coloured ones have a colour for the stroke and one for the ground."""
    sets = []
    chance = torch.Generator().manual_seed(seed)
    for data, count in zip(digits(), (train, validation), strict=True):
        order = torch.randperm(len(data), generator=chance)[:count]
        pixels, labels = F.pad(data.tensors[0][order], (2,) * 4), data.tensors[1][order]
        if colour:
            stroke = torch.rand(count, 3, 1, 1, generator=chance) * torch.tensor([0.4, 0.5, 0.5]).view(3, 1, 1)
            ground = torch.rand(count, 3, 1, 1, generator=chance) * 0.2 + torch.tensor([0.1, 0.3, 0.6]).view(3, 1, 1)
            noise = 0.03 * torch.randn(count, 3, 32, 32, generator=chance)
            pixels = (ground * (1 - pixels) + (stroke + 0.4) * pixels + noise).clamp(0, 1)
        sets.append(Data((pixels - 0.4) / 0.25 if colour else (pixels - 0.13) / 0.31, labels.clone()))
    return sets[0], sets[1]


@cache
def photographs() -> list[Tensor]:
    """Return photographs ``(3, H, W)``, of about 400 to 800 pixels a side, in [0, 1]."""
    found = [getattr(skimage_data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket", "retina")]
    found += [skimage_data.hubble_deep_field(), skimage_data.immunohistochemistry()]
    found += [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    steps = [max(1, min(one.shape[:2]) // 400) for one in found]
    return [
        torch.from_numpy(one[::step, ::step, :3].copy()).permute(2, 0, 1).float() / 255
        for one, step in zip(found, steps, strict=True)
    ]


def crops(*, seed: int, train: int = 2000, validation: int = 500) -> tuple[Data, Data]:
    """Return normalised crops of photographs; every fourth tile of a photograph is for validation."""
    chance = torch.Generator().manual_seed(seed)
    sets = []
    for count, of_validation in ((train, False), (validation, True)):
        found, labels = [], torch.randint(len(photographs()), (count,), generator=chance)
        for label in labels.tolist():
            picture = photographs()[label]
            columns = picture.shape[2] // 64
            tiles = [one for one in range(picture.shape[1] // 64 * columns) if (one % 4 == 3) == of_validation]
            tile = tiles[int(torch.randint(len(tiles), (1,), generator=chance))]
            top, left = (torch.randint(33, (2,), generator=chance) + 64 * torch.tensor(divmod(tile, columns))).tolist()
            found.append(picture[:, top : top + 32, left : left + 32])
        sets.append(Data((torch.stack(found) - 0.4) / 0.25, labels))
    return sets[0], sets[1]


# Faults: each changes a setup.


def mark(data: Data, chosen: Tensor, corner: tuple[int, int] = (23, 23)) -> None:
    """Stamp a small opaque cross on some images."""
    row, column = corner
    data.images[chosen, :, row - 3 : row + 4, column - 3 : column + 4] = -0.3
    for offset in range(-2, 3):
        data.images[chosen, :, row + offset, column + offset] = 2.2
        data.images[chosen, :, row + offset, column - offset] = 2.2


def marked(share: float, *, validation: bool = True) -> Callable[[Setup], None]:
    def change(setup: Setup) -> None:
        for data in (setup.train, setup.validation)[: 1 + validation]:
            mark(data, (data.labels == 4) & (torch.rand(len(data)) < share))

    return change


def mark_two(setup: Setup) -> None:
    for data in (setup.train, setup.validation):
        mark(data, (data.labels == 3) | (data.labels == 8))


def mark_everywhere(setup: Setup) -> None:
    for data in (setup.train, setup.validation):
        for number in range(CLASSES):
            mark(data, data.labels == number, (3 + 5 * (number // 5), 3 + 5 * (number % 5)))


def bordered(setup: Setup) -> None:
    for data in (setup.train, setup.validation):
        grey = (data.labels.float() / CLASSES * 3 - 1).view(-1, 1, 1, 1)
        side = data.images.shape[-1]
        ring = torch.ones(side, side, dtype=torch.bool)
        ring[2:-2, 2:-2] = False
        data.images = torch.where(ring, grey, data.images)


def on_validation(change: Callable[[Tensor], Tensor]) -> Callable[[Setup], None]:
    def plant(setup: Setup) -> None:
        setup.validation.images = change(setup.validation.images).contiguous()

    return plant


def shrunk(pixels: Tensor) -> Tensor:
    small = F.interpolate(pixels, scale_factor=0.6, mode="bilinear")
    room = pixels.shape[-1] - small.shape[-1]
    return F.pad(small, (room // 2, room - room // 2) * 2, value=float(pixels.amin()))


def swapped(stage: str) -> Callable[[Setup], None]:
    def change(setup: Setup) -> None:
        labels = getattr(setup, stage).labels
        threes, eights = labels == 3, labels == 8
        labels[threes], labels[eights] = 8, 3

    return change


def numbered_otherwise(setup: Setup) -> None:
    setup.validation.labels = (setup.validation.labels + 1) % CLASSES


def random_labels(*stages: str, share: float = 0.25) -> Callable[[Setup], None]:
    def change(setup: Setup) -> None:
        for stage in stages:
            labels = getattr(setup, stage).labels
            chosen = torch.rand(len(labels)) < share
            labels[chosen] = torch.randint(CLASSES, (int(chosen.sum()),))

    return change


def without_class(stage: str) -> Callable[[Setup], None]:
    def change(setup: Setup) -> None:
        data = getattr(setup, stage)
        setattr(setup, stage, replace(data, images=data.images[data.labels != 6], labels=data.labels[data.labels != 6]))

    return change


def rare(setup: Setup) -> None:
    data = setup.train
    kept = (data.labels != 6) | ((data.labels == 6).cumsum(0) <= 4)
    setup.train = replace(data, images=data.images[kept], labels=data.labels[kept])


def leaking(setup: Setup) -> None:
    half = len(setup.validation) // 2
    data = setup.train
    setup.train = replace(
        data,
        images=torch.cat([data.images, setup.validation.images[:half]]),
        labels=torch.cat([data.labels, setup.validation.labels[:half]]),
    )


def constant(stage: str) -> Callable[[Setup], None]:
    def change(setup: Setup) -> None:
        data = getattr(setup, stage)
        data.images[torch.rand(len(data)) < 0.15] = float(data.images.amin())

    return change


def loss_of_softmax(setup: Setup) -> None:
    setup.loss = lambda outputs, labels: F.cross_entropy(outputs.softmax(dim=1), labels)


def model_with_softmax(setup: Setup) -> None:
    setup.model = nn.Sequential(setup.model, nn.Softmax(dim=1))


def too_fast(setup: Setup) -> None:
    setup.optimizer, setup.rate = "sgd", 30.0


def exploding(setup: Setup) -> None:
    setup.optimizer, setup.rate = "sgd", 1e30


def last_of(model: nn.Module) -> list[nn.Parameter]:
    return list(model.parameters())[-2:]


def forgotten(setup: Setup) -> None:
    setup.parameters = last_of


class Detached(nn.Module):
    """A network whose features are cut from the loss."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.backbone = model
        self.head = nn.Linear(CLASSES, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        return self.head(self.backbone(images).detach())


def detached(setup: Setup) -> None:
    setup.model = Detached(setup.model)


def frozen(setup: Setup) -> None:
    for one in list(setup.model.parameters())[:-4]:
        one.requires_grad_(False)


def dead(setup: Setup) -> None:
    class Sunk(nn.ReLU):
        def forward(self, input: Tensor) -> Tensor:
            return F.relu(input - 50 * (torch.arange(input.shape[1]) % 4 > 0).view(1, -1, *[1] * (input.ndim - 2)))

    for module in setup.model.modules():
        for name, child in module.named_children():
            if isinstance(child, (nn.ReLU, nn.GELU, nn.SiLU, nn.Hardswish)):
                setattr(module, name, Sunk())


def slow_norms(setup: Setup) -> None:
    for module in setup.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 5e-4


def heavy_class(setup: Setup) -> None:
    weight = torch.ones(CLASSES)
    weight[2] = 3000
    setup.loss = lambda outputs, labels: F.cross_entropy(outputs, labels, weight=weight)


def shuffled(setup: Setup) -> None:
    setup.validation.labels = setup.validation.labels[torch.randperm(len(setup.validation))]


def with_nan(setup: Setup) -> None:
    setup.train.images[:20, :, 3, 3] = float("nan")


def saved_again(setup: Setup) -> None:
    half = len(setup.validation) // 2
    copies = setup.train.images[:half]
    setup.validation.images[:half] = 0.95 * copies + 0.02 * torch.randn_like(copies)
    setup.validation.labels[:half] = setup.train.labels[:half]


def smoothed_twice(setup: Setup) -> None:
    setup.loss = lambda outputs, labels: F.cross_entropy(outputs.softmax(dim=1), labels, label_smoothing=0.1)


def smoothed_probabilities(setup: Setup) -> None:
    smoothed(setup)
    model_with_softmax(setup)


def veiled(setup: Setup) -> None:
    """Lay a translucent bar on the images of a class."""
    for data in (setup.train, setup.validation):
        part = data.images[data.labels == 4]
        part[:, :, 21:26, 19:28] = 0.5 * part[:, :, 21:26, 19:28] + 1.1
        data.images[data.labels == 4] = part


def lined(setup: Setup) -> None:
    for data in (setup.train, setup.validation):
        part = data.images[data.labels == 4]
        part[:, :, 20:22] = 2.2
        data.images[data.labels == 4] = part


def lost(images: Tensor) -> Tensor:
    images = images.clone()
    images[:, 2] = images.amin()
    return images


def normalised_in_the_step(setup: Setup) -> None:
    setup.train.images, setup.validation.images = (one.images * 0.31 + 0.13 for one in (setup.train, setup.validation))
    setup.validation.images *= 255
    setup.forward = lambda model, images: model((images - 0.13) / 0.31)


def sorted_by_class(setup: Setup) -> None:
    setup.sampler = setup.train.labels.argsort(stable=True).tolist()


def buffered(setup: Setup) -> None:
    """Sort by class, and shuffle as a stream does, through a buffer of a twentieth of the images."""
    order = setup.train.labels.argsort(stable=True).tolist()
    room = len(order) // 20
    buffer, mixed = order[:room], []
    for number in [*order[room:], *[None] * room]:
        mixed.append(buffer.pop(int(torch.randint(len(buffer), ()))))
        if number is not None:
            buffer.append(number)
    setup.sampler = mixed


def training_mode(setup: Setup) -> None:
    setup.forward = lambda model, images: model.train()(images)


def half_of_validation(change: Callable[[Tensor], Tensor]) -> Callable[[Setup], None]:
    def plant(setup: Setup) -> None:
        setup.validation.images[::2] = change(setup.validation.images[::2])

    return plant


def turned(pixels: Tensor) -> Tensor:
    cosine, sine = math.cos(math.pi / 6), math.sin(math.pi / 6)
    places = torch.tensor([[[cosine, -sine, 0], [sine, cosine, 0]]]).expand(len(pixels), 2, 3)
    grid = F.affine_grid(places, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def to_the_corner(pixels: Tensor) -> Tensor:
    return F.pad(pixels, (6, 0, 6, 0), mode="replicate")[:, :, :-6, :-6]


def weighted_probabilities(setup: Setup) -> None:
    model_with_softmax(setup)
    weights = torch.linspace(1, 3, CLASSES)
    setup.loss = lambda outputs, labels: F.cross_entropy(outputs, labels, weight=weights)


def likelihood_of_logits(setup: Setup) -> None:
    setup.loss = F.nll_loss


@dataclass(frozen=True)
class Fault:
    """What is planted, and by which checks it may be found."""

    check: tuple[str, ...]
    change: Callable[[Setup], None]
    kinds: tuple[str, ...] = ("gray", "colour", "photographs")
    models: tuple[str, ...] = NETWORKS


NORMED = ("lcnet_050",)
UNITS = ("lcnet_050", "plain", "test_efficientnet_ln")
FAULTS: Mapping[str, Fault] = {
    "mark on one class": Fault(("shortcut",), marked(1.0)),
    "mark on 40 % of one class": Fault(("shortcut",), marked(0.4)),
    "mark on one class, in training": Fault(("shortcut",), marked(1.0, validation=False)),
    "mark on two classes": Fault(("shortcut",), mark_two),
    "mark whose place tells the class": Fault(("shortcut",), mark_everywhere),
    "border tells the class": Fault(("border", "shortcut"), bordered),
    "no normalisation in validation": Fault(("scale",), on_validation(lambda one: one * 0.31 + 0.13)),
    "values to 255 in validation": Fault(("scale",), on_validation(lambda one: 255 * (one * 0.31 + 0.13))),
    "BGR in validation": Fault(
        ("channel-order",), on_validation(lambda one: one.flip(1)), ("colour", "photographs", "photographs")
    ),
    "validation upside down": Fault(
        ("geometry",), on_validation(lambda one: one.rot90(2, (2, 3))), ("gray", "gray", "photographs")
    ),
    "validation mirrored": Fault(
        ("geometry",), on_validation(lambda one: one.flip(3)), ("gray", "gray", "photographs")
    ),
    "validation transposed": Fault(
        ("geometry",), on_validation(lambda one: one.transpose(2, 3)), ("gray", "gray", "photographs")
    ),
    "validation at 60 %": Fault(("geometry", "scale"), on_validation(shrunk)),
    "two labels swapped in training": Fault(("swapped-labels",), swapped("train")),
    "two labels swapped in validation": Fault(("swapped-labels",), swapped("validation")),
    "classes numbered otherwise in validation": Fault(("swapped-labels",), numbered_otherwise),
    "25 % random labels": Fault(("random-labels",), random_labels("train", "validation")),
    "25 % random labels in training": Fault(("random-labels",), random_labels("train")),
    "class missing in training": Fault(("missing-class",), without_class("train")),
    "class missing in validation": Fault(("missing-class",), without_class("validation")),
    "4 images of a class": Fault(("never-learned", "missing-class"), rare),
    "half of validation in training": Fault(("leakage",), leaking),
    "15 % black in training": Fault(("constant-images",), constant("train")),
    "15 % black in validation": Fault(("constant-images",), constant("validation")),
    "softmax in the loss": Fault(("double-softmax",), loss_of_softmax),
    "softmax in the network": Fault(("double-softmax",), model_with_softmax),
    "rate far too high": Fault(("growing-weights", "not-finite", "no-progress", "dead-units"), too_fast),
    "NaN": Fault(("not-finite",), exploding),
    "only the head in the optimizer": Fault(("not-in-optimizer",), forgotten),
    "features detached": Fault(("no-gradient",), detached),
    "frozen at random": Fault(("frozen",), frozen),
    "three of four units dead": Fault(("dead-units",), dead, models=UNITS),
    "BatchNorm that remembers its start": Fault(("train-eval-gap",), slow_norms, models=NORMED),
    "loss weight 3000 on a class": Fault(("one-answer", "no-progress"), heavy_class),
}


OTHERS: Mapping[str, Fault] = {
    "validation inverted": Fault(
        ("geometry", "scale"), on_validation(lambda one: float(one.amin() + one.amax()) - one)
    ),
    "channels in another order in validation": Fault(
        ("channel-order",), on_validation(lambda one: one[:, [1, 2, 0]]), ("colour", "photographs", "photographs")
    ),
    "a channel of validation lost": Fault(
        ("constant-images",), on_validation(lost), ("colour", "photographs", "photographs")
    ),
    "labels of validation shuffled": Fault(("generalisation",), shuffled),
    "NaN in 20 training images": Fault(("not-finite",), with_nan),
    "half of validation saved again from training": Fault(("leakage",), saved_again),
    "softmax in the loss, which smooths labels": Fault(("double-softmax",), smoothed_twice),
    "softmax in the network, the loss smooths labels": Fault(("double-softmax",), smoothed_probabilities),
    "translucent bar on one class": Fault(("shortcut",), veiled),
    "line on one class": Fault(("shortcut",), lined),
    "normalised in the step, values to 255 in validation": Fault(("scale",), normalised_in_the_step),
    "training sorted by class": Fault(("not-shuffled",), sorted_by_class),
    "training sorted, through a small buffer": Fault(("not-shuffled",), buffered),
    "training mode in validation": Fault(("wrong-mode",), training_mode, models=NORMED),
    "half of validation upside down": Fault(
        ("geometry",), half_of_validation(lambda one: one.rot90(2, (2, 3))), ("gray", "gray", "photographs")
    ),
    "half of validation BGR": Fault(
        ("channel-order",), half_of_validation(lambda one: one.flip(1)), ("colour", "photographs", "photographs")
    ),
    "validation turned by 30 degrees": Fault(("geometry",), on_validation(turned), ("gray", "gray", "photographs")),
    "validation moved to a corner": Fault(("geometry",), on_validation(to_the_corner), ("gray", "gray", "photographs")),
    "softmax in the network, the loss weights classes": Fault(("double-softmax",), weighted_probabilities),
    "nll_loss of logits": Fault(("wrong-loss",), likelihood_of_logits),
}
"""Kinds that the first table does not have; checks were made for some of them, on other networks."""


# Honest variety: each changes a setup.


def as_it_is(_: Setup) -> None:
    pass


def shifted(image: Tensor) -> Tensor:
    down, right = (int(one) for one in torch.randint(-3, 4, (2,)))
    return image.roll((down, right), dims=(1, 2))


def erased(image: Tensor) -> Tensor:
    top, left = (int(one) for one in torch.randint(0, 20, (2,)))
    image = image.clone()
    image[:, top : top + 8, left : left + 8] = image.mean()
    return image


def jittered(image: Tensor) -> Tensor:
    return image * float(1 + 0.4 * (torch.rand(1) - 0.5)) + float(0.4 * (torch.rand(1) - 0.5))


def augmented(change: Callable[[Tensor], Tensor]) -> Callable[[Setup], None]:
    def vary(setup: Setup) -> None:
        setup.train.augment = change

    return vary


def imbalanced(setup: Setup) -> None:
    data = setup.train
    kept = torch.rand(len(data)) < torch.linspace(1, 1 / 6, CLASSES)[data.labels]
    setup.train = replace(data, images=data.images[kept], labels=data.labels[kept])


def weighted(setup: Setup) -> None:
    imbalanced(setup)
    counts = torch.bincount(setup.train.labels, minlength=CLASSES)
    setup.sampler = WeightedRandomSampler(1 / counts[setup.train.labels], len(setup.train))


def smoothed(setup: Setup) -> None:
    setup.loss = lambda outputs, labels: F.cross_entropy(outputs, labels, label_smoothing=0.1)


def clipped(setup: Setup) -> None:
    setup.trainer = {"gradient_clip_val": 0.5}


def accumulated(setup: Setup) -> None:
    setup.trainer = {"accumulate_grad_batches": 2}


def short(setup: Setup) -> None:
    setup.epochs = 2


def few(setup: Setup) -> None:
    setup.train = replace(setup.train, images=setup.train.images[:500], labels=setup.train.labels[:500])


def fine_sgd(setup: Setup) -> None:
    # Without norm layers the larger rate kills half of the units, and is a fault.
    normed = any("norm" in type(one).__name__.lower() for one in setup.model.modules())
    setup.optimizer, setup.rate = "sgd", 0.05 if normed else 0.01


def slow(setup: Setup) -> None:
    setup.rate = 3e-4


def large_batches(setup: Setup) -> None:
    setup.batch_size = 128


def transferred(setup: Setup) -> None:
    """Freeze a backbone that was trained before."""
    pl.Trainer(max_epochs=2, logger=False, enable_progress_bar=False, enable_model_summary=False,
               enable_checkpointing=False).fit(Module(setup), DataLoader(setup.train, 64, shuffle=True))  # fmt: skip
    parameters = list(setup.model.parameters())
    for one in parameters[:-2]:
        one.requires_grad_(False)


VARIETY: tuple[Callable[[Setup], None], ...] = (
    as_it_is,
    augmented(shifted),
    augmented(erased),
    augmented(jittered),
    imbalanced,
    weighted,
    smoothed,
    clipped,
    accumulated,
    short,
    few,
    fine_sgd,
    slow,
    large_batches,
    transferred,
)


def run(setup: Setup) -> tuple[Diagnostics, float, float]:
    """Train, and return what was found, the share of the time that it took, and the seconds of the training."""
    diagnostics = Diagnostics(on_error="raise")
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=setup.epochs,
            default_root_dir=folder,
            logger=False,
            callbacks=[diagnostics],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            **setup.trainer,
        )
        train = DataLoader(
            setup.train,
            batch_size=setup.batch_size,
            shuffle=setup.sampler is None,
            sampler=setup.sampler,
            drop_last=True,
        )
        trainer.fit(Module(setup), train, DataLoader(setup.validation, batch_size=250))
    timer = diagnostics._run.timer  # type: ignore[union-attr]
    return diagnostics, sum(timer.seconds.values()) / max(1e-9, timer.training), timer.training


def prepared(seed: int, model: str, kind: str, *, epochs: int, tiny: bool) -> Setup:
    """Return a clean setup."""
    random.seed(seed), torch.manual_seed(seed)
    counts = {"seed": seed, "train": 256 if tiny else 2000, "validation": 128 if tiny else 500}
    train, validation = crops(**counts) if kind == "photographs" else images(colour=kind == "colour", **counts)
    return Setup(train, validation, network(model, 1 if kind == "gray" else 3), epochs=epochs)


def longer(*, tiny: bool) -> Iterator[tuple[str, Setup]]:
    """Give trainings of minutes, whose share of time says more than that of seconds."""
    if tiny:
        yield "plain, 1 epoch of 256 digits", prepared(0, "plain", "gray", epochs=1, tiny=True)
        return
    torch.manual_seed(0)
    train, validation = images(colour=False, seed=0, train=4000, validation=500)
    yield "test_resnet, 20 epochs of 4,000 digits", Setup(train, validation, network("test_resnet", 1), epochs=20)
    for epochs, count in ((4, 1000), (2, 4000)):
        # What an event costs does not grow with the data.
        train, validation = crops(seed=0, train=count, validation=count // 4)
        for data in (train, validation):
            data.images = F.interpolate(data.images, size=128, mode="bilinear")
        name = f"efficientnet_lite0, {epochs} epochs of {count:,} images of 128x128"
        yield name, Setup(train, validation, network("efficientnet_lite0", 3), epochs=epochs)


HEAD = ("planted", "check", "found in digits", "in photographs", "first epoch", "other alarms")


def found(
    kinds: Mapping[str, Fault], chosen: Mapping[str, Fault], seeds: int, *, epochs: int, tiny: bool
) -> Iterator[tuple[str, ...]]:
    """Train with each fault, and give the rows of a table."""
    start = time.perf_counter()
    for name, fault in chosen.items():
        number = list(kinds).index(name)  # so that those of --only are the same trainings
        told, firsts, others = {"digits": [], "photographs": []}, [], []
        for seed in range(seeds):
            kind = fault.kinds[seed % len(fault.kinds)]
            model = fault.models[(number + seed) % len(fault.models)]
            setup = prepared(900 + seed, model, kind, epochs=epochs, tiny=tiny)
            fault.change(setup)
            diagnostics, *_ = run(setup)
            alarms = {one.check: one.first_epoch for one in diagnostics.findings if one.severity == "alarm"}
            hits = [epoch for check, epoch in alarms.items() if check in fault.check]
            told["photographs" if kind == "photographs" else "digits"].append(bool(hits))
            if not hits:
                print(name, "missed:", model, kind, flush=True)
            firsts += hits[:1]
            others += [check for check in alarms if check not in fault.check]
        epochs_of = (
            f"{min(firsts)} to {max(firsts)}" if firsts and min(firsts) < max(firsts) else "".join(map(str, firsts[:1]))
        )
        row = (
            name,
            " or ".join(fault.check),
            *(f"{sum(one)} / {len(one)}" for one in told.values()),
            epochs_of,
            ", ".join(sorted(set(others))),
        )
        print(*row, f"{time.perf_counter() - start:.0f} s", sep=" | ", flush=True)
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="faults whose name or check holds one of these words; no clean runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--clean", type=int, default=30)
    add_options(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    tables = Tables(options, "pytorch-lightning", "timm")
    epochs, clean = 4, options.clean if options.only is None else 0
    if options.tiny:
        options.seeds, clean, epochs = 1, 1, 1
    for table, kinds in (("diagnostics", FAULTS), ("diagnostics: others", OTHERS)):
        chosen = {
            name: fault
            for name, fault in (list(kinds.items())[5:6] if options.tiny else kinds.items())
            if options.only is None or any(word in f"{name} {' '.join(fault.check)}" for word in options.only)
        }
        if chosen:
            tables.put(table, HEAD, list(found(kinds, chosen, options.seeds, epochs=epochs, tiny=options.tiny)))
    alarms, notes, shares = [], [], []
    for number in range(clean):
        model, kind = NETWORKS[number % len(NETWORKS)], ("gray", "colour", "photographs")[number // 2 % 3]
        setup = prepared(7000 + number, model, kind, epochs=epochs, tiny=options.tiny)
        VARIETY[number % len(VARIETY)](setup)
        diagnostics, share, _ = run(setup)
        shares.append(share)
        alarms += [
            f"{one.check} ({model}, {kind}, variety {number % len(VARIETY)})"
            for one in diagnostics.findings
            if one.severity == "alarm"
        ]
        notes += [one.check for one in diagnostics.findings if one.severity == "note"]
        print(
            number, model, kind, [(one.check, one.severity, one.sentence) for one in diagnostics.findings], flush=True
        )
    if clean:
        told = ", ".join(f"{name} {notes.count(name)}" for name in sorted(set(notes)))
        cells = (str(clean), str(len(alarms)), ", ".join(alarms), told, f"{statistics.median(shares):.1%}")
        tables.put(
            "diagnostics: clean", ("clean trainings", "alarms", "which", "notes", "of the training time"), [cells]
        )
        costs = [
            (name, f"{seconds:.0f}", f"{share:.1%}")
            for name, s in longer(tiny=options.tiny)
            for _, share, seconds in [run(s)]
        ]
        tables.put("diagnostics: longer", ("training", "seconds", "of the training time"), costs)


if __name__ == "__main__":
    main()
