"""What each technique costs, ours, captum's and grad-cam's, as a ratio to bare passes through the same model.

    python benchmarks/attribution.py [--images 8] [--repeats 5] [--threads 1] [--device cpu]

A bare pass is the model in eval mode with frozen parameters: for a gradient technique a forward and a backward to the
input, for a gradient-free one a forward. The bare time of a technique is that of the number of passes that its
definition needs, in the cheapest of several batch sizes. Ours, the peers' and the bare passes alternate, and medians of
CPU seconds are compared, so that a busy machine matters little; on an accelerator, of seconds until it is done.
EfficientNet-lite0 has its ImageNet weights, ResNet-18 random ones.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

import vis_callbacks as vc
from vis_callbacks import functional as ours
from vis_callbacks.data.samples import Samples
from vis_callbacks.event import Event, Moment, SharedPass
from vis_callbacks.model.features import default_layer
from vis_callbacks.model.guard import undisturbed
from vis_callbacks.model.layers import find_layer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pytorch_grad_cam
    from captum import attr as captum
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from pretrained import Photographs, efficientnet_lite0

WINDOW, STRIDE = 56, 28
CAMS = {
    "grad_cam": "GradCAM",
    "grad_cam_plus_plus": "GradCAMPlusPlus",
    "hires_cam": "HiResCAM",
    "layer_cam": "LayerCAM",
    "xgrad_cam": "XGradCAM",
    "eigen_cam": "EigenCAM",
}
Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One technique: how many bare passes it is, and who does it."""

    name: str
    passes: int
    backward: bool
    work: Mapping[str, Work]
    repeats: int | None = None


class Bench:
    """One model with images, and all the work to be timed on it."""

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self.model = model.eval()
        self.frozen = copy.deepcopy(model).requires_grad_(False)
        self.images = images
        with torch.no_grad():
            self.targets = model(images).argmax(dim=1)
        self.layer = default_layer(model, images)
        self.module = find_layer(model, self.layer)[1]
        sizes = (2, 4, 8, 16, 32, 64, 128) if images.is_cuda else (2, 4, 8, 16, 32)
        self.batch = {
            backward: min(sizes, key=lambda size: self.seconds_a_pass(size, backward)) for backward in (True, False)
        }

    def bare(self, size: int, *, backward: bool) -> None:
        """Run one batch of bare passes."""
        rows = torch.arange(size, device=self.images.device) % len(self.images)
        images = self.images[rows].requires_grad_(backward)
        with torch.set_grad_enabled(backward):
            scores = self.frozen(images).gather(1, self.targets[rows, None]).sum()
        if backward:
            torch.autograd.grad(scores, images)

    def seconds_a_pass(self, size: int, backward: bool, repeats: int = 3) -> float:
        """Return the least seconds of a pass in batches of a size."""
        self.bare(size, backward=backward)
        return min(timed(lambda: self.bare(size, backward=backward)) for _ in range(repeats)) / size

    def bare_passes(self, row: Row) -> float:
        """Seconds of a row's passes. Of many equal batches a few are timed."""
        size = min(self.batch[row.backward], row.passes)
        batches = row.passes / size
        few = min(int(batches) or 1, 8)
        return timed(lambda: [self.bare(size, backward=row.backward) for _ in range(few)]) * batches / few

    def event(self) -> None:
        """All nine techniques that need one pass, as in an event of a training, without drawing."""
        samples = Samples(self.images, self.targets, tuple(map(str, range(len(self.images)))))
        callbacks = [vc.Activations(), vc.Saliency(), vc.GradientXInput()]
        callbacks += [getattr(vc, name)() for name in CAMS.values()]
        with undisturbed(self.model):
            event = Event(self.model, Moment(1, 1), shared=SharedPass(self.model, samples, "predicted"))
            for callback in callbacks:
                event.shared.add(callback.needs(event))
            for callback in callbacks[1:]:
                callback.attribute(event)
            for layout in event.layouts_across_depth(callbacks[0].depth):
                layout.to_map(event.trace.activations[layout.layer]).cpu()

    def cam(self, name: str, count: int | None = None) -> Work:
        """Grad-cam's technique on all images, or the first."""

        def work() -> None:
            with getattr(pytorch_grad_cam, name)(model=self.model, target_layers=[self.module]) as cam:
                cam.batch_size = self.batch[False]
                targets = [ClassifierOutputTarget(int(target)) for target in self.targets[:count]]
                cam(input_tensor=self.images[:count], targets=targets)

        return work

    def captum(self, technique: Any, **options: Any) -> Work:
        """Captum's technique on all images."""

        def work() -> None:
            technique.attribute(self.images.clone(), target=self.targets, **options)

        return work

    def rows(self) -> list[Row]:
        """All techniques."""
        model, images, targets, count = self.model, self.images, self.targets, len(self.images)
        one, first = images[:1], targets[:1]

        def own(function: Callable[..., Tensor], *arguments: Any, **options: Any) -> Work:
            return lambda: function(model, images, targets, *arguments, **options)

        with torch.no_grad():
            activation = []
            handle = self.module.register_forward_hook(lambda _, __, output: activation.append(output))
            model(one)
            handle.remove()
        channels = activation[0].shape[1]
        side = images.shape[-1]
        windows = (1 + -(-(side - WINDOW) // STRIDE)) ** 2
        sliding = {"sliding_window_shapes": (3, WINDOW, WINDOW), "strides": (3, STRIDE, STRIDE)}
        integrated = {"n_steps": 32, "method": "riemann_middle", "internal_batch_size": 16}
        noisy = {"nt_samples": 25, "nt_samples_batch_size": 2, "stdevs": 0.3, "abs": False}
        gradient_peer = captum.Saliency(model)
        return [
            Row("gradient", count, True, {"ours": own(ours.gradient), "captum": self.captum(gradient_peer, abs=False)}),
            Row("saliency", count, True, {"ours": own(ours.saliency), "captum": self.captum(gradient_peer)}),
            Row(
                "gradient_x_input",
                count,
                True,
                {"ours": own(ours.gradient_x_input), "captum": self.captum(captum.InputXGradient(model))},
            ),
            Row(
                "guided_backprop",
                count,
                True,
                {"ours": own(ours.guided_backprop), "captum": self.captum(captum.GuidedBackprop(model))},
            ),
            Row(
                "deconvnet",
                count,
                True,
                {"ours": own(ours.deconvnet), "captum": self.captum(captum.Deconvolution(model))},
            ),
            Row(
                "guided_grad_cam",
                2 * count,
                True,
                {
                    "ours": own(ours.guided_grad_cam),
                    "captum": self.captum(captum.GuidedGradCam(model, self.module), interpolate_mode="bilinear"),
                },
            ),
            *(
                Row(name, count, True, {"ours": own(getattr(ours, name)), "grad-cam": self.cam(peer)})
                for name, peer in CAMS.items()
            ),
            Row(
                "the nine together",
                count,
                True,
                {
                    "ours": self.event,
                    "captum": lambda: [self.captum(gradient_peer)(), self.captum(captum.InputXGradient(model))()],
                    "grad-cam": lambda: [self.cam(peer)() for peer in CAMS.values()],
                },
            ),
            Row(
                "integrated_gradients, 32",
                32 * count,
                True,
                {
                    "ours": own(ours.integrated_gradients, steps=32),
                    "captum": self.captum(captum.IntegratedGradients(model), **integrated),
                },
                3,
            ),
            Row(
                "smoothgrad, 25",
                25 * count,
                True,
                {
                    "ours": own(ours.smoothgrad, samples=25),
                    "captum": self.captum(captum.NoiseTunnel(gradient_peer), **noisy),
                },
                3,
            ),
            Row(
                f"occlusion, {windows}",
                (windows + 1) * count,
                False,
                {
                    "ours": own(ours.occlusion, window=WINDOW, stride=STRIDE),
                    "captum": self.captum(captum.Occlusion(model), perturbations_per_eval=1, **sliding),
                },
                3,
            ),
            Row(
                f"score_cam, 1 x {channels}",
                channels + 1,
                False,
                {"ours": lambda: ours.score_cam(model, one, first), "grad-cam": self.cam("ScoreCAM", 1)},
                1,
            ),
            Row(
                f"ablation_cam, 1 x {channels}",
                channels + 1,
                False,
                {"ours": lambda: ours.ablation_cam(model, one, first), "grad-cam": self.cam("AblationCAM", 1)},
                1,
            ),
        ]


def completeness(bench: Bench) -> None:
    """Print how far integrated gradients are from the rise of the logit, by the midpoint rule and by Gauss-Legendre."""
    images, targets = bench.images, bench.targets
    with torch.no_grad():
        rise = bench.model(images) - bench.model(torch.zeros_like(images))
    rise = rise.gather(1, targets[:, None])[:, 0]
    peer = captum.IntegratedGradients(bench.model)
    for steps in (32, 128):
        ours_total = ours.integrated_gradients(bench.model, images, targets, steps=steps).sum((1, 2, 3))
        theirs = peer.attribute(images, target=targets, n_steps=steps, method="gausslegendre", internal_batch_size=16)
        errors = [((total - rise) / rise).abs().median() for total in (ours_total, theirs.detach().sum((1, 2, 3)))]
        print(
            f"integrated gradients, {steps} steps: median completeness error, midpoint rule {errors[0]:.1%}, "
            f"captum's Gauss-Legendre {errors[1]:.1%}",
            flush=True,
        )


def timed(work: Work) -> float:
    """Return CPU seconds, which other programs do not add to; where CUDA is at work, seconds until it is done."""
    clock = time.perf_counter if torch.cuda.is_initialized() else time.process_time
    start = clock()
    work()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return clock() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--only", default="", help="techniques whose name holds this")
    parser.add_argument("--completeness", action="store_true", help="measure that of integrated gradients instead")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")

    photographs = Photographs()
    images = torch.stack([photographs[index % len(photographs)][0] for index in range(arguments.images)])
    images = images + 0.01 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    images = images.to(arguments.device)
    torch.manual_seed(0)
    for name, model in (("EfficientNet-lite0", efficientnet_lite0()), ("ResNet-18", torchvision.models.resnet18())):
        bench = Bench(model.to(arguments.device), images)
        if arguments.completeness:
            print(f"\n{name}, {len(images)} images", flush=True)
            completeness(bench)
            continue
        print(
            f"\n{name}, {len(images)} images of {tuple(images.shape[2:])}, {arguments.threads} threads, layer "
            f"{bench.layer}; a bare pass: {1e3 * bench.seconds_a_pass(bench.batch[True], True):.1f} ms in batches of "
            f"{bench.batch[True]}, forward alone {1e3 * bench.seconds_a_pass(bench.batch[False], False):.1f} ms in "
            f"batches of {bench.batch[False]}\n"
        )
        print(f"{'':<26} {'passes':>7} {'bare':>9} {'ours':>7} {'captum':>7} {'grad-cam':>8}")
        for row in bench.rows():
            if arguments.only not in row.name:
                continue
            seconds: dict[str, list[float]] = {who: [] for who in ("bare", *row.work)}
            repeats = min(row.repeats or arguments.repeats, arguments.repeats)
            # The first round pays for allocations and the feature info; single long ones do not need it.
            for turn in range(repeats + (repeats > 1)):
                for who in seconds:
                    with contextlib.redirect_stderr(io.StringIO()):
                        took = bench.bare_passes(row) if who == "bare" else timed(row.work[who])
                    if turn or repeats == 1:
                        seconds[who].append(took)
            medians = {who: statistics.median(values) for who, values in seconds.items()}
            ratios = [
                f"{medians[who] / medians['bare']:.2f}" if who in medians else ""
                for who in ("ours", "captum", "grad-cam")
            ]
            print(
                f"{row.name:<26} {row.passes:>7} {medians['bare']:>7.2f} s "
                f"{ratios[0]:>7} {ratios[1]:>7} {ratios[2]:>8}",
                flush=True,
            )


if __name__ == "__main__":
    main()
