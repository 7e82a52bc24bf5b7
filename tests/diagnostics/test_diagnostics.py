"""Faults planted in real trainings: they are said once, shown and written down; clean trainings are silent."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from tests.helpers import tiny
from vis_callbacks import ConfigurationError, DefaultSuite, Diagnostics, Report, Saliency, VisualizationWarning
from vis_callbacks.diagnostics import Check, Facts, Verdict, confusion
from vis_callbacks.report.html import write_report


def data(count: int = 160, *, seed: int = 1) -> TensorDataset:
    shapes = tiny.Shapes(count, seed=seed)
    return TensorDataset(shapes.images.clone(), shapes.labels.clone())


def fit(
    folder: Path,
    *callbacks: Any,
    module: Any = None,
    train: TensorDataset | None = None,
    validation: TensorDataset | None = None,
    **options: Any,
) -> Any:
    trainer = tiny.trainer(folder, callbacks, **{"max_epochs": 3, **options})
    loaders = (DataLoader(one or data(seed=seed), batch_size=8) for seed, one in ((1, train), (2, validation)))
    trainer.fit(tiny.module() if module is None else module, *loaders)
    return trainer


def alarms(diagnostics: Diagnostics) -> list[str]:
    return [one.check for one in diagnostics.findings if one.severity == "alarm"]


def darker(images: TensorDataset) -> TensorDataset:
    return TensorDataset(images.tensors[0] * 0.2, images.tensors[1])


def test_a_clean_training_is_silent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    diagnostics = Diagnostics(on_error="raise")
    fit(tmp_path, diagnostics)
    assert alarms(diagnostics) == []
    assert [record for record in caplog.records if "alarm" in record.message] == []
    (file,) = tmp_path.rglob("findings.json")
    assert json.loads(file.read_text())["checked"] == [check.name for check in diagnostics.checks]


def test_a_finding_is_said_once_shown_and_written_down(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    diagnostics = Diagnostics(on_error="raise")
    with caplog.at_level(logging.INFO):
        trainer = fit(tmp_path, diagnostics, Report(), validation=darker(data(seed=2)), logger=True)
    assert alarms(diagnostics) == ["scale"]
    (finding,) = (one for one in diagnostics.findings if one.check == "scale")
    assert (finding.first_epoch, finding.last_epoch) == (1, 3)
    assert "0.2 times the contrast" in finding.sentence
    said = [record.message for record in caplog.records if "alarm scale" in record.message]
    assert said == [f"Epoch 1, alarm scale: {finding.sentence}"]
    assert sum(finding.sentence in record.message for record in caplog.records) == 2  # and once at the end
    records = [record for record in tiny.records(tmp_path) if record["callback"] == "Diagnostics"]
    assert {record["epoch"] for record in records} == {1, 2, 3}
    (file,) = tmp_path.rglob("findings.json")
    (told,) = (one for one in json.loads(file.read_text())["findings"] if one["check"] == "scale")
    assert told["sentence"] == finding.sentence
    assert set(told["rows"]) <= {record["tag"] for record in records}
    assert told["rows"] == [f"Diagnostics/scale/{panel.name}" for panel in finding.panels] != []
    found = EventAccumulator(trainer.log_dir, size_guidance={"tensors": 0, "images": 0}).Reload()
    text = found.Tensors("visualizations/findings/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert finding.sentence in text
    assert told["rows"][0].replace(" ", "_") in found.Tags()["images"]
    assert finding.sentence in write_report(trainer.log_dir).read_text("utf-8").replace("&#39;", "'")


def test_it_goes_on_with_what_a_checkpoint_knows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = Diagnostics()
    trainer = fit(tmp_path, first, validation=darker(data(seed=2)), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    second = Diagnostics()
    last = tiny.trainer(tmp_path, [second], max_epochs=2)
    caplog.clear()
    loaders = DataLoader(data(), batch_size=8), DataLoader(darker(data(seed=2)), batch_size=8)
    last.fit(tiny.module(), *loaders, ckpt_path=tmp_path / "one.ckpt")
    (finding,) = (one for one in second.findings if one.check == "scale")
    assert (finding.first_epoch, finding.last_epoch) == (1, 2)
    assert not [record for record in caplog.records if "alarm scale" in record.message]


class Softmax(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = tiny.Net()

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images).softmax(dim=1)


def forgetful() -> Any:
    module = tiny.module(
        net=nn.Sequential(nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    )
    head = module.net[4]
    module.configure_optimizers = lambda: torch.optim.AdamW(head.parameters(), lr=0.01)
    return module


def frozen() -> Any:
    module = forgetful()
    module.net[:2].requires_grad_(False)
    return module


def smoothed(net: nn.Module, *, twice: bool) -> Any:
    """Return a module whose loss smooths the labels."""
    module = tiny.module(net=net)

    def step(batch: Any, batch_idx: int) -> Tensor:
        outputs = module(batch[0])
        return cross_entropy(outputs.softmax(dim=1) if twice else outputs, batch[1], label_smoothing=0.1)

    module.training_step = step
    return module


def with_loss(loss: Any, net: nn.Module | None = None) -> Any:
    """Return a module whose training step takes a loss of outputs and labels."""
    module = tiny.module(net=tiny.Net() if net is None else net)

    def step(batch: Any, batch_idx: int) -> Tensor:
        return loss(module(batch[0]), batch[1])

    module.training_step = step
    return module


def weighted(outputs: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(outputs, labels, weight=torch.tensor([1.0, 2.0, 3.0, 4.0]))


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (lambda: tiny.module(net=Softmax()), "double-softmax"),
        (lambda: smoothed(Softmax(), twice=False), "double-softmax"),
        (lambda: smoothed(tiny.Net(), twice=True), "double-softmax"),
        (lambda: with_loss(weighted, Softmax()), "double-softmax"),
        (lambda: with_loss(lambda outputs, labels: weighted(outputs.softmax(1), labels)), "double-softmax"),
        (lambda: with_loss(nn.functional.nll_loss), "wrong-loss"),
        (lambda: with_loss(nn.functional.nll_loss, Softmax()), "wrong-loss"),
        (forgetful, "not-in-optimizer"),
        (frozen, "frozen"),
        (lambda: tiny.module(lr=1e30), "not-finite"),
    ],
    ids=[
        "softmax twice",
        "softmax and smoothing",
        "softmax in a loss that smooths",
        "softmax and weights of classes",
        "softmax in a loss with weights of classes",
        "likelihood of logits",
        "likelihood of probabilities",
        "not in the optimizer",
        "frozen at random",
        "not finite",
    ],
)
def test_faults_of_the_network_and_its_training_are_found(module: Any, expected: str, tmp_path: Path) -> None:
    checks = ["double-softmax", "wrong-loss", "not-in-optimizer", "frozen", "not-finite", "no-gradient"]
    diagnostics = Diagnostics(checks=checks)
    fit(tmp_path, diagnostics, module=module())
    assert alarms(diagnostics) == [expected]


@pytest.mark.parametrize(
    "module",
    [
        lambda: smoothed(tiny.Net(), twice=False),
        lambda: with_loss(weighted),
        lambda: with_loss(lambda outputs, labels: nn.functional.nll_loss(outputs.log(), labels), Softmax()),
        lambda: with_loss(lambda outputs, labels: nn.functional.nll_loss(outputs.log_softmax(1), labels)),
    ],
    ids=["smoothed", "weighted", "logarithm of softmax", "logarithm in the loss"],
)
def test_a_loss_that_fits_is_no_fault(module: Any, tmp_path: Path) -> None:
    diagnostics = Diagnostics(checks=["double-softmax", "wrong-loss"])
    fit(tmp_path, diagnostics, module=module())
    assert alarms(diagnostics) == []


def plant(images: TensorDataset, name: str) -> TensorDataset:
    pixels, labels = (one.clone() for one in images.tensors)
    if name == "black":
        pixels[::5] = 0
    if name == "swapped":
        labels = torch.tensor([0, 2, 1, 3])[labels]
    if name == "without":
        return TensorDataset(pixels[labels != 2], labels[labels != 2])
    return TensorDataset(pixels, labels)


@pytest.mark.parametrize(
    ("name", "expected"), [("black", "constant-images"), ("swapped", "swapped-labels"), ("without", "missing-class")]
)
def test_faults_of_the_data_are_found(name: str, expected: str, tmp_path: Path) -> None:
    diagnostics = Diagnostics(on_error="raise")
    fit(tmp_path, diagnostics, validation=plant(data(seed=2), name))
    assert expected in alarms(diagnostics)
    assert next(one.panels for one in diagnostics.findings if one.check == expected)


@pytest.mark.parametrize("buffer", [0, 30])
def test_training_images_that_come_sorted_are_found(buffer: int, tmp_path: Path) -> None:
    images = data(400)
    order = images.tensors[1].argsort(stable=True).tolist()
    if buffer:
        random, waiting, mixed = torch.Generator().manual_seed(0), order[:buffer], []
        for number in [*order[buffer:], *[-1] * buffer]:
            mixed.append(waiting.pop(int(torch.randint(len(waiting), (1,), generator=random))))
            waiting += [number] if number >= 0 else []
        order = mixed
    diagnostics = Diagnostics(on_error="raise")
    fit(tmp_path, diagnostics, train=TensorDataset(*(one[order] for one in images.tensors)))
    # Layers that die of it are told, too.
    assert set(alarms(diagnostics)) - {"dead-units"} == {"not-shuffled"}
    (finding,) = (one for one in diagnostics.findings if one.check == "not-shuffled")
    assert ("sorted by class: in 4 runs" if not buffer else "all but sorted") in finding.sentence
    assert finding.first_epoch == 1
    (panel,) = finding.panels
    assert panel.tiles[0].values.shape == (1, 240, 232)


@pytest.mark.parametrize(("where", "severity"), [("validation", "alarm"), ("training", "note")])
def test_layers_in_the_wrong_mode_are_found(where: str, severity: str, tmp_path: Path) -> None:
    module = tiny.module(
        net=nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    )
    steps = {"training": module.training_step, "validation": module.validation_step}

    def step(batch: Any, batch_idx: int) -> Any:
        module.net.train(where == "validation")
        return steps[where](batch, batch_idx)

    setattr(module, f"{where}_step", step)
    diagnostics = Diagnostics(checks=["wrong-mode"], on_error="raise")
    fit(tmp_path, diagnostics, module=module)
    (finding,) = diagnostics.findings
    assert finding.severity == severity
    assert finding.sentence.startswith(f"In {where}")
    assert {panel.name for panel in finding.panels} == {"training", "validation"}
    assert finding.panels[0].name == where, "the wrong one comes first"


def test_few_images_are_looked_at_for_marks_in_each_epoch(tmp_path: Path) -> None:
    images = data()
    random = TensorDataset(torch.rand_like(images.tensors[0]), images.tensors[1])
    diagnostics = Diagnostics(on_error="raise")
    fit(tmp_path, diagnostics, train=random)
    assert diagnostics._watch is not None
    assert diagnostics._watch.places is not None
    assert diagnostics._watch.places[0].tried > 0


def test_leakage_of_files_that_were_saved_again_is_found(tmp_path: Path) -> None:
    train, validation = data(), data(seed=2)
    again = 0.9 * train.tensors[0][:40] + 0.05 + 0.005 * torch.randn(40, 1, *train.tensors[0].shape[2:])
    validation.tensors = (
        torch.cat([again.flip(3), validation.tensors[0]]),
        torch.cat([train.tensors[1][:40], validation.tensors[1]]),
    )
    diagnostics = Diagnostics(checks=["leakage"])
    fit(tmp_path, diagnostics, train=train, validation=validation)
    (found,) = diagnostics.findings
    assert found.sentence.startswith("40 of 200 validation images are all but the same")


@pytest.mark.parametrize("mirrored", [False, True])
def test_leakage_is_found(mirrored: bool, tmp_path: Path) -> None:
    diagnostics = Diagnostics(on_error="raise")
    validation = data(seed=2)
    mixed = [torch.cat([one[:40], other[40:]]) for one, other in zip(data().tensors, validation.tensors, strict=True)]
    if mirrored:
        mixed[0][:40] = mixed[0][:40].flip(3)
    fit(tmp_path, diagnostics, validation=TensorDataset(*mixed))
    found = {one.check: one.sentence for one in diagnostics.findings if one.severity == "alarm"}
    assert found.pop("leakage").startswith("40 of 160 validation images are training images too")
    # A network that has learned enough also tells that the mirrored copies, a part of the images, are mirrored.
    assert set(found) <= ({"geometry"} if mirrored else set())
    assert all("Mirrored left to right" in sentence for sentence in found.values())


def multi_label(module: Any) -> None:
    def step(batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        rows = nn.functional.one_hot(batch[1], 4).float()
        return nn.functional.binary_cross_entropy_with_logits(module(batch[0]), rows)

    module.training_step = step


def manual(module: Any) -> None:
    module.automatic_optimization = False

    def step(batch: Sequence[Tensor], batch_idx: int) -> None:
        optimizer = module.optimizers()
        optimizer.zero_grad()
        module.manual_backward(nn.functional.cross_entropy(module(batch[0]), batch[1]))
        optimizer.step()
        optimizer.zero_grad()

    module.training_step = step


@pytest.mark.parametrize("change", [multi_label, manual, lambda module: None], ids=["labels", "manual", "plain"])
@pytest.mark.parametrize("options", [{}, {"limit_val_batches": 0}, {"accumulate_grad_batches": 3}])
def test_trainings_of_other_kinds_raise_no_false_alarm(change: Any, options: dict[str, Any], tmp_path: Path) -> None:
    module = tiny.module()
    change(module)
    if change is manual:
        options = {name: value for name, value in options.items() if name != "accumulate_grad_batches"}
    diagnostics = Diagnostics(on_error="raise")
    fit(tmp_path, diagnostics, module=module, **options)
    assert alarms(diagnostics) == []


def test_the_default_suite_tells_too(tmp_path: Path) -> None:
    suite = DefaultSuite()
    (diagnostics,) = (one for one in suite.callbacks if isinstance(one, Diagnostics))
    fit(tmp_path, suite, validation=darker(data(seed=2)), max_epochs=1)
    assert alarms(diagnostics) == ["scale"]


def normalising() -> Any:
    """Return a module whose steps change the images before they call the network."""
    module = tiny.module()

    def step(batch: Any, batch_idx: int) -> Tensor:
        return cross_entropy(module.net((batch[0] - 0.5) * 2), batch[1])

    module.training_step = module.validation_step = step
    return module


def test_images_that_the_step_changes_are_judged_by_what_passes(tmp_path: Path) -> None:
    validation = data(seed=2)
    validation.tensors = (validation.tensors[0], (validation.tensors[1] + 1) % 4)
    diagnostics = Diagnostics(on_error="raise")
    with pytest.warns(VisualizationWarning, match="changes the images before it calls net"):
        fit(tmp_path, diagnostics, module=normalising(), validation=validation, max_epochs=6)
    assert "swapped-labels" in alarms(diagnostics)


def test_a_function_says_how_images_are_changed_and_answers_are_known_all_the_same(tmp_path: Path) -> None:
    def forward(module: Any, images: Tensor) -> Tensor:
        return module.net((images - 0.5) * 2)

    diagnostics = Diagnostics(on_error="raise", forward=forward)
    fit(tmp_path, diagnostics, module=normalising(), train=data(400), max_epochs=2)
    measured = diagnostics._measured
    assert measured is not None
    assert measured.facts.train.answers == 400
    assert measured.facts.validation is not None
    assert measured.facts.validation.answers == 160
    assert measured.facts.layers != ()


def test_of_two_networks_in_a_step_none_is_taken_for_the_one_that_a_function_calls(tmp_path: Path) -> None:
    module = normalising()
    module.teacher = tiny.Net()

    def step(batch: Any, batch_idx: int) -> Tensor:
        images = (batch[0] - 0.5) * 2
        return cross_entropy(module.net(images), batch[1]) + module.teacher(images).square().mean()

    def forward(module: Any, images: Tensor) -> Tensor:
        return module.net((images - 0.5) * 2)

    module.training_step = module.validation_step = step
    diagnostics = Diagnostics(on_error="raise", forward=forward)
    fit(tmp_path, diagnostics, module=module)
    measured = diagnostics._measured
    assert measured is not None
    assert measured.facts.train.answers == 0, "whose answers they are is not known"
    assert measured.facts.train.images > 0


def test_what_it_cannot_watch_is_one_warning(tmp_path: Path) -> None:
    def broken(batch: Any) -> Any:
        if broken.calls > 6:  # type: ignore[attr-defined]
            raise ValueError("no images today")
        broken.calls += 1  # type: ignore[attr-defined]
        return batch[0], batch[1]

    broken.calls = 0  # type: ignore[attr-defined]
    diagnostics = Diagnostics(batch_to_images=broken, samples=tiny.Shapes(4).images)
    with pytest.warns(
        VisualizationWarning, match="Diagnostics cannot watch this training: ValueError: no images"
    ) as told:
        trainer = fit(tmp_path, diagnostics)
    assert trainer.state.finished
    assert len([one for one in told if "cannot watch" in str(one.message)]) == 1


def test_one_that_cannot_stop_watching_is_one_warning(tmp_path: Path) -> None:
    class Clinging(Diagnostics):
        def stop_watching(self) -> None:
            raise RuntimeError("the hook is gone")

    with pytest.warns(VisualizationWarning, match="cannot stop watching.*the hook is gone"):
        trainer = fit(tmp_path, Clinging(checks=["scale"]), Saliency())
    assert trainer.current_epoch == 3
    assert tiny.records(tmp_path), "the others are written to the end"


def test_batches_without_images_are_told_by_others(tmp_path: Path) -> None:
    rows = TensorDataset(torch.rand(16, 6), torch.arange(16) % 4)
    with pytest.warns(VisualizationWarning) as told:
        fit(tmp_path, Saliency(), Diagnostics(), module=tiny.module(net=nn.Linear(6, 4)), train=rows, validation=rows)
    (one,) = [warning for warning in told if issubclass(warning.category, VisualizationWarning)]
    assert "cannot watch" not in str(one.message)


def test_a_check_of_ones_own_is_told_as_the_others(tmp_path: Path) -> None:
    def judge(facts: Facts) -> Verdict | None:
        shown = facts.validation
        return None if shown is None else Verdict("alarm", f"{shown.answers} images of {facts.name(0)} and others.")

    diagnostics = Diagnostics(checks=[Check("mine", judge, confusion, patience=2), "scale"])
    assert [check.name for check in diagnostics.checks] == ["scale", "mine"]
    fit(tmp_path, diagnostics)
    (found,) = diagnostics.findings
    assert (found.check, found.first_epoch) == ("mine", 2)
    assert found.sentence.endswith("images of 0 and others.")
    tags = {record["tag"] for record in tiny.records(tmp_path) if record["file"]}
    assert "Diagnostics/mine/confusion in validation" in tags


def test_a_check_that_fails_takes_no_other_with_it(tmp_path: Path) -> None:
    def judge(facts: Facts) -> Verdict | None:
        return Verdict("alarm", f"Class {facts.classes[99]} is missing.")

    always = Check("always", lambda facts: Verdict("alarm", f"Epoch {facts.epoch} is over."), confusion)
    diagnostics = Diagnostics(checks=[Check("mine", judge, confusion), always])
    with pytest.warns(VisualizationWarning) as told:
        fit(tmp_path, diagnostics)
    (text,) = [str(one.message) for one in told if issubclass(one.category, VisualizationWarning)]
    assert text.startswith("The check mine of Diagnostics failed in epoch 1: IndexError: ")
    assert [found.check for found in diagnostics.findings] == ["always"]
    assert any(record["tag"].startswith("Diagnostics/always/") for record in tiny.records(tmp_path) if record["file"])
    with pytest.raises(IndexError):
        fit(tmp_path / "raise", Diagnostics(checks=[Check("mine", judge, confusion)], on_error="raise"))


@pytest.mark.parametrize("later", [None, Verdict("note", "It is a little bad.")], ids=["nothing", "note"])
def test_what_has_healed_explains_nothing_any_more(later: Verdict | None, tmp_path: Path) -> None:
    def healed(facts: Facts) -> Verdict | None:
        return Verdict("alarm", "It begins badly.") if facts.epoch == 1 else later

    def lasting(facts: Facts) -> Verdict:
        return Verdict("alarm", "It is bad.")

    cause = Check("cause", healed, confusion)
    diagnostics = Diagnostics(checks=[cause, Check("consequence", lasting, confusion, silenced_by=("cause",))])
    fit(tmp_path, diagnostics, max_epochs=3)
    found = {one.check: (one.first_epoch, one.last_epoch) for one in diagnostics.findings}
    assert found == {"cause": (1, 3 if later else 1), "consequence": (2, 3)}


def test_an_unknown_check_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"checks=.*each name once"):
        Diagnostics(checks=["scale", "scale"])
    with pytest.raises(ConfigurationError, match="checks: no check 'scales'; nearest: scale"):
        Diagnostics(checks=["scales"])


def test_nothing_is_left_at_the_network(tmp_path: Path) -> None:
    module = tiny.module()
    fit(tmp_path, Diagnostics(), module=module)
    assert all(not one._forward_hooks for one in module.modules())


@pytest.mark.slow
def test_two_processes_give_one_list(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(
        """
import sys
from pathlib import Path
from torch.utils.data import DataLoader
from tests.diagnostics.test_diagnostics import darker, data
from tests.helpers import tiny
from vis_callbacks import Diagnostics
if __name__ == "__main__":
    diagnostics = Diagnostics(on_error="raise")
    trainer = tiny.trainer(Path(sys.argv[1]), [diagnostics], strategy="ddp", devices=2, max_epochs=2)
    trainer.fit(tiny.module(), DataLoader(data(), batch_size=8), DataLoader(darker(data(seed=2)), batch_size=8))
    print("rank", trainer.global_rank, [one.check for one in diagnostics.findings], flush=True)
"""
    )
    command = [sys.executable, "-W", "ignore", str(script), str(tmp_path / "run")]
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**__import__("os").environ, "PYTHONPATH": str(root)}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "rank 0 ['scale']" in done.stdout
    assert len(list((tmp_path / "run").rglob("findings.json"))) == 1
