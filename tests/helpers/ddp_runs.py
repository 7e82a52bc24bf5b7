"""Runs of several processes, which `test_ddp` starts: each process writes down what it ends with."""

from __future__ import annotations

import json
import os
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.helpers import tiny
from tests.training.undisturbed import Case, all_callbacks, train
from vis_callbacks import (
    ClassAppearance,
    Event,
    Filters,
    Moment,
    Occlusion,
    Panel,
    Report,
    Samples,
    Tile,
    VisualizationCallback,
    default_suite,
)

RANK = int(os.environ.get("LOCAL_RANK", 0))
DDP = {"devices": 2, "strategy": "ddp"}


class Witness(VisualizationCallback):
    """Says of each sample which process saw it, and what it and the model were like there."""

    def visualize(self, event: Event) -> Iterable[Panel]:
        norms = [module for module in event.model.modules() if isinstance(module, nn.BatchNorm2d)]
        statistics = float(sum(norm.running_mean.double().sum() for norm in norms))
        for index, image in enumerate(event.samples.images):
            seen = {"process": event.share.rank, "image": float(image.double().sum()), "statistics": statistics}
            yield event.sample_panel(index, Tile(image[:1]))
            yield Panel(f"{event.samples.names[index]}/seen", Tile(torch.zeros(1, 4, 4)), scalars=seen)


class Sharing(Witness):
    """The same, by all processes."""

    split = "samples"


class Costly(Sharing):
    """The same, and says that no budget can pay for it."""

    def passes(self, moment: Moment, samples: Samples) -> int:
        return 10**9


class Stumbling(Sharing):
    """Fails in one process, in one epoch."""

    def __init__(self, rank: int, epoch: int, **options: Any) -> None:
        super().__init__(**options)
        self.rank, self.epoch = rank, epoch

    def visualize(self, event: Event) -> Iterable[Panel]:
        if (event.share.rank, event.moment.epoch) == (self.rank, self.epoch):
            raise RuntimeError(f"process {self.rank} stumbles")
        return super().visualize(event)


class Mumbling(Sharing):
    """Cannot say what the other process must know, or cannot understand it."""

    def __init__(self, rank: int, **options: Any) -> None:
        super().__init__(**options)
        self.rank = rank

    def shared_state(self) -> Any:
        if self.rank == RANK == 0 and self.schedule.last_epoch == 1:
            raise RuntimeError("not a word")
        return "a word"

    def load_shared_state(self, state: Any) -> None:
        if self.rank == RANK == 1 and self.schedule.last_epoch == 1:
            raise RuntimeError("not a word understood")


class Picklable(tiny.module_class(tiny.PACKAGES[0])):
    """A module that can be sent to another process."""


class Endless(Sharing):
    """In one process, and one epoch, never comes back."""

    def __init__(self, rank: int, **options: Any) -> None:
        super().__init__(**options)
        self.rank = rank

    def visualize(self, event: Event) -> Iterable[Panel]:
        if event.moment.epoch == 1 and event.share.rank == self.rank:
            (Path(sys.argv[2]) / "waiting").touch()
            time.sleep(600)
        return super().visualize(event)


def undisturbed(folder: Path, package: str, **options: Any) -> Any:
    """With and without all callbacks."""
    case = Case(trainer={**DDP, **options})

    def draws(*_: Any) -> None:
        random.random(), np.random.rand(), torch.rand(())

    def ours() -> list[Any]:
        witnesses = [one(samples=5, every_n_steps=1).with_handler(draws) for one in (Witness, Sharing)]
        return [*all_callbacks(), *witnesses]

    return {
        "without": train(case, package, list, folder / "without"),
        "with": train(case, package, ours, folder / "with"),
    }


def faults(folder: Path, package: str) -> Any:
    """Techniques that fail in one process alone, and processes that cannot speak to each other."""
    case = Case(trainer={**DDP, "max_epochs": 3})
    found = {"without": train(case, package, list, folder / "without")}
    for name, ours in {
        "stumbling": lambda: [Stumbling(1, 1, name="A"), Stumbling(0, 2, name="B"), Occlusion(), Filters(), Report()],
        "mumbling 0": lambda: [Mumbling(0), Filters(), Report()],
        "mumbling 1": lambda: [Mumbling(1), Filters(), Report()],
    }.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found[name] = train(case, package, ours, folder / name)
        found[f"warnings of {name}"] = [str(one.message) for one in caught if "Visualization" in one.category.__name__]
    return found


def left_out(folder: Path, package: str) -> Any:
    """Techniques that a budget leaves out until training has ended, which the last validation does not."""
    callbacks = [Filters(), Costly(samples=4), Witness(samples=4), Report(budget=1e-9)]
    options = {"max_epochs": 3, "val_check_interval": 3, **DDP}
    trainer = tiny.trainer(folder, callbacks, package=package, **options)
    trainer.fit(tiny.module(package), tiny.loader(64), tiny.loader(32, seed=1))
    return trainer.current_epoch


def resumed(folder: Path, package: str) -> None:
    """A run of two epochs, in one go and in two."""
    fit(folder / "whole", package, epochs=2)
    fit(folder / "begun", package, epochs=1).save_checkpoint(folder / "begun.ckpt")
    fit(folder / "resumed", package, epochs=2, ckpt_path=folder / "begun.ckpt")


def fit(folder: Path, package: str, *, epochs: int, **options: Any) -> Any:
    pictures = ClassAppearance(["star", "circle", "cross"], steps=4, recipe="simonyan", samples=2, restart_every=100)
    trainer = tiny.trainer(folder, [pictures, Sharing(samples=3)], package=package, max_epochs=epochs, **DDP)
    trainer.fit(tiny.module(package), tiny.loader(32), tiny.loader(24, seed=1), **options)
    return trainer


def endless(folder: Path, package: str, *, in_pictures_of: int | None = None) -> None:
    """A run that waits for Ctrl-C, in training or with one process making pictures."""

    class Waiting(tiny.module_class(package)):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.current_epoch == 2:
                (folder / "waiting").touch()
                time.sleep(600)
            return super().training_step(batch, batch_idx)

    ours = [Sharing(samples=4) if in_pictures_of is None else Endless(in_pictures_of, samples=4)]
    trainer = tiny.trainer(folder, [*ours, Filters(), Report()], package=package, max_epochs=4, **DDP)
    trainer.fit(Waiting(), tiny.loader(32), tiny.loader(16, seed=1))


def user_error(folder: Path, package: str) -> None:
    """A run that fails in one process's training step."""

    class Failing(tiny.module_class(package)):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.current_epoch == 1 and self.global_rank == 1:
                (folder / "failed").touch()
                raise RuntimeError("the user's own error")
            return super().training_step(batch, batch_idx)

    trainer = tiny.trainer(folder, [*default_suite(), Sharing(samples=4)], package=package, **DDP)
    trainer.fit(Failing(), tiny.loader(32), tiny.loader(16, seed=1))


def spawned(folder: Path, package: str) -> Any:
    """Processes that get the callbacks through a pickle, or by a fork."""

    def weights(strategy: str, ours: list[Any]) -> list[list[float]]:
        torch.manual_seed(0)
        module = Picklable()
        trainer = tiny.trainer(folder / strategy, ours, devices=2, strategy=strategy)
        trainer.fit(module, tiny.loader(32), tiny.loader(16, seed=1))
        return [tensor.flatten().tolist() for tensor in module.state_dict().values()]

    runs = {strategy: [*default_suite(), Sharing(samples=4)] for strategy in ("ddp_spawn", "ddp_fork")}
    return {"without": weights("ddp_fork", []), **{name: weights(name, ours) for name, ours in runs.items()}}


def sharded(folder: Path, package: str) -> Any:
    """Weights of which each process holds a part."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    class Sharded(tiny.module_class(package)):
        def configure_model(self) -> None:
            if not isinstance(next(self.net.parameters()), DTensor):
                fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.was_sharded = all(isinstance(parameter, DTensor) for parameter in self.net.head.parameters())
            return super().training_step(batch, batch_idx)

    strategy = import_module(package).strategies.ModelParallelStrategy()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = tiny.trainer(folder, default_suite(), package=package, devices=2, strategy=strategy)
        module = Sharded()
        trainer.fit(module, tiny.loader(32), tiny.loader(16, seed=1))
    said = [str(one.message) for one in caught if "Visualization" in one.category.__name__]
    return {"said": said, "epochs": trainer.current_epoch, "sharded": module.was_sharded}


RUNS: dict[str, Callable[[Path, str], Any]] = {
    "undisturbed": undisturbed,
    "undisturbed by NCCL": partial(undisturbed, accelerator="cuda", deterministic=True),
    "faults": faults,
    "resumed": resumed,
    "left out": left_out,
    "in training": endless,
    "in pictures of process 0": partial(endless, in_pictures_of=0),
    "in pictures of process 1": partial(endless, in_pictures_of=1),
    "user error": user_error,
    "spawned": spawned,
    "sharded": sharded,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    result = RUNS[sys.argv[1]](Path(sys.argv[2]), sys.argv[3])
    (Path(sys.argv[2]) / f"rank{RANK}.json").write_text(json.dumps(result))
