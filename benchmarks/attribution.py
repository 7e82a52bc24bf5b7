"""What each technique costs, ours, captum's and grad-cam's, as a ratio to bare passes through the same model.

    python benchmarks/attribution.py [--images 8] [--repeats 5] [--threads 1] [--device cpu]

A bare pass is the model in eval mode with frozen parameters: for a gradient technique a forward and a backward to the
input, for a gradient-free one a forward. The bare time of a technique is that of the number of passes that its
definition needs, in the cheapest of several batch sizes. Ours, the peers' and the bare passes alternate, and medians of
CPU seconds are compared, so that a busy machine matters little; on an accelerator, of seconds until it is done.
EfficientNet-lite0 has its ImageNet weights, ResNet-18 random ones. `fit.py` measures a real training.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from bare import MODELS, BarePasses, largest_batch, photographs, timed, tiny_model
from table import Tables, add_options
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

WINDOW, STRIDE = 56, 28
FEW = 2
"""Images for techniques of many passes."""
CAMS = {
    "grad_cam": "GradCAM",
    "grad_cam_plus_plus": "GradCAMPlusPlus",
    "hires_cam": "HiResCAM",
    "layer_cam": "LayerCAM",
    "xgrad_cam": "XGradCAM",
    "eigen_cam": "EigenCAM",
}
WHO = ("ours", "captum", "grad-cam")
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

    def __init__(self, model: nn.Module, images: Tensor, largest: int) -> None:
        self.model = model.eval()
        self.images = images
        self.bare = BarePasses(model, images, largest)
        self.targets = self.bare.targets
        self.layer = default_layer(model, images)
        self.module = find_layer(model, self.layer)[1]

    def bare_passes(self, row: Row) -> float:
        """Seconds of a row's passes. Of many equal batches a few are timed."""
        size = min(self.bare.batch[row.backward], row.passes)
        batches = row.passes / size
        few = min(int(batches) or 1, 8)
        return timed(lambda: [self.bare.run(size, backward=row.backward) for _ in range(few)]) * batches / few

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
                cam.batch_size = self.bare.batch[False]
                targets = [ClassifierOutputTarget(int(target)) for target in self.targets[:count]]
                cam(input_tensor=self.images[:count], targets=targets)

        return work

    def captum(self, technique: Any, count: int | None = None, **options: Any) -> Work:
        """Captum's technique on all images, or the first."""

        def work() -> None:
            technique.attribute(self.images[:count].clone(), target=self.targets[:count], **options)

        return work

    def rows(self) -> list[Row]:
        """All techniques."""
        model, images, targets, count = self.model, self.images, self.targets, len(self.images)
        few = min(FEW, count)

        def own(function: Callable[..., Tensor], count: int | None = None, **options: Any) -> Work:
            return lambda: function(model, images[:count], targets[:count], **options)

        with torch.no_grad():
            activation = []
            handle = self.module.register_forward_hook(lambda _, __, output: activation.append(output))
            model(images[:1])
            handle.remove()
        channels = activation[0].shape[1]
        side = images.shape[-1]
        windows = (1 + -(-(side - WINDOW) // STRIDE)) ** 2
        sliding = {"sliding_window_shapes": (3, WINDOW, WINDOW), "strides": (3, STRIDE, STRIDE)}
        integrated = {"n_steps": 32, "internal_batch_size": 16}
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
                "the nine single-pass techniques together",
                count,
                True,
                {
                    "ours": self.event,
                    "captum": lambda: [self.captum(gradient_peer)(), self.captum(captum.InputXGradient(model))()],
                    "grad-cam": lambda: [self.cam(peer)() for peer in CAMS.values()],
                },
            ),
            Row(
                "integrated_gradients, 32 steps",
                32 * few,
                True,
                {
                    "ours": own(ours.integrated_gradients, few, steps=32),
                    "captum": self.captum(captum.IntegratedGradients(model), few, **integrated),
                },
                3,
            ),
            Row(
                "smoothgrad, 25 samples",
                25 * few,
                True,
                {
                    "ours": own(ours.smoothgrad, few, samples=25),
                    "captum": self.captum(captum.NoiseTunnel(gradient_peer), few, **noisy),
                },
                3,
            ),
            Row(
                f"occlusion, {windows} windows",
                (windows + 1) * few,
                False,
                {
                    "ours": own(ours.occlusion, few, window=WINDOW, stride=STRIDE),
                    "captum": self.captum(captum.Occlusion(model), few, perturbations_per_eval=1, **sliding),
                },
                3,
            ),
            Row(
                "score_cam, one image",
                channels + 1,
                False,
                {"ours": own(ours.score_cam, 1), "grad-cam": self.cam("ScoreCAM", 1)},
                1,
            ),
            Row(
                "ablation_cam, one image",
                channels + 1,
                False,
                {"ours": own(ours.ablation_cam, 1), "grad-cam": self.cam("AblationCAM", 1)},
                1,
            ),
        ]


def completeness(bench: Bench, steps: int) -> tuple[str, ...]:
    """Return how far integrated gradients are from the rise of the logit, ours and captum's."""
    model, images, targets = bench.model, bench.images, bench.targets
    with torch.no_grad():
        rise = model(images) - model(torch.zeros_like(images))
    rise = rise.gather(1, targets[:, None])[:, 0]
    options = {"n_steps": steps, "internal_batch_size": 16}
    maps = (
        ours.integrated_gradients(model, images, targets, steps=steps),
        captum.IntegratedGradients(model).attribute(images, target=targets, **options),
    )
    errors = [((found.detach().sum((1, 2, 3)) - rise) / rise).abs().median() for found in maps]
    return (str(steps), *(f"{100 * float(error):.3g} %" for error in errors))


def measure(bench: Bench, row: Row, repeats: int) -> tuple[str, ...]:
    """Return a technique's cells: its passes, and the ratios of their seconds to bare passes."""
    seconds: dict[str, list[float]] = {who: [] for who in ("bare", *row.work)}
    repeats = min(row.repeats or repeats, repeats)
    # The first round pays for allocations and the feature info; single long ones do not need it.
    for turn in range(repeats + (repeats > 1)):
        for who in seconds:
            with contextlib.redirect_stderr(io.StringIO()):
                took = bench.bare_passes(row) if who == "bare" else timed(row.work[who])
            if turn or repeats == 1:
                seconds[who].append(took)
    medians = {who: statistics.median(values) for who, values in seconds.items()}
    ratios = (f"{medians[who] / medians['bare']:.2f}" if who in medians else "" for who in WHO)
    return (row.name, str(row.passes), *ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--only", default="", help="techniques whose name holds this; writes nothing")
    add_options(parser)
    options = parser.parse_args()
    if options.tiny:
        options.images, options.repeats = 2, 1
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    if options.only:
        options.write = None
    tables = Tables(options, "captum", "grad-cam", "timm", threads=options.threads, device=options.device)

    images = photographs(options.images, 64 if options.tiny else None).to(options.device)
    torch.manual_seed(0)
    for name in ("EfficientNet-lite0", "ResNet-18"):
        model = (tiny_model() if options.tiny else MODELS[name]()).to(options.device)
        bench = Bench(model, images, largest_batch(options.device, tiny=options.tiny))
        rows = [measure(bench, row, options.repeats) for row in bench.rows() if options.only in row.name]
        what = f"{len(images)} images of {'x'.join(map(str, images.shape[2:]))}, of many passes {FEW}; CAMs of"
        tables.put(f"attribution: {name}", ("", "passes", *WHO), rows, f"{what} `{bench.layer}`.")
        if name == "EfficientNet-lite0" and not options.only:
            lengths = (4,) if options.tiny else (32, 128)
            head = ("steps", "ours", "captum")
            tables.put("attribution: completeness", head, [completeness(bench, steps) for steps in lengths])


if __name__ == "__main__":
    main()
