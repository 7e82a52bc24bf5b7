"""Bare passes: the least that a technique's gradients cost, a forward and a backward to the input, and no more."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from pretrained import Photographs, efficientnet_lite0

MODELS: dict[str, Callable[[], nn.Module]] = {
    "EfficientNet-lite0": efficientnet_lite0,
    "ResNet-18": lambda: timm.create_model("resnet18"),
    "ViT-S/16": lambda: timm.create_model("vit_small_patch16_224"),
}
"""Only the first has learnt something."""


def tiny_model() -> nn.Module:
    """Return what stands for each of them where a script is only tried out."""
    return timm.create_model("test_resnet", num_classes=10)


class BarePasses:
    """Passes through a copy of a model, in eval mode and with frozen parameters.

    Args:
        model: What is copied.
        images: Images that go through it.
        largest: The largest batch that is tried.
        clock: Returns seconds. None: those of `timed`.

    Attributes:
        targets: The predicted classes.
        batch: The batch size at which a pass is cheapest, with a backward and without.
    """

    def __init__(
        self, model: nn.Module, images: Tensor, largest: int, clock: Callable[[], float] | None = None
    ) -> None:
        self.frozen = copy.deepcopy(model).eval().requires_grad_(False)
        self.images = images
        self._clock = clock
        with torch.no_grad():
            self.targets = self.frozen(images).argmax(dim=1)
        sizes = [size for size in (2, 4, 8, 16, 32, 64, 128) if size <= largest]
        self.batch = {
            backward: min(sizes, key=lambda size: self.seconds_a_pass(size, backward=backward))
            for backward in (True, False)
        }

    def run(self, size: int, *, backward: bool) -> None:
        """Run one batch of bare passes."""
        rows = torch.arange(size, device=self.images.device) % len(self.images)
        images = self.images[rows].requires_grad_(backward)
        with torch.set_grad_enabled(backward):
            scores = self.frozen(images).gather(1, self.targets[rows, None]).sum()
        if backward:
            torch.autograd.grad(scores, images)

    def seconds_a_pass(self, size: int, *, backward: bool, repeats: int = 3) -> float:
        """Return the least seconds of a pass in batches of a size."""
        self.run(size, backward=backward)
        return min(timed(lambda: self.run(size, backward=backward), self._clock) for _ in range(repeats)) / size


def largest_batch(device: torch.device, *, tiny: bool) -> int:
    """Return the largest batch of bare passes that is worth trying."""
    if tiny:
        return 4
    return 128 if device.type == "cuda" else 32


def photographs(count: int, side: int | None = None) -> Tensor:
    """Return photographs with a little noise, so that no two are alike; smaller ones where a script is tried out."""
    found = Photographs()
    images = torch.stack([found[index % len(found)][0] for index in range(count)])
    images = images + 0.01 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return images if side is None else images[..., :side, :side].contiguous()


def timed(work: Callable[[], object], clock: Callable[[], float] | None = None) -> float:
    """Return CPU seconds, which other programs do not add to; where CUDA is at work, seconds until it is done."""
    clock = clock or (time.perf_counter if torch.cuda.is_initialized() else time.process_time)
    start = clock()
    work()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return clock() - start
