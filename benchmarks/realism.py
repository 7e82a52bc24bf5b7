"""How close do class images come to real ones, in the features of networks that did not make them?

The classifier of `examples/digits.py` is trained several times. Some networks make class images, the others judge them:
the distance of their features, before the last layer, to the nearest of the class's validation images, in units of the
median distance of such an image to the nearest other. 1 is as close as real images are to each other.

    python benchmarks/realism.py
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial

import torch
from table import Tables, add_options
from torch import Tensor, nn
from torch.optim import Adam
from torch.utils.data import Subset, TensorDataset
from warm_start import CLASSES, digits, train

from vis_callbacks import ImageStatistics, Recipe
from vis_callbacks.synthesis.class_appearance import class_appearance
from vis_callbacks.synthesis.optimization.parameterizations import ClippedPixels
from vis_callbacks.synthesis.optimization.regularizers import l2, total_variation
from vis_callbacks.synthesis.optimization.transforms import Affine

# Yin et al., arXiv 1912.08795: pixels, statistics of BatchNorm with a large weight, total variation, l2, small shifts.
DEEP_INVERSION = Recipe(
    partial(ClippedPixels, noise=1.0),
    partial(Adam, lr=0.05),
    transforms=(Affine((1.0, 1.0), 0, 0.07),),
    penalty=1e-3 * total_variation() + 1e-3 * l2(),
    prior=10.0,
)
RECIPES: dict[str, tuple[str | Recipe, int]] = {
    "best": ("best", 256),
    "draft": ("draft", 48),
    "maco": ("maco", 256),
    "DeepInversion": (DEEP_INVERSION, 256),
    "fourier": ("fourier", 256),
    "simonyan": ("simonyan", 256),
}


def features(judge: nn.Module, images: Tensor) -> Tensor:
    """Return what the last layer reads."""
    with torch.no_grad():
        found: Tensor = judge.forward_head(judge.forward_features(images), pre_logits=True)
    return found


def nearest(rows: Tensor, others: Tensor, *, besides: bool = False) -> Tensor:
    """Return the distance of each row to the nearest of others, or to the nearest other one besides itself."""
    apart = torch.cdist(rows, others)
    return apart.kthvalue(2, dim=1).values if besides else apart.amin(dim=1)


def distances(judge: nn.Module, pixels: Tensor, real: Sequence[Tensor]) -> list[float]:
    """Return the distance of each class's image to the real ones, as a multiple of what is usual between these."""
    found = []
    for image, others in zip(features(judge, pixels), real, strict=True):
        known = features(judge, others)
        found.append(float(nearest(image[None], known) / nearest(known, known, besides=True).median()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=int, default=3)
    parser.add_argument("--judges", type=int, default=2)
    add_options(parser)
    options = parser.parse_args()
    data: tuple[TensorDataset, TensorDataset] = digits()
    training, epochs, steps_of = data, 5, {name: steps for name, (_, steps) in RECIPES.items()}
    if options.tiny:
        training, epochs, steps_of = (
            (Subset(data[0], range(64)), Subset(data[1], range(64))),
            1,
            dict.fromkeys(RECIPES, 2),
        )
        options.sources = options.judges = 1
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    tables = Tables(options, "pytorch-lightning", "timm")

    images, labels = data[1].tensors
    real = [images[labels == number] for number in CLASSES]
    known = ImageStatistics(1)
    known.update(data[0].tensors[0])
    judges = [train(100 + number, epochs, [], training) for number in range(options.judges)]
    sources = [train(number, epochs, [], training) for number in range(options.sources)]
    made: dict[str, Callable[[int, nn.Module], Tensor]] = {
        "a training image": lambda number, _: _drawn(data[0], number),
        "noise": lambda number, _: torch.rand(10, 1, 28, 28, generator=torch.Generator().manual_seed(number)),
        **{
            name: partial(_appearance, recipe=recipe, steps=steps_of[name], known=known)
            for name, (recipe, _) in RECIPES.items()
        },
    }
    rows = []
    for name, make in made.items():
        start = time.process_time()
        pixels = [(make(number, source) * 255).round() / 255 for number, source in enumerate(sources)]
        took = (time.process_time() - start) / len(sources) / len(CLASSES)
        apart = [statistics.median(distances(judge, one, real)) for one in pixels for judge in judges]
        right = torch.stack([judge(one).argmax(dim=1) == torch.tensor(CLASSES) for one in pixels for judge in judges])
        spread = f"{min(apart):.2f} to {max(apart):.2f}"
        passes = steps_of.get(name, "")
        top = f"{float(right.float().mean()):.2f}"
        rows.append((name, passes, f"{statistics.median(apart):.2f}", spread, top, f"{took:.2f}"))
    head = ("images", "passes", "distance to real ones", "least to most", "top-1", "CPU s an image")
    tables.put("realism", head, rows, f"{options.sources} networks, {options.judges} judges, ten classes.")


def _appearance(number: int, model: nn.Module, *, recipe: str | Recipe, steps: int, known: ImageStatistics) -> Tensor:
    return class_appearance(
        model, CLASSES, image_size=28, recipe=recipe, steps=steps, image_statistics=known, seed=number, progress=False
    )


def _drawn(data: TensorDataset, number: int) -> Tensor:
    images, labels = data.tensors
    return torch.stack([images[labels == one][number] for one in CLASSES])


if __name__ == "__main__":
    main()
