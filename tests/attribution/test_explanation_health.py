"""How far maps can be trusted, in real trainings: planted techniques whose answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.helpers import tiny
from vis_callbacks import AttributionCallback, ConfigurationError, Event, ExplanationHealth, Saliency


class Edges(AttributionCallback):
    """Shows the image: no map of any network."""

    def attribute(self, event: Event) -> Tensor:
        return event.samples.images.abs()


class Truth(AttributionCallback):
    """Shows the gradient times the image by itself, which reads the weights."""

    def attribute(self, event: Event) -> Tensor:
        images = event.samples.images.clone().requires_grad_()
        logits = event.model(images).gather(1, event.trace.targets[:, None])
        return torch.autograd.grad(logits.sum(), images)[0] * images


def fit(folder: Path, callback: Any, **options: Any) -> list[dict[str, Any]]:
    trainer = tiny.trainer(folder, [callback], **{"max_epochs": 3, **options})
    trainer.fit(tiny.module(), tiny.loader(16), tiny.loader(16, seed=1))
    return [record for record in tiny.records(folder) if record["file"]]


def test_a_map_of_the_image_alone_is_told(tmp_path: Path) -> None:
    records = fit(tmp_path, ExplanationHealth(Edges(), samples=4, on_error="raise"))
    assert {record["tag"] for record in records} == {"ExplanationHealth/Edges"}
    assert len(records) == 4
    for record in records:
        assert record["scalars"]["dependence"] == pytest.approx(0, abs=1e-6)
        assert "the maps look alike with the weights of" in record["caption"]
    assert "change" not in records[0]["scalars"]
    for record in records[1:]:
        assert record["scalars"]["change"] == pytest.approx(0, abs=1e-6)
        assert "settled since the last event" in record["caption"]


class Sides(nn.Module):
    """The more class 0, the brighter the left half."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 1, 1), nn.Linear(1, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.conv(images)[..., :4].mean((2, 3)))


class Half(AttributionCallback):
    """Shows one half of the image."""

    def __init__(self, columns: slice, **options: Any) -> None:
        super().__init__(**options)
        self.columns = columns

    def attribute(self, event: Event) -> Tensor:
        maps = torch.zeros_like(event.samples.images)
        maps[..., self.columns] = 1.0
        return maps


@pytest.mark.parametrize(("columns", "trusted"), [(slice(4), True), (slice(4, None), False)], ids=["left", "right"])
def test_a_map_of_what_does_not_count_is_told(columns: slice, trusted: bool, tmp_path: Path) -> None:
    module = tiny.module(net=Sides(), lr=0.0)
    with torch.no_grad():
        for one in (module.net.conv.weight, module.net.conv.bias, module.net.head.bias):
            one.fill_(one.ndim > 1)
        module.net.head.weight.copy_(torch.tensor([[9.0], [0.0], [0.0], [0.0]]))
    # Stripes whose blur is darker: with the left half gone, class 0 is less likely.
    images = torch.zeros(16, 1, 8, 8)
    images[..., :4] = 1.0
    bright = DataLoader(torch.utils.data.TensorDataset(images, torch.zeros(16).long()), batch_size=8)
    callback = ExplanationHealth(Half(columns), samples=2, on_error="raise")
    tiny.trainer(tmp_path, [callback], max_epochs=1).fit(module, bright, bright)
    for record in tiny.records(tmp_path):
        assert (record["scalars"]["deletion"] < record["scalars"]["insertion"]) == trusted
        assert ("do not read them yet" in record["caption"]) != trusted


def test_a_map_that_reads_the_weights_depends_on_them(tmp_path: Path) -> None:
    records = fit(tmp_path, ExplanationHealth(Truth(), samples=4, on_error="raise"))
    assert all(record["scalars"]["dependence"] > 0.2 for record in records)
    assert not any("look alike" in record["caption"] for record in records)
    assert all(0 <= record["scalars"][name] <= 1 for record in records for name in ("deletion", "insertion"))


@pytest.mark.parametrize("technique", [None, Saliency()])
def test_a_resumed_run_goes_on_from_the_maps(technique: Any, tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", ExplanationHealth(technique, samples=4, on_error="raise"), max_epochs=4)
    first = ExplanationHealth(technique, samples=4, on_error="raise")
    trainer = tiny.trainer(tmp_path / "first", [first], max_epochs=2)
    trainer.fit(tiny.module(), tiny.loader(16), tiny.loader(16, seed=1))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    again = tiny.trainer(tmp_path / "second", [ExplanationHealth(technique, samples=4, on_error="raise")], max_epochs=4)
    again.fit(tiny.module(), tiny.loader(16), tiny.loader(16, seed=1), ckpt_path=tmp_path / "half.ckpt")
    resumed = [record for record in tiny.records(tmp_path / "second") if record["file"] and record["epoch"] > 2]
    numbers = {record["epoch"]: record["scalars"] for record in whole}
    assert [record["epoch"] for record in resumed] == [3, 4]
    for record in resumed:
        assert record["scalars"] == pytest.approx(numbers[record["epoch"]], abs=1e-6)


def test_without_classes_there_is_nothing_to_show(tmp_path: Path) -> None:
    class Value(tiny.module_class(tiny.PACKAGES[0])):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return (self(batch[0])[:, 0] - batch[1]).pow(2).mean()

        validation_step = None

    values = torch.utils.data.TensorDataset(torch.rand(16, 1, 8, 8), torch.rand(16))
    trainer = tiny.trainer(tmp_path, [ExplanationHealth(samples=2, on_error="raise")], max_epochs=1)
    trainer.fit(
        Value(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 1))), DataLoader(values)
    )
    assert tiny.records(tmp_path) == []


def test_the_technique_must_be_one() -> None:
    with pytest.raises(ConfigurationError, match="technique"):
        ExplanationHealth("GradCAM")  # type: ignore[arg-type]
