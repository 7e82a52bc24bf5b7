"""The pictures do not depend on the precision of the training: of the same weights they are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.helpers import tiny
from vis_callbacks import Activations, Filters, GradCAM, Saliency


class Smooth(tiny.Net):
    """Without kinks and ties, at which the last bit decides where a gradient goes."""

    def forward(self, images: Tensor) -> Tensor:
        x = nn.functional.softplus(self.bn1(self.conv1(images)))
        return self.head(nn.functional.softplus(self.bn2(self.conv2(x))).mean(dim=(2, 3)))


def pictures(folder: Path, package: str, accelerator: str = "cpu", **options: Any) -> dict[tuple[str, int], np.ndarray]:
    """The pictures of a training whose weights stay as they are, by tag and epoch."""
    ours = [Filters(), *(kind(samples=3) for kind in (Activations, Saliency, GradCAM))]
    trainer = tiny.trainer(folder, ours, package=package, max_epochs=1, accelerator=accelerator, **options)
    torch.manual_seed(0)
    trainer.fit(tiny.module(package, Smooth(), lr=0.0), tiny.loader(32), tiny.loader(16, seed=1))
    made = tiny.records(folder)
    assert [record["error"] for record in made if record["error"]] == []
    return {
        (record["tag"], record["epoch"]): np.asarray(Image.open(file)).astype(int)
        for record, file in zip(made, tiny.files_of(folder, made), strict=True)
    }


@pytest.mark.parametrize("package", tiny.PACKAGES)
@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [
        # Mixed precision keeps weights of full precision, with which the pictures are made. BatchNorm's means differ.
        ("bf16-mixed", 0.2),
        # On a CPU, Lightning makes that of it as well.
        pytest.param("16-mixed", 0.2, marks=pytest.mark.filterwarnings("ignore:You passed .*16-mixed")),
        ("64-true", 0.01),
        # Eight bits of precision in every weight and product.
        ("bf16-true", 3),
    ],
)
def test_pictures_of_any_precision_are_those_of_full_precision(
    precision: str, tolerance: float, package: str, tmp_path: Path
) -> None:
    full = pictures(tmp_path / "full", package)
    found = pictures(tmp_path / "other", package, precision=precision)
    assert {tag.split("/")[0] for tag, _ in full} == {"Filters", "Activations", "Saliency", "GradCAM"}
    assert full.keys() == found.keys()
    for key, picture in found.items():
        assert picture.shape == full[key].shape
        assert np.abs(picture - full[key]).mean() <= tolerance, key
        assert "mixed" not in precision or key[1] > 0 or np.array_equal(picture, full[key])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="16-mixed, with its gradient scaler, needs a GPU")
@pytest.mark.parametrize("package", tiny.PACKAGES)
def test_pictures_of_16_mixed_are_those_of_full_precision(package: str, tmp_path: Path) -> None:
    full = pictures(tmp_path / "full", package, accelerator="gpu")
    found = pictures(tmp_path / "other", package, accelerator="gpu", precision="16-mixed")
    assert full.keys() == found.keys()
    assert all(np.abs(picture - full[key]).mean() <= 1 for key, picture in found.items())
