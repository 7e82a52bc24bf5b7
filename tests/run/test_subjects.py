"""What a Trainer's pictures are about: found once, told once, kept, set by one option."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.helpers import tiny
from vis_callbacks import (
    ClassAppearance,
    ConfigurationError,
    Event,
    Filters,
    GradCAM,
    LayerError,
    Needs,
    Panel,
    Report,
    Saliency,
    Tile,
    VisualizationCallback,
    VisualizationWarning,
    default_suite,
)
from vis_callbacks.model.evidence import find_subject
from vis_callbacks.output.subject_facts import subject_facts
from vis_callbacks.report.html import write_report
from vis_callbacks.run.run import Run


class Looker(VisualizationCallback):
    """Writes down what it is given."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.events: list[Event] = []
        self.logits: list[Tensor] = []
        self.weights: list[Tensor] = []

    def needs(self, event: Event) -> Needs:
        return Needs(input_gradient=True)

    def visualize(self, event: Event) -> Iterable[Panel]:
        assert event.trace.input_gradient is not None
        self.events.append(event)
        self.logits.append(event.trace.logits)
        self.weights.append(torch.cat([one.detach().flatten() for one in event.model.parameters()]))
        yield event.sample_panel(0, Tile(event.trace.input_gradient[0].abs().amax(dim=0)))


@contextmanager
def said() -> Iterator[list[str]]:
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield found
    found += [str(one.message) for one in caught if issubclass(one.category, VisualizationWarning)]


def fit(folder: Path, module: Any, *callbacks: Any, **options: Any) -> Any:
    trainer = tiny.trainer(folder, callbacks, **options)
    trainer.fit(module, tiny.loader(32), tiny.loader(16, seed=1))
    return trainer


def facts(folder: Path) -> dict[str, Any]:
    (file,) = folder.rglob("run.json")
    return dict(json.loads(file.read_text()))


class Base(pl.LightningModule):
    """A module that trains one net, in the way of a subclass."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = tiny.Net()

    def logits(self, batch: Any) -> Tensor:
        return self.net(batch[0])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.logits(batch), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.logits(batch), batch[1]))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([one for one in self.parameters() if one.requires_grad], lr=0.05)


class Student(Base):
    """Distillation: a wide frozen teacher, and a student that is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.student = tiny.Net().requires_grad_(False), self.net
        self.teacher.wide = nn.Linear(64, 64).requires_grad_(False)
        del self.net

    def logits(self, batch: Any) -> Tensor:
        return self.student(batch[0])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        with torch.no_grad():
            wanted = self.teacher(batch[0]).softmax(dim=1)
        return super().training_step(batch, batch_idx) + F.cross_entropy(self.student(batch[0]), wanted)


class Encoded(Base):
    """An encoder and a head, called by the steps one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = self.net, nn.Linear(8, len(tiny.CLASSES))
        self.encoder.head = nn.Linear(4, 8)
        del self.net

    def logits(self, batch: Any) -> Tensor:
        return self.head(self.encoder(batch[0]))


class OfBatch(Base):
    def forward(self, batch: Any) -> Tensor:
        return self.net(batch[0])

    def logits(self, batch: Any) -> Tensor:
        return self(batch)


class OfLoss(Base):
    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.net(images), labels)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(*batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self(*batch))


class Answering(Base):
    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images).argmax(dim=1)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_accuracy", (self(batch[0]) == batch[1]).float().mean())


class Compiled(Base):
    def __init__(self) -> None:
        super().__init__()
        self.frozen = tiny.Net().requires_grad_(False)
        self.net.compile(backend="eager")


class Fused(Base):
    """Adds something that no picture can have."""

    def __init__(self) -> None:
        super().__init__()
        self.net.forward = self.both  # type: ignore[method-assign]

    def both(self, images: Tensor, brightness: Tensor) -> Tensor:
        return tiny.Net.forward(self.net, images) + brightness[:, None]

    def logits(self, batch: Any) -> Tensor:
        return self.net(batch[0], batch[0].mean(dim=(1, 2, 3)))


class Embedding(Base):
    def __init__(self) -> None:
        super().__init__()
        self.net.head = nn.Linear(4, 16)


class Segmenting(Base):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1))

    def logits(self, batch: Any) -> Tensor:
        return self.net(batch[0]).mean(dim=(2, 3))


class TwoHeads(Base):
    def __init__(self) -> None:
        super().__init__()
        self.net.head = nn.Identity()
        self.shape, self.side = nn.Linear(4, 4), nn.Linear(4, 2)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        features = self.net(batch[0])
        return F.cross_entropy(self.shape(features), batch[1]) + F.cross_entropy(self.side(features), batch[1] % 2)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.shape(self.net(batch[0])), batch[1]))


def shape_of(module: Any, images: Tensor) -> Tensor:
    return module.shape(module.net(images))


@dataclass(frozen=True)
class Case:
    """A module and an option, and what is right."""

    module: Callable[[], Any]
    network: str
    outputs: str = "4 classes"
    forward: Any = None
    says: str = ""
    made: bool = True


CASES = {
    "a child": Case(Base, "net"),
    "distillation": Case(Student, "student"),
    "encoder and head": Case(Encoded, "encoder", "8 features", says="no single part of Encoded maps images to logits"),
    "encoder and head with forward=": Case(
        Encoded, "", forward=lambda module, images: module.head(module.encoder(images))
    ),
    "a forward that takes the batch": Case(OfBatch, "net"),
    "a forward that returns the loss": Case(OfLoss, "net"),
    "a forward that answers": Case(Answering, "net"),
    "a compiled child": Case(Compiled, "net"),
    "more outputs than class names": Case(
        Embedding, "net", "16 classes", says="net gives 16 outputs, and there are 4 class names: no verdict is given"
    ),
    "several inputs": Case(
        Fused, "net", "not known yet", says="net.forward takes (images, brightness), not images alone", made=False
    ),
    "a map of classes": Case(
        Segmenting, "net", "not known yet", says="net gives tensor (8, 4, 8, 8)", made=False
    ),
    "a map of classes with forward=": Case(
        Segmenting, "", forward=lambda module, images: module.net(images).mean(dim=(2, 3))
    ),
    "a head by its import path": Case(TwoHeads, "", forward=f"{__name__}:shape_of"),
    "a child by its name": Case(Student, "teacher", forward="teacher"),
}  # fmt: skip
STAGES = {
    "validation": {},
    "no sanity check": {"num_sanity_val_steps": 0},
    "training alone": {"limit_val_batches": 0},
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", CASES)
def test_the_right_network_is_shown_and_told(name: str, stage: str, tmp_path: Path) -> None:
    case = CASES[name]
    looker = Looker(samples=2, forward=case.forward)
    with said() as warned:
        fit(tmp_path, case.module(), looker, Filters(forward=case.forward), max_epochs=1, **STAGES[stage])
    assert len(warned) == bool(case.says), warned
    if case.says:
        assert case.says in warned[0]
        assert "set " in warned[0]
        assert len(warned[0]) < 300
    subject = facts(tmp_path)["subject"]
    assert (subject["network"], subject["outputs"]) == (case.network, case.outputs)
    assert subject["problem"] == (warned[0] if warned else "")
    made = tiny.records(tmp_path)
    assert {record["epoch"] for record in made if record["callback"] == "Filters" and record["file"]} == {0, 1}
    assert len(looker.events) == 2 * case.made
    for event, logits in zip(looker.events, looker.logits, strict=True):
        assert event.subject.network == case.network
        assert logits.shape == (2, int(case.outputs.split()[0]))
        assert event.subject.predicts == (not case.says)
    gaps = [record["error"] for record in made if record["error"]]
    assert len(gaps) == (0 if case.made else 2)
    assert all("set forward=" in gap for gap in gaps)


@pytest.mark.parametrize("how", ["validate", "test"])
def test_a_validation_or_test_alone_finds_it_too(how: str, tmp_path: Path) -> None:
    looker = Looker(samples=2, on={"validate": "validation", "test": "test"}[how])
    trainer = tiny.trainer(tmp_path, [looker])
    getattr(trainer, how)(Student(), tiny.loader(16), verbose=False)
    assert [event.subject.network for event in looker.events] == ["student"]


def test_the_initial_weights_are_those_of_the_student(tmp_path: Path) -> None:
    module, looker = Student(), Looker(samples=2)
    initial = torch.cat([one.detach().clone().flatten() for one in module.student.parameters()])
    fit(tmp_path, module, looker, max_epochs=1, limit_val_batches=0)
    assert torch.equal(looker.weights[0], initial)
    assert not torch.equal(looker.weights[1], initial)


# One option.


def test_two_callbacks_show_two_heads_and_share_no_pass(tmp_path: Path) -> None:
    module = TwoHeads()
    shape = Looker(samples=2, name="Shape", forward=lambda module, images: module.shape(module.net(images)))
    side = Looker(samples=2, name="Side", forward=lambda module, images: module.side(module.net(images)))
    with said() as warned:
        fit(tmp_path, module, shape, side, max_epochs=1)
    assert [one.shape for one in (*shape.logits, *side.logits)] == [(2, 4)] * 2 + [(2, 2)] * 2
    assert shape.events[0].shared is not side.events[0].shared
    # The labels and the names are those of four classes.
    assert [text.split(": ")[0] for text in warned] == ["forward='<lambda>' gives 2 outputs, and labels reach 3"]
    assert shape.events[0].samples.class_names == tiny.CLASSES
    assert side.events[0].samples.class_names == ()
    found = facts(tmp_path)
    assert (found["subject"]["outputs"], found["subjects"]["Side"]["outputs"]) == ("4 classes", "2 classes")
    page = write_report(tmp_path).read_text()
    assert "Side: network TwoHeads, outputs 2 classes, target predicted class" in page


@pytest.mark.parametrize("how", ["report", "suite", "report first"])
def test_one_option_serves_all(how: str, tmp_path: Path) -> None:
    if how == "suite":
        callbacks = default_suite(budget=None, forward="teacher")
        for callback in callbacks:
            if isinstance(callback, ClassAppearance):
                callback.steps = 2
    else:
        own = [Saliency(samples=2), Saliency(samples=2, forward="student", name="own")]
        callbacks = [Report(forward="teacher"), *own] if how == "report first" else [*own, Report(forward="teacher")]
    fit(tmp_path, Student(), *callbacks, max_epochs=1)
    found = facts(tmp_path)
    assert found["subject"]["network"] == "teacher"
    assert found.get("subjects", {}).keys() == (set() if how == "suite" else {"own"})


@pytest.mark.parametrize(
    ("forward", "says"),
    [
        ("studnt", "expected a child of Student (nearest: student"),
        ("no.such.module:function", "expected a child of Student"),
    ],
)
@pytest.mark.parametrize("make", [lambda forward: Saliency(forward=forward), lambda forward: Report(forward=forward)])
def test_a_wrong_name_stops_before_training(make: Any, forward: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as raised:
        fit(tmp_path, Student(), Filters(), make(forward))
    assert says in str(raised.value)
    assert len(str(raised.value)) < 300
    assert tiny.records(tmp_path) == []


def test_a_wrong_function_says_so_once_and_prints_no_model(tmp_path: Path) -> None:
    with said() as warned:
        fit(tmp_path, Base(), Saliency(samples=2, forward=lambda images: images), Filters(), max_epochs=2)
    (sentence,) = warned
    assert "was called with Base and images (2, 1, 8, 8): TypeError: " in sentence
    assert len(sentence) < 300
    assert "Conv2d" not in sentence


class Refusing(tiny.Net):
    """Takes images alone only where the steps call it."""

    def forward(self, images: Tensor) -> Tensor:
        if torch.is_grad_enabled() and not self.training:
            raise TypeError(f"no labels: {self}")
        return super().forward(images)


def test_a_type_error_of_the_users_forward_says_what_it_takes(tmp_path: Path) -> None:
    module = Base()
    module.net = Refusing()
    with said() as warned:
        fit(tmp_path, module, Looker(samples=2), Saliency(samples=3), max_epochs=2)
    (sentence,) = warned
    assert sentence.startswith("Refusing.forward takes (images) and failed on images alone: TypeError: no labels: ")
    assert sentence.endswith("set forward= to a function (module, images) -> logits")
    assert len(sentence) < 300
    assert "conv1" not in sentence
    assert {record["error"] for record in tiny.records(tmp_path)} == {sentence.join(["SubjectError: ", ""])}


def test_what_cannot_be_understood_stops_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vis_callbacks.model import calls
    from vis_callbacks.run import subjects

    def fails(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("as something of a user's might")

    # A hook, what reads the batch, and the choice: what is left is tried, guessed, or asked for.
    for index, (place, name) in enumerate(
        [(calls, "image_argument"), (calls, "labels_in"), (subjects, "find_subject")]
    ):
        monkeypatch.setattr(place, name, fails)
        looker = Looker(samples=2)
        with said() as warned:
            fit(tmp_path / str(index), Base(), looker, max_epochs=1)
        assert [event.subject.network for event in looker.events][-1:] == ["net"] * (place is calls)
        assert len(warned) == (place is subjects)
        assert all("set forward=" in text for text in warned)


def test_layers_are_named_as_in_the_users_module(tmp_path: Path) -> None:
    fit(tmp_path, Student(), GradCAM(layer="student.conv1", samples=2), Filters("conv2"), max_epochs=1)
    assert {record["error"] for record in tiny.records(tmp_path)} == {None}
    assert facts(tmp_path)["subject"]["layers"] == {"student.conv1": [8, 8]}
    with pytest.raises(LayerError, match=r"no layer 'student\.conv7'"):
        fit(tmp_path / "other", Student(), GradCAM(layer="student.conv7"))


class Scaling(Base):
    """Scales the images in its steps."""

    def logits(self, batch: Any) -> Tensor:
        return self.net(batch[0] / 4)


class ScalingInTraining(Scaling):
    """As augmentation does."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("reads", [True, False])
def test_a_reader_that_does_what_the_steps_do_gives_the_images_of_the_network(
    stage: str, reads: bool, tmp_path: Path
) -> None:
    module = Scaling()
    looker = Looker(samples=2, batch_to_images=(lambda batch: (batch[0] / 4, batch[1])) if reads else None)
    with said() as warned:
        fit(tmp_path, module, looker, max_epochs=1, **STAGES[stage])
    assert len(looker.events) == 2 * reads
    assert len(warned) == (not reads)
    assert all("the step changes the images before it calls net; set forward='net' if" in one for one in warned)
    for event, logits in zip(looker.events[1:], looker.logits[1:], strict=True):
        torch.testing.assert_close(logits, module.net.eval()(event.samples.images).detach())


def test_while_validation_is_awaited_nothing_is_watched_or_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vis_callbacks.run import subjects

    found: list[str] = []

    def counted(module: Any, **options: Any) -> Any:
        found.append("training" if module.training else "validation")
        return find_subject(module, **options)

    monkeypatch.setattr(subjects, "find_subject", counted)
    looker = Looker(samples=2)
    fit(tmp_path, ScalingInTraining(), looker, max_epochs=1, num_sanity_val_steps=0)
    assert found == ["training", "validation"]
    assert [event.subject.network for event in looker.events] == ["net", "net"]


@pytest.mark.parametrize(
    ("meaning", "width", "targets", "expected"),
    [
        ("classes", 4, ["predicted", "label", "2"], "predicted class, true class, class 2"),
        ("binary", 1, ["contrast"], "predicted class against the true one"),
        ("value", 1, ["predicted", "label"], "the output"),
        ("value", 3, ["predicted", "label", "1"], "largest output, output 1"),
        ("embedding", 16, ["predicted", "contrast", "7"],
         "largest feature, largest feature against the second largest, feature 7"),
    ],
)  # fmt: skip
def test_the_target_is_named_as_what_the_outputs_are(meaning: str, width: int, targets: Any, expected: str) -> None:
    facts = subject_facts({"kind": "Net", "meaning": meaning, "width": width, "targets": targets})
    assert facts[-1] == ("Target", expected, "")


# Kept.


def first(module: Any, images: Tensor) -> Tensor:
    return module.shape(module.net(images))


def test_a_resumed_run_goes_on_with_the_same_subject(tmp_path: Path) -> None:
    def callbacks() -> list[Any]:
        return [
            Looker(samples=2),
            Looker(samples=2, forward=lambda module, images: module.teacher(images)),
            Looker(samples=2, forward=lambda module, images: module.student(images)),
        ]

    begun, resumed = callbacks(), callbacks()
    assert [one.state_key for one in begun] == [one.state_key for one in resumed]
    assert len({one.state_key for one in begun}) == 3
    trainer = fit(tmp_path / "a", Student(), *begun, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    state = torch.load(tmp_path / "one.ckpt", weights_only=True)["callbacks"]
    assert [state[one.state_key]["subject"]["network"] for one in begun] == ["student", "", ""]
    trainer = tiny.trainer(tmp_path / "b", resumed, max_epochs=2)
    found: list[Any] = []
    trainer.callbacks.append(Seen(found))
    trainer.fit(Student(), tiny.loader(32), tiny.loader(16, seed=1), ckpt_path=tmp_path / "one.ckpt")
    # Known before any batch has passed.
    assert found == [[one.events[0].subject for one in begun]]
    assert [one.events[0].subject for one in resumed] == [one.events[0].subject for one in begun]
    assert not torch.equal(resumed[1].logits[0], resumed[2].logits[0])


def test_of_a_checkpoint_only_a_network_that_is_gone_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    from vis_callbacks.run import subjects

    def fails(*_: Any) -> Any:
        raise ZeroDivisionError

    known = subjects.Subjects()
    for name, forward in (("gone", None), ("gone", "gone"), ("", "no_package.gone")):
        known.restore(Base(), forward, {"network": name})
        assert known.subject(forward) is None
    known.restore(Base(), None, {"network": "net"})
    assert known.subject(None) is not None
    monkeypatch.setattr(subjects, "network_of", fails)
    with pytest.raises(ZeroDivisionError):
        known.restore(Base(), "net", {"network": "net"})


class Seen(pl.Callback):
    def __init__(self, found: list[Any]) -> None:
        self.found = found

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        run = Run.of(trainer)
        self.found.append([run.inputs.subjects.subject(one.forward) for one in run.members.techniques])


def test_functions_made_by_one_function_have_keys_of_their_own() -> None:
    def head(index: int) -> Any:
        return lambda module, images: module(images)[index]

    keys = [Saliency(forward=one).state_key for one in (head(0), head(1), head(1), None, "net", first)]
    assert keys[1] == keys[2]
    assert len(set(keys)) == 5


def test_another_module_in_the_same_trainer_has_a_subject_of_its_own(tmp_path: Path) -> None:
    looker = Looker(samples=2)
    trainer = fit(tmp_path, Student(), looker, max_epochs=1)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(Base(), tiny.loader(32), tiny.loader(16, seed=1))
    assert [event.subject.network for event in looker.events] == ["student", "student", "net"]


# Told.


def test_it_is_told_in_the_report_and_in_tensorboard(tmp_path: Path) -> None:
    logger = pl.loggers.TensorBoardLogger(tmp_path)
    report = Report()
    fit(tmp_path, Student(), GradCAM(samples=2), Saliency(samples=2, targets="label"), report, logger=logger)
    assert report.path is not None
    ((layer, _),) = facts(tmp_path)["subject"]["layers"].items()
    page = " ".join(report.path.read_text().split())
    for term, value in (
        ("Network", "student <small>Net</small>"),
        ("Outputs", "4 classes"),
        ("Layer of the maps", f"{layer} <small>8 x 8</small>"),
        ("Colours by", "values in [0, 1]"),
        ("Target", "predicted class, true class"),
    ):
        assert f"<dt>{term}</dt><dd>{value}</dd>" in page
    assert "<h1>Student (Net)</h1>" in page
    events = EventAccumulator(logger.log_dir, size_guidance={"tensors": 0}).Reload()
    (text,) = events.Tensors("visualizations/subject/text_summary")
    shown = text.tensor_proto.string_val[0].decode()
    assert "* **Network**: student (Net)" in shown
    assert f"* **Layer of the maps**: {layer} (8 x 8)" in shown


def test_the_bands_that_are_shown_and_what_gives_their_colours_are_told(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(5, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))
    data = TensorDataset(torch.rand(16, 5, 8, 8), torch.arange(16) % 4)
    module, report = tiny.module(net=net), Report()
    net(torch.rand(1, 5, 8, 8))
    loader = DataLoader(data, batch_size=8)
    # Filters, which look at no images, do not hide what the others look at.
    callbacks = [Saliency(samples=2, bands=(3, 2, 1), mean=0.0, std=1.0), Filters(), report]
    tiny.trainer(tmp_path, callbacks, max_epochs=1).fit(module, loader, loader)
    page = " ".join(report.path.read_text().split())
    assert "<dt>Colours by</dt><dd>given as mean= and std= <small>bands 3, 2, 1</small></dd>" in page


def test_a_problem_is_in_the_head_of_the_report(tmp_path: Path) -> None:
    report = Report()
    with said():
        fit(tmp_path, Encoded(), Saliency(samples=2), report, max_epochs=1)
    assert report.path is not None
    page = report.path.read_text()
    banner = page[page.index('<p class="banner"') :].split("</p>")[0]
    assert "No single part of Encoded maps images to logits" in banner
    assert "set forward=" in banner
    assert "no verdict" in page


# Weight averaging.


class Averaging(pl.Callback):
    """As users write it: averaged weights while an epoch is validated, the others while it is trained."""

    def __init__(self, start: str, end: str) -> None:
        self.kept: list[Tensor] = []
        setattr(self, start, self.swap)
        setattr(self, end, self.swap)
        self.average: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        weights = [one.detach().clone() for one in pl_module.parameters()]
        before = self.average or weights
        self.average = [0.5 * one + 0.5 * other for one, other in zip(before, weights, strict=True)]

    def swap(self, trainer: Any, pl_module: Any) -> None:
        if self.average:
            current = [one.detach().clone() for one in pl_module.parameters()]
            for parameter, other in zip(pl_module.parameters(), self.average, strict=True):
                parameter.data.copy_(other)
            self.average = current


class Validated(Base):
    """Writes down the weights that each validation uses."""

    def __init__(self) -> None:
        super().__init__()
        self.used: list[Tensor] = []

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        if batch_idx == 0 and not self.trainer.sanity_checking:
            self.used.append(torch.cat([one.detach().clone().flatten() for one in self.net.parameters()]))


AVERAGING: dict[str, Callable[[], Any]] = {
    "EMA": lambda: pl.callbacks.EMAWeightAveraging(decay=0.5),
    "averages": lambda: pl.callbacks.WeightAveraging(),
    "SWA": lambda: pl.callbacks.StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1),
    "a user's, by epochs": lambda: Averaging("on_validation_epoch_start", "on_validation_epoch_end"),
    "a user's, by validations": lambda: Averaging("on_validation_start", "on_validation_end"),
}


@pytest.mark.parametrize("name", AVERAGING)
def test_pictures_show_the_weights_that_validation_used_in_any_order(name: str, tmp_path: Path) -> None:
    if name in ("EMA", "averages") and not hasattr(pl.callbacks, "WeightAveraging"):
        pytest.skip("Lightning averages weights since 2.6")
    pictures = []
    for order in ("before", "after"):
        folder, module, looker = tmp_path / order, Validated(), Looker(samples=2)
        ours, theirs = [looker, Saliency(samples=2), Report()], [AVERAGING[name]()]
        fit(folder, module, *([*theirs, *ours] if order == "before" else [*ours, *theirs]), max_epochs=3)
        # The last epochs of stochastic averaging are validated too.
        assert len(looker.weights) == len(module.used) + 1 >= 4
        for shown, used in zip(looker.weights[1:], module.used, strict=True):
            assert torch.equal(shown, used)
        records = [record for record in tiny.records(folder) if record["callback"] == "Saliency"]
        pictures.append([file.read_bytes() for file in tiny.files_of(folder, records)])
    assert pictures[0] == pictures[1]
