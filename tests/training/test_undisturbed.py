"""The first promise: training with the pictures is bit for bit training without them."""

from __future__ import annotations

from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import tiny
from tests.helpers.techniques import callback_classes
from tests.training.undisturbed import Case, Pyramid, Thief, Vandal, all_callbacks, cheap, train
from vis_callbacks import Report, VisualizationWarning
from vis_callbacks.run import budget

EMA, SWA = "EMAWeightAveraging", "StochasticWeightAveraging"

CASES = {
    "plain": Case(),
    # Validation comes when some of the batches of a step have left their gradients already.
    "accumulation": Case(trainer={"accumulate_grad_batches": 3, "val_check_interval": 0.5}),
    "frozen BatchNorm": Case("frozen BatchNorm"),
    "BatchNorm frozen by hand": Case(prepare=lambda module: module.net.bn2.eval().requires_grad_(False)),
    "dropout and stochastic depth": Case(net={"dropout": 0.5, "drop_path": 0.5}),
    # Pictures come between the two batches whose gradients the second optimizer gathers.
    "manual optimisation": Case("manual", ours={"every_n_steps": 2, "every_n_epochs": 1}),
    "bf16-mixed": Case(trainer={"precision": "bf16-mixed"}),
    "bf16-true": Case(trainer={"precision": "bf16-true"}),
    "64-true": Case(trainer={"precision": "64-true"}),
    "clipping": Case(trainer={"gradient_clip_val": 0.01}),
    "persistent workers": Case(loader={"num_workers": 1, "persistent_workers": True}),
    "validation in mid-epoch": Case(trainer={"val_check_interval": 0.5}),
    "logs in forward": Case("logs in forward"),
    "averaged weights": Case(callbacks=lambda pl: [getattr(pl.callbacks, EMA)(decay=0.5)]),
    "SWA": Case(callbacks=lambda pl: [getattr(pl.callbacks, SWA)(swa_lrs=0.01, swa_epoch_start=1)]),
    "resumed": Case(resumed=True),
    "callbacks that raise": Case(extra=(Vandal,)),
    "no sanity check": Case(trainer={"num_sanity_val_steps": 0}),
    "no validation": Case(trainer={"limit_val_batches": 0}),
    "every second step": Case(ours={"every_n_steps": 2, "every_n_epochs": 1}),
    "on train": Case(ours={"on": "train"}),
    "anomaly detection": Case(trainer={"detect_anomaly": True}),
    "checkpointed activations": Case(net={"checkpointed": True}),
    "checkpoints": Case(trainer={"enable_checkpointing": True}),
    "averaged weights, ours first": Case(callbacks=lambda pl: [getattr(pl.callbacks, EMA)(decay=0.5)], ours_first=True),
    "distillation": Case("distillation"),
    "distillation without validation": Case("distillation", trainer={"limit_val_batches": 0}),
    "encoder and head": Case("encoder and head", says="no single part of EncoderAndHead maps images to logits"),
    "encoder and head with forward=": Case(
        "encoder and head", ours={"forward": lambda module, images: module.head(module.net(images))}
    ),
    "several outputs": Case(prepare=lambda module: setattr(module, "net", Pyramid())),
    "a pass for each image": Case(chunk_size=1),
    # The sanity check sees four images; the initial weights are shown when the first validation has ended.
    "samples that wait": Case(loader={"batch_size": 2}, ours={"samples": 8}),
    "backbone under no_grad": Case("backbone under no_grad"),
    "buffers that are resized": Case("buffers that are resized"),
    "sigmoid head": Case("sigmoid head"),
}
# Under the second package, only what it could do otherwise is in the short run.
_QUICK = ("plain", "manual optimisation", "averaged weights", "resumed")

TABLE = [
    pytest.param(
        package,
        name,
        id=f"{package}-{name}",
        marks=[
            *[pytest.mark.slow] * (package != "pytorch_lightning" and name not in _QUICK),
            pytest.mark.skipif(
                "averaged weights" in name and not hasattr(import_module(package).callbacks, EMA),
                reason=f"{package} has no {EMA} before 2.6",
            ),
        ],
    )
    for package in tiny.PACKAGES
    for name in CASES
]


@pytest.mark.parametrize(("package", "name"), TABLE)
def test_training_is_the_same_with_every_callback(package: str, name: str, tmp_path: Path) -> None:
    case = CASES[name]
    without = train(case, package, list, tmp_path / "without")
    says = "a vandal was here" if case.extra else case.says
    with pytest.warns(VisualizationWarning, match=says) if says else nullcontext():
        found = train(case, package, lambda: _ours(case), tmp_path / "with")
    assert differences(without, found) == []
    if not case.says:
        expect_pictures(_ours(case), tmp_path / "with")


def test_training_is_the_same_where_what_was_left_out_is_made_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "FREE", 0.0)
    # The last validation is not at the end of the training.
    case = Case(trainer={"val_check_interval": 3})
    without = train(case, tiny.PACKAGES[0], list, tmp_path / "without")
    found = train(case, tiny.PACKAGES[0], lambda: [*all_callbacks(), Report(budget=1e-9)], tmp_path / "with")
    assert differences(without, found) == []
    records = tiny.records(tmp_path / "with")
    last = max((record["epoch"], record["step"]) for record in records)
    shown = {record["callback"] for record in records if (record["epoch"], record["step"]) == last and record["file"]}
    assert shown >= {kind.__name__ for kind in callback_classes()}


def _ours(case: Case) -> list[Any]:
    return [*(one(samples=2) for one in case.extra), *all_callbacks(chunk_size=case.chunk_size, **case.ours)]


def differences(first: dict[str, str], second: dict[str, str]) -> list[str]:
    return [name for name in sorted({*first, *second}) if first.get(name) != second.get(name)]


def expect_pictures(ours: list[Any], folder: Path) -> None:
    made = tiny.records(folder)
    for callback in ours:
        if not isinstance(callback, (Report, Vandal)) and not hasattr(callback, "batch_starts"):
            mine = [record for record in made if record["callback"] == callback.name]
            assert {record["epoch"] for record in mine if record["file"]} >= {0, 1, 2}, callback.name
            assert [record["error"] for record in mine if record["error"]] == []


def test_the_table_finds_a_callback_that_steals_one_random_number(tmp_path: Path) -> None:
    without = train(Case(), tiny.PACKAGES[0], list, tmp_path / "without")
    found = train(Case(), tiny.PACKAGES[0], lambda: [cheap(Thief)], tmp_path / "with")
    changed = differences(without, found)
    for what in ("weights", "batches", "metrics", "optimizer", "random of torch"):
        assert any(name.startswith(what) for name in changed), what


def test_the_table_itself_repeats(tmp_path: Path) -> None:
    first, second = (train(Case(), tiny.PACKAGES[0], list, tmp_path / name) for name in "ab")
    assert differences(first, second) == []
    assert any(name.startswith("optimizer 0: state") for name in first)
