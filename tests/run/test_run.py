"""When pictures are made, from which passes, and what the callbacks of one Trainer share."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import tiny
from tests.training.undisturbed import callback_classes, cheap
from vis_callbacks import (
    Activations,
    ClassAppearance,
    EigenCAM,
    Event,
    Filters,
    GradCAM,
    Gradient,
    GradientXInput,
    Needs,
    Panel,
    Report,
    Saliency,
    Samples,
    Tile,
    VisualizationCallback,
    VisualizationWarning,
)
from vis_callbacks.data.selector import SampleRequest, SampleSelector
from vis_callbacks.report.reading import read_history


class Watcher(VisualizationCallback):
    """Writes down what each event gives, and makes one small picture."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seen: list[tuple[int, int]] = []
        self.images: list[Tensor] = []
        self.weights: list[Tensor] = []

    def needs(self, event: Event) -> Needs:
        return Needs(input_gradient=True)

    def visualize(self, event: Event) -> Iterable[Panel]:
        self.seen.append((event.moment.epoch, event.moment.step))
        self.images.append(event.samples.images.clone())
        self.weights.append(next(event.model.parameters()).detach().clone())
        assert event.trace.input_gradient is not None
        yield Panel("one", Tile(event.trace.input_gradient[0].abs().amax(dim=0)))


def fit(folder: Path, *callbacks: Any, module: Any = None, **options: Any) -> Any:
    trainer = tiny.trainer(folder, callbacks, **options)
    trainer.fit(tiny.module() if module is None else module, tiny.loader(32), tiny.loader(16, seed=1))
    return trainer


def moments(folder: Path, callback: str) -> list[tuple[int, int]]:
    found = [record for record in tiny.records(folder) if record["callback"] == callback]
    assert [record["error"] for record in found if record["error"]] == []
    return list(dict.fromkeys((record["epoch"], record["step"]) for record in found))


# When.


@pytest.mark.parametrize(
    ("options", "settings", "expected"),
    [
        ({}, {}, [(0, 0), (1, 3), (2, 7), (3, 11), (4, 15)]),
        ({"every_n_epochs": 2}, {}, [(0, 0), (2, 7), (4, 15)]),
        ({"every_n_epochs": 3}, {}, [(0, 0), (3, 11)]),
        ({}, {"check_val_every_n_epoch": 2}, [(0, 0), (2, 7), (4, 15)]),
        ({"every_n_epochs": 3}, {"check_val_every_n_epoch": 2}, [(0, 0), (4, 15)]),
        ({}, {"val_check_interval": 0.5, "max_epochs": 2}, [(0, 0), (1, 1), (1, 3), (2, 5), (2, 7)]),
        ({}, {"num_sanity_val_steps": 0, "check_val_every_n_epoch": 2}, [(0, 0), (2, 7), (4, 15)]),
        ({}, {"limit_val_batches": 0}, [(0, 0), (1, 3), (2, 7), (3, 11), (4, 15)]),
        ({"on": "train"}, {"max_epochs": 2}, [(0, 0), (1, 3), (2, 7)]),
        ({"on": "train"}, {"max_epochs": 2, "check_val_every_n_epoch": 2}, [(0, 0), (1, 3), (2, 7)]),
        ({"on": ["train", "validation"]}, {"max_epochs": 2}, [(0, 0), (1, 3), (2, 7)]),
        ({"every_n_steps": 3}, {"max_epochs": 2}, [(0, 0), (1, 2), (2, 5)]),
        ({"every_n_steps": 3, "every_n_epochs": 2}, {"max_epochs": 2}, [(0, 0), (1, 2), (2, 5), (2, 7)]),
        ({"every_n_steps": 2}, {"max_epochs": 2, "accumulate_grad_batches": 2}, [(0, 0), (1, 1), (2, 3)]),
        ({"on": "test"}, {"max_epochs": 2}, []),
    ],
)
def test_pictures_are_made_when_they_are_due(
    options: dict[str, Any], settings: dict[str, Any], expected: list[tuple[int, int]], tmp_path: Path
) -> None:
    fit(tmp_path, Filters(**options), Watcher(samples=2, **options), **{"max_epochs": 4, **settings})
    assert moments(tmp_path, "Watcher") == expected
    assert moments(tmp_path, "Filters") == expected


def test_steps_before_the_first_validation_wait_for_samples_without_a_word(tmp_path: Path) -> None:
    watcher = Watcher(samples=2, every_n_steps=1)
    fit(tmp_path, watcher, num_sanity_val_steps=0)
    assert [epoch for epoch, _ in moments(tmp_path, "Watcher")] == [0, 2, 2, 2, 2]


@pytest.mark.parametrize("settings", [{}, {"num_sanity_val_steps": 0}, {"limit_val_batches": 0}])
@pytest.mark.parametrize("samples", [2, 12, "per_class"])
def test_epoch_0_shows_the_initial_weights(settings: dict[str, Any], samples: Any, tmp_path: Path) -> None:
    module, watcher = tiny.module(), Watcher(samples=samples)
    initial = next(module.parameters()).detach().clone()
    fit(tmp_path, watcher, module=module, max_epochs=1, **settings)
    assert [moment[0] for moment in watcher.seen] == [0, 1]
    torch.testing.assert_close(watcher.weights[0], initial, rtol=0, atol=0)
    assert not torch.equal(watcher.weights[1], initial)
    torch.testing.assert_close(watcher.weights[1], next(module.parameters()).detach(), rtol=0, atol=0)


@pytest.mark.parametrize("stage", ["validate", "test"])
@pytest.mark.parametrize("package", tiny.PACKAGES)
def test_a_validation_or_test_alone_makes_pictures(stage: str, package: str, tmp_path: Path) -> None:
    on = {"validate": "validation", "test": "test"}[stage]
    callbacks = [Filters(on=on), Saliency(samples=3, on=on), ClassAppearance(steps=2, on=on), Report()]
    trainer = tiny.trainer(tmp_path, callbacks, package=package)
    getattr(trainer, stage)(tiny.module(package), tiny.loader(16), verbose=False)
    for name in ("Filters", "Saliency", "ClassAppearance"):
        assert moments(tmp_path, name) == [(0, 0)]
    assert {record["stage"] for record in tiny.records(tmp_path)} == {stage}
    assert callbacks[-1].path.is_file()


def test_a_second_validation_of_another_model_is_not_taken_for_the_first(tmp_path: Path) -> None:
    pictures = []
    for seed in range(2):
        module = tiny.module()
        nn.init.constant_(module.net.conv1.weight, seed)
        tiny.trainer(tmp_path, [Filters()]).validate(module, tiny.loader(16), verbose=False)
        (record,) = tiny.records(tmp_path)
        pictures.append((tmp_path / "visualizations" / record["file"]).read_bytes())
    assert pictures[0] != pictures[1]


def test_what_an_earlier_run_left_is_set_aside_also_where_a_validation_comes_first(tmp_path: Path) -> None:
    fit(tmp_path, Filters(), max_epochs=3)
    trainer = tiny.trainer(tmp_path, [Filters()], max_epochs=1)
    module = tiny.module()
    trainer.validate(module, tiny.loader(16), verbose=False)
    assert {record["epoch"] for record in tiny.records(tmp_path)} == {0, 1, 2, 3}
    trainer.fit(module, tiny.loader(32), tiny.loader(16))
    assert {record["epoch"] for record in tiny.records(tmp_path)} == {0, 1}
    assert len(list(tmp_path.glob("visualizations*"))) == 2


def test_a_validation_before_the_training_stays_with_it(tmp_path: Path) -> None:
    trainer = tiny.trainer(tmp_path, [Filters()], max_epochs=1)
    module = tiny.module()
    trainer.validate(module, tiny.loader(16), verbose=False)
    trainer.fit(module, tiny.loader(32), tiny.loader(16))
    assert [record["stage"] for record in tiny.records(tmp_path)] == ["validate", "fit", "fit"]


def test_a_test_after_training_leaves_the_facts_of_the_training(tmp_path: Path) -> None:
    trainer = fit(tmp_path, Filters(on=["validation", "test"]))
    facts = (tmp_path / "visualizations" / "run.json").read_text()
    trainer.test(trainer.lightning_module, tiny.loader(16), verbose=False)
    assert tiny.records(tmp_path)[-1]["stage"] == "test"
    tiny.trainer(tmp_path, [Filters(on="test")]).test(tiny.module(), tiny.loader(16), verbose=False)
    assert '"epochs": 2' in facts
    assert '"epochs": 2' in (tmp_path / "visualizations" / "run.json").read_text()


def test_a_test_after_a_training_that_failed_does_not_say_that_it_was_finished(tmp_path: Path) -> None:
    class Failing(tiny.module_class(tiny.PACKAGES[0])):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1:
                raise ZeroDivisionError("the user's own")

    module, trainer = Failing(), tiny.trainer(tmp_path, [Filters(on=["validation", "test"])], max_epochs=2)
    with pytest.raises(ZeroDivisionError):
        trainer.fit(module, tiny.loader(32), tiny.loader(16))
    trainer.test(module, tiny.loader(16), verbose=False)
    status = json.loads((tmp_path / "visualizations" / "run.json").read_text())["status"]
    assert status == "stopped by ZeroDivisionError in epoch 2"


def test_nothing_is_trained_and_nothing_breaks(tmp_path: Path) -> None:
    with pytest.warns(VisualizationWarning, match="Saliency and Filters made no pictures, because nothing was trained"):
        fit(tmp_path, Saliency(), Filters(), Report(), max_epochs=0)
    assert tiny.records(tmp_path) == []


def test_a_fast_development_run_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.warns(VisualizationWarning, match="because fast_dev_run=True makes none"):
        fit(tmp_path, Saliency(), Filters(), Report(), fast_dev_run=True)
    assert list(tmp_path.rglob("*")) == []


def test_the_report_alone_is_no_problem(tmp_path: Path) -> None:
    report = Report()
    fit(tmp_path, report)
    assert report.path is not None
    assert "val_loss" in report.path.read_text()


def test_a_trainer_that_fits_again_goes_on_and_then_tests(tmp_path: Path) -> None:
    module = tiny.module()
    watcher = Watcher(samples=2, on=["validation", "test"])
    trainer = fit(tmp_path, watcher, Report(), module=module)
    trainer.fit_loop.max_epochs = 4
    trainer.fit(module, tiny.loader(32), tiny.loader(16, seed=1))
    trainer.test(module, tiny.loader(16, seed=2), verbose=False)
    assert [epoch for epoch, _ in watcher.seen] == [0, 1, 2, 3, 4, 4]
    assert all(torch.equal(images, watcher.images[0]) for images in watcher.images)


@pytest.mark.parametrize("kind", [*callback_classes(watchers=True), Watcher], ids=lambda kind: kind.__name__)
def test_a_callback_serves_another_trainer_as_if_it_were_new(kind: Any, tmp_path: Path) -> None:
    used, new = cheap(kind), cheap(kind)
    other = tiny.module()
    nn.init.normal_(other.net.conv1.weight)
    trainer = tiny.trainer(tmp_path / "before", [used])
    trainer.fit(other, tiny.loader(32, seed=5), tiny.loader(16, seed=6))
    fit(tmp_path / "used", used)
    fit(tmp_path / "new", new)
    assert comparable(tmp_path / "used") == comparable(tmp_path / "new")


def comparable(folder: Path) -> list[tuple[Any, ...]]:
    found = [{**record, "time": 0, "seconds": 0} for record in tiny.records(folder)]
    files = tiny.files_of(folder, found)
    return [(*record.items(), file.read_bytes()) for record, file in zip(found, files, strict=True)]


@pytest.mark.parametrize("through", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_callbacks_can_be_copied_before_and_after_a_run(through: Any, tmp_path: Path) -> None:
    original = Saliency(samples=3, name="mine").on_train()
    callback = through(original)
    assert callback.state_key == original.state_key
    fit(tmp_path / "first", callback)
    again = through(callback)
    fit(tmp_path / "second", again)
    assert moments(tmp_path / "second", "mine") == [(0, 0), (1, 3), (2, 7)]


def test_a_validation_and_a_test_after_the_fit_are_kept_apart_from_it(tmp_path: Path) -> None:
    module = tiny.module()
    trainer = fit(tmp_path, Saliency(samples=1, on=["validation", "test"]), Report(), module=module)
    nn.init.normal_(module.net.conv1.weight)
    trainer.validate(module, tiny.loader(16, seed=1), verbose=False)
    trainer.test(module, tiny.loader(16, seed=2), verbose=False)
    history = read_history(tmp_path)
    assert [event.name for event in history.events] == [
        "before training",
        "epoch 1",
        "epoch 2",
        "validation after epoch 2",
        "test after epoch 2",
    ]
    (row,) = history.rows
    files = [picture.file for picture in row.pictures.values()]
    assert len(set(files)) == 5
    assert files[2].read_bytes() != files[3].read_bytes()


def test_nothing_of_a_run_is_kept_by_the_process(tmp_path: Path) -> None:
    import threading
    import weakref

    module = tiny.module()
    alive = weakref.ref(module)
    fit(tmp_path, Saliency(samples=2), Report(), module=module)
    assert [thread.name for thread in threading.enumerate() if thread.name == "vis-callbacks"] == []
    del module
    gc.collect()
    assert alive() is None


# What is shared.


class Counting(tiny.Net):
    def __init__(self) -> None:
        super().__init__()
        self.forwards: list[int] = []
        self.backwards: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        # Not an attribute of plain Python that the guard would put back.
        if not self.training and torch.is_grad_enabled():
            _FORWARDS.append(len(images))
        logits = super().forward(images)
        if logits.requires_grad and not self.training:
            logits.register_hook(lambda gradient: _BACKWARDS.append(len(gradient)))
        return logits


_FORWARDS: list[int] = []
_BACKWARDS: list[int] = []


@pytest.mark.parametrize(
    ("callbacks", "passes"),
    [
        ([Saliency(samples=3), Gradient(samples=3), GradientXInput(samples=3), Watcher(samples=3)], 1),
        ([Saliency(samples=3), Gradient(samples=3, targets="label")], 2),
        ([Saliency(samples=3), Saliency(samples=4)], 2),
        ([Saliency(samples=3), GradCAM(samples=3), EigenCAM(samples=3), Activations(samples=3)], 1),
        ([Filters()], 0),
    ],
)
def test_one_forward_and_one_backward_serve_all_of_an_event(
    callbacks: Sequence[Any], passes: int, tmp_path: Path
) -> None:
    _FORWARDS.clear(), _BACKWARDS.clear()
    tiny.trainer(tmp_path, callbacks).validate(tiny.module(net=Counting()), tiny.loader(16), verbose=False)
    assert len(_FORWARDS) == passes
    assert len(_BACKWARDS) == passes
    assert {record["callback"] for record in tiny.records(tmp_path)} >= {type(one).__name__ for one in callbacks}


def test_samples_are_looked_up_once_per_technique_and_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    samples = SampleSelector.samples

    def counted(self: SampleSelector, request: SampleRequest, *args: Any, **options: Any) -> Samples | None:
        asked.append(int(request.source))
        return samples(self, request, *args, **options)

    monkeypatch.setattr(SampleSelector, "samples", counted)
    fit(tmp_path, Saliency(samples=2), ClassAppearance(samples=3, steps=2, budget=1.0), Filters(), max_epochs=1)
    assert len(tiny.records(tmp_path)) > 0
    assert asked == [2, 3] * 2


def test_no_weight_gradient_is_computed_for_pictures(tmp_path: Path) -> None:
    module = tiny.module()
    touched: list[Tensor] = []
    for parameter in module.parameters():
        parameter.register_hook(touched.append)
    tiny.trainer(tmp_path, [Saliency(samples=2)]).validate(module, tiny.loader(16), verbose=False)
    assert tiny.records(tmp_path)
    assert touched == []


def test_callbacks_of_one_class_have_tags_of_their_own(tmp_path: Path) -> None:
    callbacks = [Saliency(samples=2), Saliency(samples=3), Saliency(samples=4, name="mine"), Saliency(samples=5)]
    assert len({callback.state_key for callback in callbacks}) == 4
    for _ in range(2):  # the names do not grow when the callbacks are used again
        fit(tmp_path, *callbacks, max_epochs=1)
    tags: dict[str, set[str]] = {}
    for record in tiny.records(tmp_path):
        tags.setdefault(record["callback"], set()).add(record["tag"])
    counts = {name: len(found) for name, found in tags.items()}
    assert counts == {"Saliency": 2, "Saliency_2": 3, "mine": 4, "Saliency_3": 5}
    assert "Saliency_2/sample_2" in tags["Saliency_2"]
    about = read_history(tmp_path).run.about
    assert about["Saliency_2"] == about["Saliency"] != ""


def test_a_chain_tells_callbacks_of_one_class_apart() -> None:
    keys = {one.state_key for one in (Saliency(), Saliency().on_train(), Saliency().to_pyplot(), Saliency(seed=1))}
    assert len(keys) == 4


@pytest.mark.parametrize("package", tiny.PACKAGES)
def test_a_model_without_forward_and_outputs_of_any_kind(package: str, tmp_path: Path) -> None:
    @dataclass
    class Output:
        logits: Tensor

    class Wrapped(tiny.Net):
        def __init__(self, wrap: Any) -> None:
            super().__init__()
            self.wrap = wrap

        def forward(self, images: Tensor) -> Any:
            return self.wrap(super().forward(images))

    class WithoutForward(tiny.module_class(package).__mro__[1]):  # type: ignore[misc]
        def __init__(self, wrap: Any) -> None:
            super().__init__()
            self.net = Wrapped(wrap)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.net(batch[0])

    wraps = (
        lambda logits: logits,
        lambda logits: (logits, {"features": torch.zeros(len(logits), 2, 2, 2)}),
        lambda logits: {"loss": torch.zeros(()), "logits": logits},
        Output,
    )
    for index, wrap in enumerate(wraps):
        folder = tmp_path / str(index)
        tiny.trainer(folder, [Saliency(samples=2), Filters()], package=package).validate(
            WithoutForward(wrap), tiny.loader(16), verbose=False
        )
        assert moments(folder, "Saliency") == [(0, 0)]
        assert moments(folder, "Filters") == [(0, 0)]


class Patient(VisualizationCallback):
    """Waits, and counts the pictures of its event that were drawn meanwhile."""

    uses_samples = False

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(**options)
        self.folder = folder
        self.drawn: list[int] = []

    def visualize(self, event: Event) -> Iterable[Panel]:
        time.sleep(0.5)
        if event.moment.epoch:
            self.drawn.append(sum(record["epoch"] == event.moment.epoch for record in tiny.records(self.folder)))
        return []


def test_pictures_are_drawn_when_the_event_is_made(tmp_path: Path) -> None:
    patient = Patient(tmp_path)
    tiny.trainer(tmp_path, [Filters(), patient], max_epochs=3).fit(tiny.module(), tiny.loader(16), tiny.loader(8))
    assert patient.drawn == [0, 0, 0]
    assert [record["epoch"] for record in tiny.records(tmp_path) if record["file"]] == [0, 1, 2, 3]


def test_drawing_and_writing_take_no_random_numbers(tmp_path: Path) -> None:
    import random

    import numpy as np

    from vis_callbacks.output.destinations import Destinations
    from vis_callbacks.output.record import Record
    from vis_callbacks.output.writer import Output
    from vis_callbacks.report.html import write_report

    states = [random.getstate(), np.random.get_state(), torch.get_rng_state()]
    output = Output(tmp_path, [])
    panel = Panel("one", [Tile(torch.eye(8), "heat"), Tile(torch.eye(8), "signed", caption="ä")], caption="caption")
    output.put(0, Record("A/one", "A", 0, 0), panel, Destinations(), None, {})
    output.end_event({"model": "M"})
    output.at_end(lambda out: write_report(out.directory))
    assert output.drain(30)
    assert output.problems() == []
    assert random.getstate() == states[0]
    assert all(np.array_equal(one, other) for one, other in zip(np.random.get_state(), states[1], strict=True))
    assert torch.equal(torch.get_rng_state(), states[2])
