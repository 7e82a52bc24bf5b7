"""Class names wherever data sets, modules and models state them, and never against the labels."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import ChainDataset, ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, random_split

from tests.data.test_samples import Taker, same_all_through
from tests.helpers import tiny
from vis_callbacks import VisualizationWarning
from vis_callbacks.data.class_names import find_class_names


class Holder:
    """Any object with attributes: a dataset of 60 items, a data module, a module."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> Any:
        return index


class ClassLabel:
    """A column of classes as Hugging Face's ``datasets`` describes it."""

    def __init__(self, names: list[str]) -> None:
        self.names = names


CAT_DOG = ("cat", "dog")
STATED: dict[str, Holder] = {
    "classes": Holder(classes=["cat", "dog"]),
    "classes as a tuple": Holder(classes=CAT_DOG),
    "classes as an array": Holder(classes=np.array(["cat", "dog"])),
    "classes by number": Holder(classes={0: "cat", 1: "dog"}),
    "classes by name": Holder(classes={"dog": 1, "cat": 0}),
    "class_to_idx": Holder(class_to_idx={"dog": 1, "cat": 0}),
    "class_to_idx against classes": Holder(class_to_idx={"dog": 1, "cat": 0}, classes=["dog", "cat"]),
    "class_to_idx of NumPy": Holder(class_to_idx={"dog": np.int64(1), "cat": np.int64(0)}),
    "idx_to_class": Holder(idx_to_class={1: "dog", 0: "cat"}),
    "categories": Holder(categories=["cat", "dog"]),
    "categories with numbers": Holder(categories=[{"id": 1, "name": "dog"}, {"id": 0, "name": "cat"}]),
    "class_names": Holder(class_names=["cat", "dog"]),
    "label_names": Holder(label_names=["cat", "dog"]),
    "target_names": Holder(target_names=np.array(["cat", "dog"], dtype=object)),
    "names": Holder(names={0: "cat", 1: "dog"}),
    "names in pairs": Holder(names=[(1, "dog"), (0, "cat")]),
    "names in turned pairs": Holder(names=[("dog", 1), ("cat", 0)]),
    "labels": Holder(labels=["cat", "dog"]),
    "features": Holder(features={"image": "Image", "label": ClassLabel(["cat", "dog"])}),
    "id2label": Holder(id2label={"0": "cat", "1": "dog"}),
    "config": Holder(config=Holder(id2label={1: "dog", 0: "cat"})),
    "label2id": Holder(config={"label2id": {"dog": 1, "cat": 0}}),
    "info": Holder(info={"task": "binary-class", "label": {"0": "cat", "1": "dog"}}),
    "INFO": Holder(INFO={"classes": ["cat", "dog"]}),
    "hparams": Holder(hparams={"lr": 1e-3, "class_names": ["cat", "dog"]}),
    "in a wrapper": Holder(dataset=Holder(datasets=[Holder(dataset=Holder(classes=["cat", "dog"]))])),
}


@pytest.mark.parametrize("kind", STATED)
def test_names_are_found_wherever_they_are_stated(kind: str) -> None:
    assert find_class_names(nn.Identity(), [Holder(), STATED[kind]]) == (CAT_DOG, "")


@pytest.mark.parametrize(
    "holder",
    [
        Holder(labels=["cat", "dog", "cat"]),
        Holder(labels=np.array([1, 0, 1])),
        Holder(labels=torch.arange(60)),
        Holder(names=[f"{at}.png" for at in range(60)]),
        Holder(classes=2),
        Holder(classes={"cat", "dog"}),
        Holder(class_names=None, categories=[]),
        Holder(features=nn.Sequential(nn.ReLU())),
        Holder(config=Holder(id2label={0: "LABEL_0", 1: "LABEL_1"})),
    ],
)
def test_what_are_no_names_of_classes(holder: Holder) -> None:
    assert find_class_names(nn.Identity(), [holder]) == ((), "")


def test_folders_may_have_numbers_for_names() -> None:
    assert find_class_names(nn.Identity(), [Holder(class_to_idx={"10": 0, "3": 1})])[0] == ("10", "3")
    assert find_class_names(nn.Identity(), [Holder(classes=[0, 1])])[0] == ("0", "1")


def test_synonyms_are_one_name() -> None:
    names = [("tench", "Tinca tinca"), ("goldfish",)]
    assert find_class_names(nn.Identity(), [Holder(classes=names)])[0] == ("tench, Tinca tinca", "goldfish")
    by_name = {"tench": 0, "Tinca tinca": 0, "goldfish": 1}
    assert find_class_names(nn.Identity(), [Holder(class_to_idx=by_name)])[0] == ("tench, Tinca tinca", "goldfish")


class Stream(IterableDataset[Any]):
    classes = CAT_DOG

    def __iter__(self) -> Any:
        return iter(())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda data: Subset(data, [1, 2]),
        lambda data: ConcatDataset([data, data]),
        lambda data: random_split(data, [30, 30])[1],
        lambda data: Subset(ConcatDataset([Subset(data, [0, 1]), data]), [0]),
        lambda data: ChainDataset([Stream(), Stream()]),
    ],
)
def test_names_are_found_through_torchs_wrappers(wrap: Any) -> None:
    assert find_class_names(nn.Identity(), [wrap(STATED["class_to_idx"])])[0] == CAT_DOG


def test_names_are_found_in_a_model_of_hugging_face() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ConvNextConfig(hidden_sizes=[8, 8, 8, 8], depths=[1] * 4, id2label=dict(enumerate("abc")))
    model = nn.Sequential(transformers.ConvNextForImageClassification(config))
    assert find_class_names(model, [])[0] == ("a", "b", "c")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda label: 2 - label, ("c", "b", "a")),
        ({0: 1, 1: 2, 2: 0}.__getitem__, ("c", "a", "b")),
        (lambda label: torch.tensor((label + 1) % 3), ("c", "a", "b")),
        (lambda label: torch.eye(3)[2 - label], ("c", "b", "a")),
        (lambda label: label + 1, ("0", "a", "b", "c")),
        (lambda label: (random.random(), np.random.rand(), torch.rand(1), label)[-1], ("a", "b", "c")),
    ],
)
def test_a_target_transform_is_followed_without_a_trace(change: Any, expected: tuple[str, ...]) -> None:
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[union-attr, call-overload, index]
    for holder in (
        Holder(classes=["a", "b", "c"], target_transform=change),
        Subset(Holder(classes=["a", "b", "c"], target_transform=change), [0]),  # type: ignore[arg-type]
        Holder(dataset=Holder(class_to_idx={"a": 0, "b": 1, "c": 2}), target_transform=change),
    ):
        assert find_class_names(nn.Identity(), [holder]) == (expected, "")
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # type: ignore[union-attr, call-overload, index]


@pytest.mark.parametrize(
    ("holder", "options", "why"),
    [
        (Holder(classes=["a", "b", "c"], target_transform=lambda label: label // 2), {}, "several of them one label"),
        (Holder(classes=["a", "b", "c"], target_transform=lambda label: label / 2), {}, "cannot be followed"),
        (Holder(classes=["a", "b", "c"], target_transform=lambda label: label.item()), {}, "cannot be followed"),
        (Holder(classes=["a", "b", "c"]), {"labels": [0, 3, 1]}, "label 3 was seen"),
        (Holder(categories=[{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]), {"labels": [0, 1]}, "label 0 was seen"),
        (Holder(classes=["a", "b", "c"]), {"width": 10}, "there are 10"),
        (Holder(classes=[f"class of a long name, number {at}" for at in range(50)]), {"width": 10}, "there are 10"),
    ],
)
def test_names_that_something_contradicts_are_not_used(holder: Holder, options: dict[str, Any], why: str) -> None:
    names, problem = find_class_names(nn.Identity(), [holder, STATED["classes"]], **options)
    assert names == ()
    assert all(word in problem for word in ("Holder names", why, "by number", "class_names="))
    assert len(problem) < 300


def test_unknown_labels_contradict_nothing() -> None:
    assert find_class_names(nn.Identity(), [STATED["classes"]], labels=[-1, 0], width=2) == (CAT_DOG, "")


class Shifted(Dataset[Any]):
    """Four classes of which three have names."""

    classes = ("circle", "square", "star")

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Any:
        return tiny.Shapes(16, seed=1)[index]


def test_a_run_warns_once_and_shows_numbers(tmp_path: Path) -> None:
    takers = [Taker(samples=4), Taker(samples="per_class")]
    trainer = tiny.trainer(tmp_path, takers)
    loader = DataLoader(Shifted(), batch_size=8)
    with pytest.warns(VisualizationWarning) as caught:
        trainer.fit(tiny.module(), loader, loader)
    said = [str(one.message) for one in caught if one.category is VisualizationWarning]
    assert len(said) == 1
    assert "Shifted names 3 classes" in said[0]
    for taker in takers:
        samples = same_all_through(taker, 3)
        assert [samples.label(at) for at in range(4)] == ["0", "1", "2", "3"]
