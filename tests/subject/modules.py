"""LightningModules as people write them: many ways to train a network on images."""

from __future__ import annotations

import copy
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from tests.helpers import tiny

pl = import_module(tiny.PACKAGES[0])


def conv(outputs: int = 4, channels: int = 3, width: int = 8) -> nn.Sequential:
    """A small network: two convolutions, the mean, a linear layer.

    The linear layer's weights are large, so that images differ in their predictions from the first epoch.
    """
    head = nn.Linear(width, outputs)
    nn.init.normal_(head.weight, std=5.0)
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        head,
    )


class Base(pl.LightningModule):  # type: ignore[misc, name-defined]
    """What all have in common: nothing but the optimizer and the loss of validation."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def loss(self, batch: Any) -> Tensor:
        raise NotImplementedError

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam([one for one in self.parameters() if one.requires_grad], lr=0.01)


class Plain(Base):
    def __init__(self, model: nn.Module | None = None) -> None:
        super().__init__()
        self.model = conv() if model is None else model

    def forward(self, x: Tensor) -> Any:
        return self.model(x)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y)


class Distillation(Base):
    """Knowledge distillation: a frozen wide teacher, a narrow student, no ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.student = conv(width=32).eval().requires_grad_(False), conv(width=4)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        with torch.no_grad():
            soft = self.teacher(x)
        logits = self.student(x)
        kd = F.kl_div(F.log_softmax(logits / 4, dim=1), F.softmax(soft / 4, dim=1), reduction="batchmean") * 16
        return 0.5 * kd + 0.5 * F.cross_entropy(logits, y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        logits = self.student(x)
        self.log("val_loss", F.cross_entropy(logits, y))


class DistillationEvaluatingBoth(Distillation):
    """The teacher's accuracy is logged in validation too, and the teacher is called first."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("teacher_acc", (self.teacher(x).argmax(1) == y).float().mean())
        self.log("student_acc", (self.student(x).argmax(1) == y).float().mean())


class MeanTeacher(Base):
    """An exponential moving average of the student's weights is the teacher; both have one architecture."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = conv()
        self.student = copy.deepcopy(self.teacher)
        self.teacher.requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        with torch.no_grad():
            target = self.teacher(x).softmax(dim=1)
        logits = self.student(x + 0.01 * torch.randn_like(x))
        return F.cross_entropy(logits, y) + F.mse_loss(logits.softmax(dim=1), target)

    def on_train_batch_end(self, *args: Any) -> None:
        for mine, other in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            mine.data.lerp_(other.data, 0.1)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.student(x), y)


class EncoderAndHead(Base):
    """No ``forward``; the parts are called one after the other in the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = conv(outputs=32)
        self.head = nn.Linear(32, 4)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.head(self.encoder(x)), y)


class EncoderAndHeads(Base):
    """A shared encoder and two heads in a ModuleDict."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = conv(outputs=16)
        self.heads = nn.ModuleDict({"shape": nn.Linear(16, 4), "colour": nn.Linear(16, 2)})

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        features = self.encoder(x)
        return F.cross_entropy(self.heads["shape"](features), y) + F.cross_entropy(
            self.heads["colour"](features), y % 2
        )


def shape_of(module: nn.Module, images: Tensor) -> Tensor:
    """The option ``forward=`` as an import path names it."""
    return module.heads["shape"](module.encoder(images))


class TwoHeads(Base):
    """``forward`` returns the logits of two heads."""

    def __init__(self, first: int = 2, second: int = 4) -> None:
        super().__init__()
        self.body = conv(outputs=16)
        self.first, self.second = nn.Linear(16, first), nn.Linear(16, second)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(x)
        return self.first(features), self.second(features)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        first, second = self(x)
        return F.cross_entropy(first, y % first.shape[1]) + F.cross_entropy(second, y)


class FeaturesAndLogits(Base):
    """``forward`` returns features and logits, as for a centre loss."""

    def __init__(self, order: str = "features first", outputs: int = 4) -> None:
        super().__init__()
        self.body, self.fc = conv(outputs=16), nn.Linear(16, outputs)
        self.order = order

    def forward(self, x: Tensor) -> Any:
        features = self.body(x)
        logits = self.fc(features)
        if self.order == "dict":
            return {"features": features, "out": logits}
        if self.order == "nested":
            return (features, (features * 2, {"y": logits}))
        return (features, logits) if self.order == "features first" else (logits, features)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        output = self(x)
        if self.order == "dict":
            logits = output["out"]
        elif self.order == "nested":
            logits = output[1][1]["y"]
        else:
            logits = output[1] if self.order == "features first" else output[0]
        return F.cross_entropy(logits, y)


class LogitsAndProbabilities(Plain):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(x)
        return logits, logits.softmax(dim=1)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x)[0], y)


class LinearProbe(Base):
    """Self-supervised features that stay as they are, and a linear layer; no ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = conv(outputs=16).eval().requires_grad_(False)
        self.linear = nn.Linear(16, 4)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        with torch.no_grad():
            features = self.backbone(x)
        return F.cross_entropy(self.linear(features), y)


class CoTeaching(Base):
    """Two networks that are trained alike; no ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(), conv()

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.first(x), y) + F.cross_entropy(self.second(x), y)


class Ensemble(Base):
    """The mean of several networks; no ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList([conv() for _ in range(3)])

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(torch.stack([net(x) for net in self.nets]).mean(dim=0), y)


class CallsItsForward(Plain):
    """The steps call ``self.forward``, which no hook sees, and ``forward`` changes the images."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x * 4 - 1)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.forward(x), y)


class ScalesInTheStep(Base):
    """Bytes are scaled in the steps; no ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        self.model = conv()

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.model(x / 255), y)


class InTwoParts(Base):
    """timm's ``forward_features`` and ``forward_head`` instead of a call; no ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        timm = import_module("timm")
        self.model = timm.create_model("test_resnet", num_classes=4)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.model.forward_head(self.model.forward_features(x)), y)


class Siamese(Base):
    """Two images, and whether they show the same."""

    def __init__(self) -> None:
        super().__init__()
        self.net = conv(outputs=16)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return F.pairwise_distance(self.net(first), self.net(second))

    def loss(self, batch: Any) -> Tensor:
        first, second, same = batch
        distance = self(first, second)
        return (same * distance.square() + (1 - same) * F.relu(1 - distance).square()).mean()


class Contrastive(Base):
    """SimCLR: two views of each image, no labels in the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = conv(outputs=16)
        self.projector = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.projector(self.encoder(x)), dim=1)

    def loss(self, batch: Any) -> Tensor:
        x, _ = batch
        z = torch.cat([self(x), self(x + 0.1)])
        similar = (z @ z.T) / 0.5 - 1e9 * torch.eye(len(z))
        return F.cross_entropy(similar, torch.arange(len(z)).roll(len(x)))


class TwoViews(Contrastive):
    """The loader gives two views of each image."""

    def loss(self, batch: Any) -> Tensor:
        (first, second), _ = batch
        z, w = self(first), self(second)
        return F.cross_entropy(z @ w.T / 0.5, torch.arange(len(z)))


class ArcFace(Base):
    """An embedding, and a loss with weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = conv(outputs=16)
        self.weight = nn.Parameter(torch.randn(4, 16))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.backbone(x), dim=1)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        cosine = F.linear(self(x), F.normalize(self.weight, dim=1)).clamp(-0.99, 0.99)
        margin = torch.where(F.one_hot(y, 4).bool(), (cosine.acos() + 0.2).cos(), cosine)
        return F.cross_entropy(margin * 8, y)


class MultiLabel(Plain):
    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.binary_cross_entropy_with_logits(self(x), y)


class MultiLabelSigmoid(Plain):
    """The sigmoids are in the network."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(*conv(), nn.Sigmoid()))

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.binary_cross_entropy(self(x), y)


class Regression(Plain):
    """One number per image."""

    def __init__(self, squeezed: bool = False, outputs: int = 1) -> None:
        super().__init__(conv(outputs=outputs))
        self.squeezed = squeezed

    def forward(self, x: Tensor) -> Tensor:
        y = self.model(x)
        return y.squeeze(1) if self.squeezed else y

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        found = self(x)
        return F.mse_loss(found, y.float().view_as(found))


class OneSigmoid(Plain):
    """Two classes with one sigmoid at the end."""

    def __init__(self, squeezed: bool = False) -> None:
        super().__init__(conv(outputs=1))
        self.squeezed = squeezed

    def forward(self, x: Tensor) -> Tensor:
        p = torch.sigmoid(self.model(x))
        return p.squeeze(-1) if self.squeezed else p

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        p = self(x)
        return F.binary_cross_entropy(p, y.float().view_as(p))


class OneLogit(Plain):
    def __init__(self) -> None:
        super().__init__(conv(outputs=1))

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.binary_cross_entropy_with_logits(self(x).squeeze(1), y.float())


class SoftmaxInside(Plain):
    """A Keras habit: softmax at the end, and the loss of its logarithm."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(*conv(), nn.Softmax(dim=1)))

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.nll_loss(torch.log(self(x) + 1e-8), y)


class LogSoftmaxInside(Plain):
    """As in PyTorch's MNIST example."""

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.model(x), dim=1)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.nll_loss(self(x), y)


class Segmentation(Base):
    """A class for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y)


class Autoencoder(Base):
    """Images from images, without labels."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
        self.decoder = nn.ConvTranspose2d(8, 3, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))

    def loss(self, batch: Any) -> Tensor:
        x = batch[0]
        return F.mse_loss(self(x), x)


class TransferLearning(Base):
    """Lightning's own page on transfer learning: the frozen backbone runs under ``no_grad``."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_extractor = conv(width=16)[:-1]
        self.feature_extractor.eval()
        self.classifier = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.feature_extractor.eval()
        with torch.no_grad():
            representations = self.feature_extractor(x).flatten(1)
        return self.classifier(representations)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.classifier.parameters(), lr=0.01)


class TransferLearningDetached(TransferLearning):
    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.feature_extractor(x).flatten(1).detach())


class DictBatch(Plain):
    """The batch is a dict, the steps know its keys."""

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch["image"]), batch["label"])


class ForwardOfABatch(Base):
    """``forward`` takes the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.model = conv()

    def forward(self, batch: Any) -> Tensor:
        return self.model(batch["image"])

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch), batch["label"])


class ForwardOfALoss(Base):
    """``forward`` takes images and labels, and returns the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.criterion = conv(), nn.CrossEntropyLoss()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.criterion(self.model(x), y)

    def loss(self, batch: Any) -> Tensor:
        return self(*batch)


class ForwardOfAClass(Base):
    """``forward`` is for inference: no gradient, and the class."""

    def __init__(self) -> None:
        super().__init__()
        self.model = conv()

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).argmax(dim=1)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.model(x), y)


class ForwardWithoutGradient(ForwardOfAClass):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).softmax(dim=1)


class OnDevice(Plain):
    """Bytes come from the loader; the device makes them floats and normalizes them."""

    def __init__(self) -> None:
        super().__init__()
        self.prepare = v2.Compose(
            [v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean=[0.5, 0.4, 0.3], std=[0.2, 0.25, 0.3])]
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, y = batch
        return self.prepare(x), y


class OnDeviceKornia(Plain):
    """Augmentation with kornia, in training only; the normalization is a module of the LightningModule."""

    def __init__(self) -> None:
        super().__init__()
        kornia = import_module("kornia.augmentation")
        self.augment = kornia.AugmentationSequential(kornia.RandomHorizontalFlip(p=0.5), data_keys=["input"])
        self.normalize = kornia.Normalize(mean=torch.tensor([0.5, 0.4, 0.3]), std=torch.tensor([0.2, 0.25, 0.3]))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, y = batch
        if self.trainer.training:
            x = self.augment(x)
        return self.normalize(x), y


class AugmentsInside(Base):
    """Normalization and augmentation are children that the steps call; no ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        self.normalize = v2.Normalize(mean=[0.5, 0.4, 0.3], std=[0.2, 0.25, 0.3])
        self.net = conv()

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.net(self.normalize(x)), y)


class NormalizesTwice(AugmentsInside):
    """``forward`` is for inference; the steps do the same by themselves."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.normalize(x))


class Normalized(nn.Module):
    """A network that normalizes its images."""

    def __init__(self) -> None:
        super().__init__()
        self.normalize = v2.Normalize(mean=[0.5, 0.4, 0.3], std=[0.2, 0.25, 0.3])
        self.backbone = conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone(self.normalize(x))


class PartOfAWrapper(Base):
    """The steps call the parts of a wrapper."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Normalized()

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.model.backbone(self.model.normalize(x)), y)


class AugmentsInTraining(Base):
    """Augmentation on the device, in steps of training only; no ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        self.augment = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomErasing(p=1.0), v2.ColorJitter(0.3, 0.3)])
        self.net = conv()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return self.loss((self.augment(x), y))

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.net(x), y)


class ResizesInTheStep(Base):
    def __init__(self) -> None:
        super().__init__()
        self.net = conv()

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.net(F.interpolate(x, (24, 24))), y)


class WithMetrics(Plain):
    """Metrics and the loss are children too, and get logits."""

    def __init__(self) -> None:
        super().__init__()
        metrics = import_module("torchmetrics")
        self.criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
        self.metrics = metrics.MetricCollection([metrics.Accuracy(task="multiclass", num_classes=4)])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        logits = self(x)
        self.log("val_loss", self.criterion(logits, y))
        self.metrics.update(logits, y)

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.metrics.compute())
        self.metrics.reset()


class Mixup(Plain):
    """Soft labels in training, numbers in validation."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        soft = F.one_hot(y, 4).float()
        return F.cross_entropy(self(0.7 * x + 0.3 * x.flip(0)), 0.7 * soft + 0.3 * soft.flip(0))


class ManualAccumulation(Plain):
    """Manual optimisation that steps every second batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        self.manual_backward(self.loss(batch) / 2)
        if batch_idx % 2:
            optimizer.step()
            optimizer.zero_grad()


class GAN(Base):
    """A generator and a discriminator; the labels of the images are not used."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(8, 3 * 16 * 16), nn.Unflatten(1, (3, 16, 16)), nn.Tanh())
        self.discriminator = conv(outputs=1)

    def forward(self, z: Tensor) -> Tensor:
        return self.generator(z)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, _ = batch
        generator, discriminator = self.optimizers()
        fake = self(torch.randn(len(x), 8))
        real_loss = F.binary_cross_entropy_with_logits(self.discriminator(x), torch.ones(len(x), 1))
        fake_loss = F.binary_cross_entropy_with_logits(self.discriminator(fake.detach()), torch.zeros(len(x), 1))
        discriminator.zero_grad()
        self.manual_backward(real_loss + fake_loss)
        discriminator.step()
        generator.zero_grad()
        self.manual_backward(F.binary_cross_entropy_with_logits(self.discriminator(fake), torch.ones(len(x), 1)))
        generator.step()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("real", self.discriminator(batch[0]).mean())

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(self.generator.parameters()), torch.optim.Adam(self.discriminator.parameters())]


class Bags(Base):
    """Multiple-instance learning: a bag of images has one label."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.attention, self.head = conv(outputs=16), nn.Linear(16, 1), nn.Linear(16, 2)

    def forward(self, bags: Tensor) -> Tensor:
        count, size = bags.shape[:2]
        features = self.encoder(bags.flatten(0, 1)).unflatten(0, (count, size))
        return self.head((self.attention(features).softmax(dim=1) * features).sum(dim=1))

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y)


class Video(Base):
    """Clips ``(N, C, T, H, W)``."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv3d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten())
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x))

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y)


class ImageAndTable(Base):
    """An image and numbers about it."""

    def __init__(self) -> None:
        super().__init__()
        self.images, self.head = conv(outputs=16), nn.Linear(16 + 3, 4)

    def forward(self, x: Tensor, numbers: Tensor) -> Tensor:
        return self.head(torch.cat([self.images(x), numbers], dim=1))

    def loss(self, batch: Any) -> Tensor:
        x, numbers, y = batch
        return F.cross_entropy(self(x, numbers), y)


class Perceptron(Plain):
    """No convolution at all."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 16), nn.ReLU(), nn.Linear(16, 4)))


class Growing(Plain):
    """A network that grows by a block after the first epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.blocks, self.head = nn.ModuleList(), nn.Linear(8, 4)
        del self.model

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(dim=(2, 3)))

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
            self.blocks.append(block)
            self.optimizers().add_param_group({"params": block.parameters()})
