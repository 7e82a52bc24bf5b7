"""Where nothing is shown, one sentence says why: in the console, and in the place of the pictures."""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import tiny
from vis_callbacks import (
    Filters,
    GradCAM,
    Report,
    Saliency,
    VisualizationWarning,
    default_suite as suite,
)
from vis_callbacks.run.reasons import Outcome, by_reason, in_one_sentence, why_nothing
from vis_callbacks.run.schedule import Schedule

VALIDATED = {"epochs": 5, "steps": 20, "validated": 5}
NEVER = {"epochs": 5, "steps": 20, "validated": 0}

TABLE: list[tuple[dict[str, Any], bool, dict[str, Any], str]] = [
    ({}, True, {"method": "test"}, "on='validation' makes none in a test: set on='test'"),
    ({"on": ("train", "validation")}, True, {"method": "test"}, "on=['train', 'validation'] makes none in a test"),
    ({"on": ("train",)}, True, {"method": "validate"}, "on='train' makes none in a validation: set on='validation'"),
    ({"on": ("test",)}, False, {"method": "validate"}, "set on='validation'"),
    ({}, True, {"method": "predict"}, "trainer.predict makes no pictures: call trainer.validate"),
    ({}, True, {"development": True}, "fast_dev_run=True makes none"),
    ({}, True, {"method": "test", "development": True}, "fast_dev_run=True makes none"),
    ({"on": ("test",)}, True, VALIDATED, "on='test' makes them in trainer.test"),
    ({}, True, {"trained": False}, "nothing was trained"),
    ({"every_n_epochs": None, "every_n_steps": 21}, True, VALIDATED, "every_n_steps=21 and the run had 20 steps"),
    ({"every_n_epochs": None, "every_n_steps": 2}, True, {"steps": 1}, "every_n_steps=2 and the run had 1 step"),
    ({"every_n_epochs": 6}, True, VALIDATED, "every_n_epochs=6 and the run had 5 epochs"),
    (
        {"every_n_epochs": 6, "every_n_steps": 21},
        True,
        VALIDATED,
        "20 steps, every_n_epochs=6 and the run had 5 epochs",
    ),
    ({}, False, NEVER, "validation never ran (5 epochs, 20 steps): validate more often, or set on='train'"),
    (
        {},
        True,
        NEVER | {"intervals": "check_val_every_n_epoch=9"},
        "20 steps, check_val_every_n_epoch=9): validate more",
    ),
    ({"on": ("train",)}, True, NEVER, "and samples come from it: validate more often, or give samples="),
    ({"every_n_epochs": None, "every_n_steps": 2}, True, NEVER, "and samples come from it"),
    ({"every_n_epochs": 5}, False, VALIDATED | {"validated": 4}, "every_n_epochs=5 and validation last ran in epoch 4"),
    ({}, True, VALIDATED, "there were no samples"),
    ({}, False, VALIDATED, ""),
    ({}, False, NEVER | {"validates": False}, ""),
    ({"on": ("test",)}, False, {"method": "test"}, ""),
]


@pytest.mark.parametrize(("schedule", "uses_samples", "outcome", "expected"), TABLE)
def test_the_reason_names_what_was_set_and_what_to_set(
    schedule: dict[str, Any], uses_samples: bool, outcome: dict[str, Any], expected: str
) -> None:
    found = why_nothing(Schedule(**schedule), uses_samples, Outcome(**outcome))
    assert expected in found
    assert bool(expected) == bool(found)


def test_one_sentence_names_all_that_share_a_reason_and_stays_short() -> None:
    reasons = by_reason({"Filters": "it rains", "Saliency": "it rains", "GradCAM": "it snows"})
    assert [in_one_sentence(names, why, fit=False) for why, names in reasons.items()] == [
        "Filters and Saliency made no pictures, because it rains.",
        "GradCAM made no pictures, because it snows.",
    ]
    long = in_one_sentence([f"a_callback_of_number_{number}" for number in range(40)], "it rains", fit=True)
    assert long.endswith(" and 36 more made no pictures of the trained network, because it rains.")
    assert len(in_one_sentence(["x" * 90] * 3, "y" * 100, fit=True)) < 300


def said(
    folder: Path, callbacks: list[Any], method: str = "fit", package: str = tiny.PACKAGES[0], **options: Any
) -> Any:
    """The warnings of a run, and its facts."""
    trainer, module = tiny.trainer(folder, callbacks, package=package, **options), tiny.module(package)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", VisualizationWarning)
        if method == "fit":
            trainer.fit(module, tiny.loader(32), tiny.loader(16))
        elif method == "predict":
            type(module).predict_step = lambda self, batch, index: self(batch[0])
            trainer.predict(module, tiny.loader(16))
        else:
            getattr(trainer, method)(module, tiny.loader(16), verbose=False)
    texts = [str(one.message) for one in caught if one.category is VisualizationWarning]
    assert all(len(text) < 300 for text in texts)
    found = list(folder.rglob("run.json"))
    return texts, json.loads(found[0].read_text()) if found else None


ALL = "Filters, Activations, Saliency, FineCAM and ClassAppearance made no pictures"
TRAINED = f"{ALL} of the trained network, because"


@pytest.mark.parametrize("package", tiny.PACKAGES)
@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        ("test", {}, f"{ALL}, because on='validation' makes none in a test: set on='test'."),
        ("predict", {}, f"{ALL}, because trainer.predict makes no pictures"),
        ("fit", {"fast_dev_run": True}, f"{TRAINED} fast_dev_run=True makes none."),
        ("fit", {"max_epochs": 0}, f"{ALL}, because nothing was trained."),
        ("fit", {"limit_train_batches": 0}, f"{ALL}, because nothing was trained."),
        (
            "fit",
            {"check_val_every_n_epoch": 5},
            f"{TRAINED} validation never ran (2 epochs, 8 steps, check_val_every_n",
        ),
        ("fit", {"val_check_interval": 99, "check_val_every_n_epoch": None}, f"{TRAINED} validation never ran"),
        ("fit", {"max_steps": 3}, f"{TRAINED} validation never ran (1 epoch, 3 steps): validate more often"),
    ],
)
def test_a_run_that_shows_nothing_says_so_once_at_its_end(
    method: str, options: dict[str, Any], expected: str, package: str, tmp_path: Path
) -> None:
    (text,), _ = said(tmp_path, suite()[:-1], method, package, **options)
    assert text.startswith(expected)


def test_each_reason_is_one_sentence(tmp_path: Path) -> None:
    callbacks = [
        Saliency(every_n_steps=99),
        Filters(every_n_epochs=9),
        GradCAM(samples=2),
        Saliency(every_n_steps=99, seed=1),
    ]
    texts, facts = said(tmp_path, callbacks)
    assert texts == [
        "Saliency and Saliency_2 made no pictures of the trained network, because every_n_steps=99 and the run had 8 "
        "steps.",
        "Filters made no pictures of the trained network, because every_n_epochs=9 and the run had 2 epochs.",
    ]
    assert facts["remarks"].keys() == {"Saliency", "Filters", "Saliency_2"}


@pytest.mark.parametrize(
    ("callbacks", "method", "options"),
    [
        ([Saliency(samples=2), Filters()], "fit", {}),
        ([Saliency(samples=2), Filters()], "validate", {}),
        ([Saliency(samples=2, on="test")], "test", {}),
        ([Saliency(samples=2, on="test")], "fit", {}),  # made in trainer.test later
        ([Saliency(samples=2)], "fit", {"limit_val_batches": 0}),
        ([Filters(every_n_epochs=2)], "fit", {}),
        ([Saliency(samples=2, on="train"), Filters(on="train")], "fit", {"check_val_every_n_epoch": 9}),
    ],
)
def test_where_something_is_shown_nothing_is_said(
    callbacks: list[Any], method: str, options: dict[str, Any], tmp_path: Path
) -> None:
    texts, facts = said(tmp_path, callbacks, method, **options)
    assert texts == []
    if method == "fit" and callbacks[0].schedule.on != ("test",):
        assert facts["remarks"] == {}


def test_a_test_after_a_training_that_showed_something_is_silent(tmp_path: Path) -> None:
    trainer = tiny.trainer(tmp_path, [Saliency(samples=2), Report()])
    trainer.fit(tiny.module(), tiny.loader(32), tiny.loader(16))
    report = next(tmp_path.rglob("report.html"))
    before = report.read_bytes()
    trainer.test(trainer.lightning_module, tiny.loader(16), verbose=False)
    assert report.read_bytes() == before


def test_a_resumed_run_has_shown_something_before(tmp_path: Path) -> None:
    def callback() -> Saliency:
        return Saliency(samples=2, every_n_epochs=2)

    trainer = tiny.trainer(tmp_path, [callback()], max_epochs=2)
    trainer.fit(tiny.module(), tiny.loader(32), tiny.loader(16))
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    resumed = tiny.trainer(tmp_path / "resumed", [callback()], max_epochs=3)
    resumed.fit(tiny.module(), tiny.loader(32), tiny.loader(16), ckpt_path=tmp_path / "two.ckpt")
    assert resumed.current_epoch == 3


def test_batches_without_images_are_named_and_not_twice(tmp_path: Path) -> None:
    class Flat(tiny.module_class(tiny.PACKAGES[0])):  # type: ignore[misc]
        def forward(self, images: torch.Tensor) -> Any:
            return self.net(images.view(-1, 1, 8, 8))

    rows = torch.utils.data.TensorDataset(torch.rand(16, 64), torch.arange(16) % 4)
    loader = torch.utils.data.DataLoader(rows, batch_size=8)
    trainer = tiny.trainer(tmp_path, [Saliency(samples=2), Report()])
    with pytest.warns(VisualizationWarning, match="no images in a batch of") as caught:
        trainer.fit(Flat(), loader, loader)
    assert len([one for one in caught if one.category is VisualizationWarning]) == 1
    (page,) = tmp_path.rglob("report.html")
    assert "no images in a batch of" in page.read_text()


@pytest.mark.parametrize("sanity", [0, 2])
def test_the_report_says_it_in_the_place_of_the_pictures(sanity: int, tmp_path: Path) -> None:
    callbacks = [Saliency(samples=2), Filters(), Report()]
    said(tmp_path, callbacks, check_val_every_n_epoch=9, num_sanity_val_steps=sanity)
    page = callbacks[-1].path.read_text()
    for name in ("Saliency", "Filters"):
        section = page.split(f'-title">{name}</h2>')[1].split("</section>")[0]
        assert "No pictures of the trained network yet, because validation never ran (2 epochs, 8 steps" in section
    assert "could not be read" not in page


def test_the_report_of_a_test_that_shows_nothing_says_why(tmp_path: Path) -> None:
    callbacks = suite()
    said(tmp_path, callbacks, "test")
    page = callbacks[-1].path.read_text()
    assert page.count("No pictures yet, because on=&#39;validation&#39; makes none in a test") == 5


def test_a_store_read_during_the_run_says_what_is_still_to_come(tmp_path: Path) -> None:
    remarks: list[dict[str, str]] = []

    class Reading(tiny.module_class(tiny.PACKAGES[0])):  # type: ignore[misc]
        def on_train_epoch_end(self) -> None:
            found: dict[str, str] = {"Saliency": "not written yet"}
            until = time.monotonic() + 20
            while "Saliency" in found and time.monotonic() < until:
                time.sleep(0.05)
                found = next(map(_remarks, tmp_path.rglob("run.json")), found)
            remarks.append(found)

    trainer = tiny.trainer(tmp_path, [Saliency(samples=2), Filters(every_n_epochs=2)])
    trainer.fit(Reading(), tiny.loader(32), tiny.loader(16))
    assert remarks[0] == {
        "Filters": "No pictures of the trained network yet, because every_n_epochs=2 and the run had 0 epochs."
    }


def _remarks(path: Path) -> dict[str, str]:
    return dict(json.loads(path.read_text())["remarks"])
