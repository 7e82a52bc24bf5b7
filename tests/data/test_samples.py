"""Which images are shown, what is known about them, and that they stay the same."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset
from torchvision import transforms
from torchvision.transforms import v2

from tests.helpers import tiny
from vis_callbacks import (
    ConfigurationError,
    Event,
    Normalization,
    Panel,
    Report,
    Samples,
    Tile,
    VisualizationCallback,
    VisualizationWarning,
)
from vis_callbacks.data.batches import find_batch, load_images


class Taker(VisualizationCallback):
    """Keeps the samples of each event."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.taken: list[Samples] = []

    def visualize(self, event: Event) -> Iterable[Panel]:
        self.taken.append(event.samples)
        yield Panel("one", Tile(torch.zeros(4, 4)))


def fit(
    folder: Path, *callbacks: Any, train: Any = None, validation: Any = None, module: Any = None, **options: Any
) -> None:
    trainer = tiny.trainer(folder, callbacks, **options)
    train = tiny.loader(32) if train is None else train
    trainer.fit(module or tiny.module(), train, tiny.loader(16, seed=1) if validation is None else validation)


def same_all_through(taker: Taker, events: int) -> Samples:
    assert len(taker.taken) == events
    first = taker.taken[0]
    for samples in taker.taken:
        assert torch.equal(samples.images, first.images)
        assert torch.equal(samples.labels, first.labels)
        assert samples.names == first.names
    return first


# Which.


@pytest.mark.parametrize("settings", [{}, {"num_sanity_val_steps": 0}, {"num_sanity_val_steps": -1}])
@pytest.mark.parametrize("count", [1, 3, 5, 16, 99])
def test_the_first_n_of_validation(count: int, settings: dict[str, Any], tmp_path: Path) -> None:
    # Batches of 2: the sanity check sees 4 images, fewer than most ask for.
    taker = Taker(samples=count)
    fit(tmp_path, taker, validation=tiny.loader(16, seed=1, batch_size=2), **settings)
    samples, data = same_all_through(taker, 3), tiny.Shapes(16, seed=1)
    assert torch.equal(samples.images, data.images[:count])
    assert torch.equal(samples.labels, data.labels[:count])
    assert samples.names == tuple(f"sample_{index}" for index in range(min(count, 16)))


@pytest.mark.parametrize("settings", [{}, {"num_sanity_val_steps": 0}])
def test_one_of_each_class(settings: dict[str, Any], tmp_path: Path) -> None:
    order = [3, 3, 3, 7, 1, 1, 0, 2]
    taker = Taker(samples="per_class")
    fit(tmp_path, taker, validation=DataLoader(Subset(tiny.Shapes(16, seed=1), order), batch_size=2), **settings)
    samples = same_all_through(taker, 3)
    assert samples.labels.tolist() == [0, 1, 2, 3]
    assert samples.names == tiny.CLASSES
    assert torch.equal(samples.images[3], tiny.Shapes(16, seed=1).images[3])


@pytest.mark.parametrize("settings", [{}, {"num_sanity_val_steps": 0}, {"limit_val_batches": 0}])
@pytest.mark.parametrize("count", [3, 20])
def test_they_stay_the_same_though_data_are_shuffled(count: int, settings: dict[str, Any], tmp_path: Path) -> None:
    taker = Taker(samples=count)
    loaders = {
        "train": tiny.loader(32, shuffle=True),
        "validation": tiny.loader(24, seed=1, batch_size=4, shuffle=True),
    }
    with_warning = {"max_epochs": 3, **settings}
    fit(tmp_path, taker, **loaders, **with_warning)
    samples = same_all_through(taker, 4)
    assert len({image.numpy().tobytes() for image in samples.images}) == count


def test_they_come_from_training_batches_where_there_is_no_validation(tmp_path: Path) -> None:
    taker = Taker(samples=10)
    trainer = tiny.trainer(tmp_path, [taker])
    trainer.fit(tiny.module(), tiny.loader(32, seed=4))
    assert torch.equal(same_all_through(taker, 3).images, tiny.Shapes(32, seed=4).images[:10])


def test_training_batches_are_not_looked_at_where_there_is_validation(tmp_path: Path) -> None:
    taker = Taker(samples=10, on="train")
    fit(tmp_path, taker, num_sanity_val_steps=0, check_val_every_n_epoch=2, max_epochs=4)
    assert torch.equal(same_all_through(taker, 4).images, tiny.Shapes(16, seed=1).images[:10])


def test_they_come_from_the_first_of_several_loaders(tmp_path: Path) -> None:
    class Two(tiny.module_class(tiny.PACKAGES[0])):  # type: ignore[misc]
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self(batch[0])

    taker = Taker(samples=6)
    loaders = [tiny.loader(4, seed=1), tiny.loader(16, seed=2)]
    fit(tmp_path, taker, module=Two(), validation=loaders)
    assert torch.equal(same_all_through(taker, 3).images, tiny.Shapes(4, seed=1).images)


def test_given_images(tmp_path: Path) -> None:
    images = torch.rand(3, 1, 8, 8)
    taker = Taker(samples=images)
    fit(tmp_path, taker, num_sanity_val_steps=0)
    samples = same_all_through(taker, 3)
    assert torch.equal(samples.images, images)
    assert samples.label(0) is None


@pytest.mark.parametrize("kind", [str, Path])
def test_image_files(kind: Any, tmp_path: Path) -> None:
    for name, value in (("a", 0), ("b", 255)):
        Image.fromarray(np.full((20, 30, 3), value, np.uint8)).save(tmp_path / f"{name}.png")
    taker = Taker(samples=[kind(tmp_path / "a.png"), kind(tmp_path / "b.png")], mean=0.5, std=0.25)
    fit(tmp_path / "run", taker)
    samples = same_all_through(taker, 3)
    assert samples.images.shape == (2, 1, 8, 8)
    torch.testing.assert_close(samples.images.flatten(1).mean(1), torch.tensor([-2.0, 2.0]))
    assert samples.names == ("a", "b")


def test_image_files_beside_batches_without_images(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")

    def unreadable(batch: Any) -> Any:
        raise KeyError("pixel_values")

    taker = Taker(samples=[tmp_path / "a.png"], batch_to_images=unreadable)
    with pytest.warns(VisualizationWarning, match="KeyError: 'pixel_values'"):
        fit(tmp_path / "run", taker)
    assert taker.taken == []


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "cup.png").write_text("no image")
    with pytest.raises(ConfigurationError, match=r"cup\.png' cannot be read as an image"):
        load_images(
            [tmp_path / "cup.png"],
            size=(4, 4),
            channels=3,
            normalization=Samples(*[torch.zeros(1)] * 2, ("",)).normalization,
        )


# Batches of any shape.


@dataclass
class Batch:
    name: str
    pixels: Tensor
    label: Tensor


class Encoding(dict):  # type: ignore[type-arg]
    """A batch as Hugging Face gives it: a dict whose items are attributes too."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class Anything:
    def __init__(self, image: Tensor, target: Tensor) -> None:
        self.image, self.target = image, target


Pair = namedtuple("Pair", "image target")
IMAGES, LABELS = torch.rand(4, 3, 8, 8), torch.tensor([2, 0, 1, 1])
SHAPES: dict[str, tuple[Any, bool]] = {
    "tuple": ((IMAGES, LABELS), True),
    "list": ([IMAGES, LABELS], True),
    "label first": ((LABELS, IMAGES), True),
    "images alone": (IMAGES, False),
    "dict": ({"image": IMAGES, "label": LABELS}, True),
    "dict with more": ({"index": torch.arange(4.0) / 8, "image": IMAGES, "path": ["a"] * 4, "label": LABELS}, True),
    "dataclass": (Batch("a", IMAGES, LABELS), True),
    "namedtuple": (Pair(IMAGES, LABELS), True),
    "nested": (([IMAGES, {"weight": torch.rand(4)}], {"meta": (LABELS,)}), True),
    "encoding": (Encoding(pixel_values=IMAGES, labels=LABELS), True),
    "object": (Anything(IMAGES, LABELS), True),
    "one-hot": ((IMAGES, nn.functional.one_hot(LABELS, 3).float()), True),
    "column": ((IMAGES, LABELS[:, None]), True),
    "regression": ((IMAGES, torch.rand(4) + 0.1), False),
    "bytes": (((IMAGES * 255).byte(), LABELS), True),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_images_and_labels_are_found_in_a_batch_of_any_shape(shape: str) -> None:
    batch, labelled = SHAPES[shape]
    found = find_batch(batch)
    images, labels = found.images, found.labels
    assert images.shape == IMAGES.shape
    assert (labels is not None) == labelled
    if labels is not None:
        assert labels.tolist() == LABELS.tolist()
        assert labels.dtype == torch.long


def test_a_batch_without_images_is_described() -> None:
    with pytest.raises(ConfigurationError, match=r"\{x: tensor \(4, 2\), y: list|\{x: tensor \(4, 2\), y: \(\)\}"):
        find_batch({"x": torch.zeros(4, 2), "y": []})


@pytest.mark.parametrize(
    "hook", [lambda batch: batch["stack"][:, 0], lambda batch: (batch["stack"][:, 0], batch["kinds"].argmax(1))]
)
def test_a_hook_reads_what_is_not_found(hook: Callable[[Any], Any], tmp_path: Path) -> None:
    class Stacks(Dataset[Any]):
        def __len__(self) -> int:
            return 16

        def __getitem__(self, index: int) -> Any:
            shapes = tiny.Shapes(16, seed=1)
            return {"stack": shapes.images[index][None].repeat(2, 1, 1, 1), "kinds": torch.eye(4)[index % 4]}

    class Module(tiny.module_class(tiny.PACKAGES[0])):  # type: ignore[misc]
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self(batch["stack"][:, 0])

    taker = Taker(samples=3, batch_to_images=hook)
    fit(tmp_path, taker, validation=DataLoader(Stacks(), batch_size=4), module=Module())
    samples = same_all_through(taker, 3)
    # Without labels they are spread over the eight images of the sanity check.
    expected = {(0, 1, 2): [0, 1, 2], (-1, -1, -1): [0, 2, 4]}[tuple(samples.labels.tolist())]
    assert torch.equal(samples.images, tiny.Shapes(16, seed=1).images[expected])


def test_a_hook_that_gives_no_images_is_told(tmp_path: Path) -> None:
    taker = Taker(batch_to_images=lambda batch: batch[0][0, 0], on_error="raise")
    with pytest.raises(ConfigurationError, match=r"batch_to_images gave .* expected .*\(N, C, H, W\)"):
        fit(tmp_path, taker)


# What is known about them.


class Named(tiny.Shapes):
    def __init__(self, transform: Any = None) -> None:
        super().__init__(16, seed=1, channels=3)
        self.transform = transform

    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        return (self.transform(image) if self.transform else image), label


@pytest.mark.parametrize(
    "wrap",
    [
        lambda data: data,
        lambda data: Subset(data, range(8)),
        lambda data: ConcatDataset([data, data]),
        lambda data: Subset(ConcatDataset([Subset(data, range(8)), data]), range(10)),
    ],
)
def test_class_names_are_found_behind_subsets_and_concatenations(wrap: Any, tmp_path: Path) -> None:
    taker = Taker(samples=2)
    fit(tmp_path, taker, validation=DataLoader(wrap(tiny.Shapes(16, seed=1)), batch_size=4))
    samples = same_all_through(taker, 3)
    assert samples.class_names == tiny.CLASSES
    assert samples.label(1) == "square"


def test_class_names_as_an_option_win(tmp_path: Path) -> None:
    taker = Taker(samples=2, class_names=["a", "b", "c", "d"])
    fit(tmp_path, taker)
    assert same_all_through(taker, 3).label(1) == "b"


MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


@pytest.mark.parametrize(
    "transform",
    [
        transforms.Normalize(MEAN, STD),
        transforms.Compose([transforms.RandomHorizontalFlip(0), transforms.Compose([transforms.Normalize(MEAN, STD)])]),
        v2.Compose([v2.Normalize(MEAN, STD)]),
        nn.Sequential(v2.Normalize(MEAN, STD)),
    ],
)
def test_normalization_is_found_in_a_transform(transform: Any, tmp_path: Path) -> None:
    taker = Taker(samples=4)
    net = tiny.Net(channels=3)
    loader = DataLoader(Subset(Named(transform), range(8)), batch_size=4)
    tiny.trainer(tmp_path, [taker]).validate(tiny.module(net=net), loader, verbose=False)
    torch.testing.assert_close(taker.taken[0].pixels, Named().images[:4])


class Timm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = timm.create_model("test_resnet", num_classes=4)

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)


@pytest.mark.parametrize("normalized", [True, False])
def test_normalization_is_found_in_a_timm_model_unless_images_are_pixels(normalized: bool, tmp_path: Path) -> None:
    net = Timm()
    config = net.body.pretrained_cfg
    images = tiny.Shapes(4, channels=3).images
    given = transforms.functional.normalize(images, config["mean"], config["std"]) if normalized else images
    taker = Taker(samples=4)
    loader = DataLoader([(image, torch.tensor(0)) for image in given], batch_size=4)
    tiny.trainer(tmp_path, [taker]).validate(tiny.module(net=net), loader, verbose=False)
    torch.testing.assert_close(taker.taken[0].pixels, images)


def test_a_model_that_normalizes_pixels_itself_takes_pixels(tmp_path: Path) -> None:
    class Normalizes(tiny.Net):
        def __init__(self) -> None:
            super().__init__(channels=3)
            self.transform = transforms.Normalize(MEAN, STD)

        def forward(self, images: Tensor) -> Tensor:
            return super().forward(self.transform(images))

    module = tiny.module(net=Normalizes())
    module.transform = module.net.transform
    taker = Taker(samples=4)
    tiny.trainer(tmp_path, [taker]).validate(module, DataLoader(Named(), batch_size=4), verbose=False)
    torch.testing.assert_close(taker.taken[0].pixels, Named().images[:4])


def test_an_unknown_normalization_is_estimated_from_the_range(tmp_path: Path) -> None:
    images = torch.linspace(-3, 5, 2 * 64).view(2, 1, 8, 8)
    taker = Taker(samples=images)
    fit(tmp_path, taker)
    pixels = taker.taken[0].pixels
    assert pixels.min() == 0
    torch.testing.assert_close(pixels, (images + 3) / 8)


def test_normalization_as_an_option_wins(tmp_path: Path) -> None:
    taker = Taker(samples=torch.zeros(1, 1, 8, 8), mean=[0.3], std=[0.1])
    fit(tmp_path, taker)
    torch.testing.assert_close(taker.taken[0].pixels, torch.full((1, 1, 8, 8), 0.3))


def test_callbacks_with_the_same_wish_share_images_and_others_do_not(tmp_path: Path) -> None:
    takers = [
        Taker(samples=2),
        Taker(samples=2, name="b"),
        Taker(samples=3),
        Taker(samples=2, class_names=[*"abcd"]),
    ]
    fit(tmp_path, *takers, Report())
    first = [taker.taken[0] for taker in takers]
    assert torch.equal(first[0].images, first[1].images)
    assert len(first[2]) == 3
    assert first[3].label(0) == "a"


def test_the_users_batch_may_be_changed_afterwards(tmp_path: Path) -> None:
    class Scribbles(tiny.module_class(tiny.PACKAGES[0])):  # type: ignore[misc]
        def on_validation_batch_end(self, outputs: Any, batch: Any, *args: Any) -> None:
            batch[0].fill_(7)

    taker = Taker(samples=3)
    fit(tmp_path, taker, module=Scribbles())
    assert torch.equal(same_all_through(taker, 3).images, tiny.Shapes(16, seed=1).images[:3])


# Spread over the classes.


def by_class(count: int = 32, seed: int = 1) -> Subset[Any]:
    """A data set sorted by class, as folders of images are."""
    data = tiny.Shapes(count, seed=seed)
    return Subset(data, data.labels.argsort(stable=True).tolist())


@pytest.mark.parametrize("settings", [{}, {"num_sanity_val_steps": 0}, {"num_sanity_val_steps": -1}])
@pytest.mark.parametrize(("count", "shares"), [(8, [2, 2, 2, 2]), (6, [2, 2, 1, 1]), (4, [1, 1, 1, 1]), (2, [1, 1])])
def test_validation_sorted_by_class_gives_samples_of_all_classes_ever_after(
    count: int, shares: list[int], settings: dict[str, Any], tmp_path: Path
) -> None:
    taker = Taker(samples=count)
    fit(tmp_path, taker, validation=DataLoader(by_class(), batch_size=4), max_epochs=3, **settings)
    samples = same_all_through(taker, 4)
    assert sorted(samples.labels.unique(return_counts=True)[1].tolist(), reverse=True) == shares
    # The first ones of each class, in their order.
    expected = [
        image for label, share in enumerate(shares) for image in tiny.Shapes(32, seed=1).images[label::4][:share]
    ]
    assert torch.equal(samples.images, torch.stack(expected))


def test_pictures_before_training_are_of_the_initial_weights_though_they_wait(tmp_path: Path) -> None:
    class Weights(Taker):
        def visualize(self, event: Event) -> Iterable[Panel]:
            self.seen.append((event.moment.epoch, float(next(event.model.parameters()).detach().sum())))
            return super().visualize(event)

    taker = Weights(samples=8)
    taker.seen = []
    module = tiny.module()
    before = float(next(module.net.parameters()).detach().sum())
    fit(tmp_path, taker, module=module, validation=DataLoader(by_class(), batch_size=4))
    assert [epoch for epoch, _ in taker.seen] == [0, 1, 2]
    assert taker.seen[0][1] == before != taker.seen[1][1]


def test_pictures_by_steps_wait_while_one_class_alone_was_seen(tmp_path: Path) -> None:
    # The sanity check sees eight images of one class; the first validation ends after four steps: 0, 5, 6 and 8.
    waits = Taker(samples=8, every_n_steps=2)
    fit(tmp_path / "a", waits, validation=DataLoader(by_class(), batch_size=4))
    assert set(same_all_through(waits, 4).labels.tolist()) == {0, 1, 2, 3}
    # It sees four classes of five: that must do, as later pictures would be missing.
    goes_on = Taker(samples=8, every_n_steps=2, class_names=[*"abcde"])
    fit(tmp_path / "b", goes_on, validation=tiny.loader(16, seed=1, batch_size=4))
    assert len(goes_on.taken) == 5
    assert same_all_through(goes_on, 5).labels.tolist() == [0, 1, 2, 3] * 2


def test_a_run_without_a_whole_validation_shows_what_the_sanity_check_saw(tmp_path: Path) -> None:
    taker = Taker(samples=8)
    with pytest.warns(VisualizationWarning, match="validation never ran"):
        fit(tmp_path, taker, validation=DataLoader(by_class(), batch_size=4), check_val_every_n_epoch=9)
    assert same_all_through(taker, 1).labels.tolist() == [0] * 8


def test_training_batches_give_samples_of_all_classes_too(tmp_path: Path) -> None:
    taker = Taker(samples=8)
    tiny.trainer(tmp_path, [taker]).fit(tiny.module(), DataLoader(by_class(), batch_size=4))
    assert same_all_through(taker, 3).labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("method", ["validate", "test"])
def test_a_validation_or_test_alone_gives_samples_of_all_classes(method: str, tmp_path: Path) -> None:
    taker = Taker(samples=8, on=("validation", "test"))
    trainer = tiny.trainer(tmp_path, [taker])
    getattr(trainer, method)(tiny.module(), DataLoader(by_class(), batch_size=4), verbose=False)
    assert same_all_through(taker, 1).labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(("settings", "expected"), [({}, [0, 1, 3, 5]), ({"num_sanity_val_steps": 0}, [0, 4, 8, 12])])
def test_images_without_labels_are_spread_over_what_was_seen(
    settings: dict[str, Any], expected: list[int], tmp_path: Path
) -> None:
    class Module(tiny.module_class(tiny.PACKAGES[0])):  # type: ignore[misc]
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self(batch)

    taker = Taker(samples=4)
    images = tiny.Shapes(16, seed=1).images
    fit(tmp_path, taker, module=Module(), validation=DataLoader(list(images), batch_size=4), **settings)
    found = same_all_through(taker, 3).images
    places = [next(at for at, image in enumerate(images) if torch.equal(image, one)) for one in found]
    assert places[0] == 0
    assert len(set(places)) == 4
    assert max(places) >= expected[-1] - 1
    assert all(place < (8 if not settings else 16) for place in places)


def test_several_true_classes_and_numbers_reach_the_samples_and_a_checkpoint(tmp_path: Path) -> None:
    rows = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 1, 1, 1]]).repeat(4, 1).float()

    class Module(tiny.module_class(tiny.PACKAGES[0])):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return nn.functional.mse_loss(self(batch[0])[:, : batch[1].shape[1]], batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self(batch[0])

    images = tiny.Shapes(16, seed=1).images
    for name, targets, kept in (("rows", rows, "truths"), ("numbers", torch.rand(16, 2) * 9, "values")):
        loader = DataLoader([(image, target) for image, target in zip(images, targets, strict=True)], batch_size=4)
        taker = Taker(samples=4)
        fit(tmp_path / name, taker, module=Module(), train=loader, validation=loader)
        samples = same_all_through(taker, 3)
        assert (samples.truths is None) == (kept != "truths")
        assert (samples.values is None) == (kept != "values")
        found = getattr(samples, kept)
        at = [next(at for at, image in enumerate(images) if torch.equal(image, one)) for one in samples.images]
        assert torch.equal(found.float(), targets[at])
        assert torch.equal(getattr(samples.at(torch.tensor([2])), kept), found[2:3])
        assert torch.equal(getattr(samples[1:3], kept), found[1:3])
        state = taker.state_dict()["samples"]["4"]
        assert torch.equal(state[kept], found)
        if kept == "truths":
            assert samples.labels.tolist() == [(-1 if not row.any() else int(row.argmax())) for row in found.int()]


def test_labels_of_several_classes_choose_by_the_first(tmp_path: Path) -> None:
    data = tiny.Shapes(16, seed=1)
    order = data.labels.argsort(stable=True)
    rows = nn.functional.one_hot(data.labels[order], 4).float()
    rows[:, 3] = 1
    loader = DataLoader([*zip(data.images[order], rows, strict=True)], batch_size=4)

    class Module(tiny.module_class(tiny.PACKAGES[0])):  # type: ignore[misc]
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self(batch[0])

    taker = Taker(samples=4)
    fit(tmp_path, taker, module=Module(), validation=loader)
    assert same_all_through(taker, 3).labels.tolist() == [0, 1, 2, 3]


def test_the_content_of_a_sample_is_known_by_its_pixels() -> None:
    pixels = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    names, labels = ("a", "b", "c"), torch.zeros(3, dtype=torch.long)
    own = Samples(pixels, labels, names)
    halved = Normalization((0.5,), (0.5,))
    same = Samples(halved.to_model(pixels.flip(0)), labels, ("x", "y", "z"), normalization=halved)
    assert own.contents == same.contents[::-1]
    assert len(set(own.contents)) == 3


def test_later_batches_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    first = next(iter(tiny.loader(32)))[0]

    def read(batch: Any) -> Any:
        if not torch.equal(batch[0], first):
            raise ValueError("a page without images")
        return batch[0], batch[1]

    taker = Taker(samples=12, batch_to_images=read)
    with pytest.warns(VisualizationWarning, match="Only 8 images are shown, .* could not be read: ValueError: a page"):
        tiny.trainer(tmp_path, [taker]).validate(tiny.module(), tiny.loader(32), verbose=False)
    assert len(taker.taken[-1].images) == 8


def test_fewer_images_than_asked_for_are_no_problem(tmp_path: Path) -> None:
    taker = Taker(samples=50)
    tiny.trainer(tmp_path, [taker]).validate(tiny.module(), tiny.loader(32), verbose=False)
    assert len(taker.taken[-1].images) == 32
