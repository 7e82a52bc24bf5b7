"""Trains a small model in one of many ways, and writes down everything that the pictures must not change."""

from __future__ import annotations

import hashlib
import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.helpers import tiny
from tests.helpers.techniques import callback_classes, few
from vis_callbacks import Attention, Event, Panel, Report, Tile, VisualizationCallback

CHEAP = {"steps": 2, "octaves": 1, "classes": [0, "star"], "layers": ["net.conv2"]}
"""Arguments that make a callback fast, where it has them; see also `few`."""


@dataclass(frozen=True)
class Case:
    """A way to train."""

    module: str = "plain"
    net: Mapping[str, float] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    loader: Mapping[str, Any] = field(default_factory=dict)
    callbacks: Callable[[Any], list[Any]] = lambda pl: []
    ours: Mapping[str, Any] = field(default_factory=dict)
    chunk_size: int | None = None
    prepare: Callable[[nn.Module], object] = lambda module: None
    extra: tuple[type[VisualizationCallback], ...] = ()
    resumed: bool = False
    ours_first: bool = False
    says: str = ""


class Pyramid(tiny.Net):
    """A net whose stages return several tensors in one output, of which the head reads one."""

    class Stages(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3)

        def forward(self, x: Tensor) -> dict[str, Any]:
            deep = torch.relu(self.conv(x))
            return {"maps": [x, deep], "pooled": deep.mean(dim=(2, 3))}

    def __init__(self) -> None:
        super().__init__()
        self.stages = Pyramid.Stages()

    def forward(self, images: Tensor) -> Tensor:
        found = self.stages(self.branch(torch.relu(self.bn1(self.conv1(images)))))
        return self.head(found["maps"][1].mean(dim=(2, 3)))


class Vandal(VisualizationCallback):
    """Changes all that it may change, and raises in the middle."""

    def visualize(self, event: Event) -> list[Panel]:
        event.model.train()
        for module in event.model.modules():
            module.training = True
            module.register_forward_hook(lambda *_: None)
            module.forward = lambda *_: None
            module.visited = True
        for parameter in event.model.parameters():
            parameter.requires_grad_(True)
            parameter.grad = torch.ones_like(parameter)
        for buffer in event.model.buffers():
            buffer.add_(1)
        random.random(), np.random.rand(), torch.rand(3)
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        raise RuntimeError("a vandal was here")


class Thief(VisualizationCallback):
    """Steals one number from a random generator outside of the guard: what the table must find."""

    def on_train_batch_end(self, *args: Any) -> None:
        torch.rand(1)
        super().on_train_batch_end(*args)

    def visualize(self, event: Event) -> list[Panel]:
        return [Panel("nothing", Tile(torch.zeros(1, 4, 4)))]


def all_callbacks(*, chunk_size: int | None = None, **options: Any) -> list[Any]:
    """Every callback that the package exports, with cheap arguments, and the report."""
    return [*(cheap(one, **options) for one in callback_classes(watchers=True)), Report(chunk_size=chunk_size)]


def cheap(callback: type[VisualizationCallback], **options: Any) -> VisualizationCallback:
    own = inspect.signature(callback.__init__).parameters
    given = {name: value for name, value in CHEAP.items() if name in own}
    if callback is Attention:
        # Its layers are those that compute attention.
        del given["layers"]
    # Most of the time would go into compressing large pictures, which is not what is tested here.
    return callback(**{"samples": 2, "transform": corner, **few(callback.__init__), **given, **options})


def corner(picture: Tensor) -> Tensor:
    return picture[:, :16, :16]


def train(case: Case, package: str, ours: Callable[[], Sequence[Any]], folder: Path) -> dict[str, str]:
    """Train with new callbacks and return a fingerprint of everything that matters, by name."""
    pl = import_module(package)
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    module = _modules(package)[case.module](tiny.Net(**case.net))
    case.prepare(module)
    loggers = [pl.loggers.TensorBoardLogger(folder, version=0), pl.loggers.CSVLogger(folder, version=0)]

    def trainer(**options: Any) -> Any:
        theirs, mine = case.callbacks(pl), list(ours())
        callbacks = [*mine, *theirs] if case.ours_first else [*theirs, *mine]
        return tiny.trainer(folder, callbacks, package=package, **{"logger": loggers, **case.trainer, **options})

    def fit(trainer: Any, **options: Any) -> None:
        train_loader = tiny.loader(32, augmented=True, shuffle=True, **case.loader)
        trainer.fit(
            module, train_loader, tiny.loader(16, seed=1, augmented=True, shuffle=True, **case.loader), **options
        )

    if case.resumed:
        first = trainer(max_epochs=1)
        fit(first)
        first.save_checkpoint(folder / "first.ckpt")
        module = _modules(package)[case.module](tiny.Net(**case.net))
    last = trainer()
    fit(last, **({"ckpt_path": folder / "first.ckpt"} if case.resumed else {}))
    return dict(_fingerprint(module, last, folder))


def _fingerprint(module: nn.Module, trainer: Any, folder: Path) -> Iterator[tuple[str, str]]:
    yield from _digests("weights", module.state_dict())
    for index, optimizer in enumerate(trainer.optimizers):
        yield from _digests(f"optimizer {index}", optimizer.state_dict())
    yield from _digests("batches", module.seen)
    yield from _digests("metrics", sorted(path.read_text() for path in folder.rglob("metrics.csv")))
    yield from _digests("callback metrics", dict(trainer.callback_metrics))
    yield from _digests("random of Python", random.getstate())
    yield from _digests("random of NumPy", np.random.get_state())
    yield from _digests("random of torch", torch.get_rng_state())
    for name, part in module.named_modules():
        yield f"flags of {name}", f"training {part.training}, {sorted(vars(part))}, {len(part._forward_hooks)} hooks"
    for name, parameter in module.named_parameters():
        yield from _digests(f"gradient of {name}", [parameter.requires_grad, parameter.grad])
    yield "process", f"{torch.get_default_dtype()}, {torch.are_deterministic_algorithms_enabled()}"


def _digests(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _digests(f"{name}: {key}", item)
    elif isinstance(value, (list, tuple)):
        yield f"{name}: length", str(len(value))
        for index, item in enumerate(value):
            yield from _digests(f"{name}: {index}", item)
    elif isinstance(value, Tensor):
        data = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        yield name, f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(data).hexdigest()}"
    elif isinstance(value, np.ndarray):
        yield name, hashlib.sha256(value.tobytes()).hexdigest()
    else:
        yield name, repr(value)


@cache
def _modules(package: str) -> dict[str, Any]:
    class Plain(tiny.module_class(package)):
        def __init__(self, net: nn.Module) -> None:
            super().__init__(net)
            self.seen: list[Tensor] = []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.seen.append(batch[0])
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.seen.append(batch[0])
            super().validation_step(batch, batch_idx)

    class KeepsBatchNormFrozen(Plain):
        def train(self, mode: bool = True) -> Any:
            super().train(mode)
            self.net.bn1.eval()
            return self

    class LogsInForward(Plain):
        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            self.log("brightness", images.mean(), on_step=False, on_epoch=True)
            self.log_dict({"largest_logit": logits.max()}, on_step=False, on_epoch=True, reduce_fx="max")
            return logits

    class Manual(Plain):
        def __init__(self, net: nn.Module) -> None:
            super().__init__(net)
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            loss = super().training_step(batch, batch_idx)
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                # The second one steps with what two batches have gathered.
                if optimizer is self.optimizers()[0] or batch_idx % 2:
                    optimizer.step()
                    optimizer.zero_grad()

        def configure_optimizers(self) -> Any:
            head = list(self.net.head.parameters())
            body = [one for one in self.net.parameters() if all(one is not other for other in head)]
            return [torch.optim.SGD(head, lr=0.05, momentum=0.9), torch.optim.AdamW(body, lr=0.05)]

    class WithoutForward(Plain):
        """Its steps call its parts."""

        forward = import_module(package).LightningModule.forward

        def logits(self, images: Tensor) -> Tensor:
            return self.net(images)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.seen.append(batch[0])
            loss = nn.functional.cross_entropy(self.logits(batch[0]), batch[1])
            self.log("train_loss", loss, on_step=False, on_epoch=True)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.seen.append(batch[0])
            self.log("val_loss", nn.functional.cross_entropy(self.logits(batch[0]), batch[1]))

    class Distillation(WithoutForward):
        def __init__(self, net: nn.Module) -> None:
            super().__init__(net)
            self.teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Dropout(), nn.Linear(64, 4))
            self.teacher.requires_grad_(False)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            with torch.no_grad():
                wanted = self.teacher(batch[0]).softmax(dim=1)
            imitated = nn.functional.cross_entropy(self.net(batch[0]), wanted)
            return super().training_step(batch, batch_idx) + imitated

    class EncoderAndHead(WithoutForward):
        def __init__(self, net: nn.Module) -> None:
            super().__init__(net)
            self.net.head, self.head = nn.Dropout(0.2), nn.Linear(4, len(tiny.CLASSES))

        def logits(self, images: Tensor) -> Tensor:
            return self.head(self.net(images))

    class BackboneUnderNoGrad(Plain):
        def forward(self, images: Tensor) -> Tensor:
            net = self.net
            with torch.no_grad():
                x = torch.relu(net.bn1(net.conv1(images)))
            return net.head((x + net.branch(x)).amax(dim=(2, 3)))

    class ResizesBuffers(BackboneUnderNoGrad):
        """Observes, as fake quantisation does, and goes on with what it has observed."""

        def __init__(self, net: nn.Module) -> None:
            super().__init__(net)
            self.register_buffer("least", torch.tensor([]))
            self.register_buffer("mean", torch.zeros(4))
            self.register_buffer("last", torch.zeros(1))
            self.steps = torch.zeros(1)

        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            with torch.no_grad():
                if self.least.shape != (4,):
                    self.least.resize_(4).zero_()
                self.least.copy_(torch.minimum(self.least, logits.amin(dim=0)))
                self.mean.mul_(0.9).add_(logits.mean(dim=0), alpha=0.1)
                self.last = logits.detach()[: len(images) // 2]
                self.steps += 1
            return logits - 0.1 * self.mean - 0.01 * self.steps

    class SigmoidHead(Plain):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).sigmoid()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.seen.append(batch[0])
            rows = nn.functional.one_hot(batch[1], len(tiny.CLASSES)).float()
            loss = nn.functional.binary_cross_entropy(self(batch[0]), rows)
            self.log("train_loss", loss, on_step=False, on_epoch=True)
            return loss

    return {
        "distillation": Distillation,
        "encoder and head": EncoderAndHead,
        "plain": Plain,
        "frozen BatchNorm": KeepsBatchNormFrozen,
        "logs in forward": LogsInForward,
        "manual": Manual,
        "backbone under no_grad": BackboneUnderNoGrad,
        "buffers that are resized": ResizesBuffers,
        "sigmoid head": SigmoidHead,
    }
