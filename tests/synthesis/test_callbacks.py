from __future__ import annotations

from collections.abc import Iterable

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.synthesis.models import ConvNet
from vis_callbacks.callback import VisualizationCallback
from vis_callbacks.data.samples import Samples
from vis_callbacks.errors import ConfigurationError, LayerError, VisualizationWarning
from vis_callbacks.event import Event, Moment
from vis_callbacks.panel import Panel
from vis_callbacks.synthesis.class_appearance import ClassAppearance
from vis_callbacks.synthesis.deep_dream import DeepDream
from vis_callbacks.synthesis.feature_appearance import FeatureAppearance
from vis_callbacks.synthesis.feature_inversion import FeatureInversion
from vis_callbacks.synthesis.fool import FoolModel


class Classifier(pl.LightningModule):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def spied(callback: VisualizationCallback, seen: list[list[Panel]]) -> VisualizationCallback:
    """Keep the panels of each event."""
    visualize = callback.visualize

    def visualize_and_keep(event: Event) -> Iterable[Panel]:
        seen.append(list(visualize(event)))
        return seen[-1]

    callback.visualize = visualize_and_keep
    return callback


def fit(
    callback: VisualizationCallback, tmp_path, *, epochs: int = 1, channels: int = 3, **options
) -> list[list[Panel]]:
    torch.manual_seed(0)
    data = TensorDataset(torch.rand(16, channels, 16, 16), torch.arange(16) % 5)
    seen: list[list[Panel]] = []
    trainer = pl.Trainer(
        max_epochs=epochs,
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        callbacks=[spied(callback, seen)],
        **options,
    )
    loader = DataLoader(data, batch_size=8)
    trainer.fit(Classifier(ConvNet(channels)), loader, loader)
    return seen


def test_unreadable_training_batches_warn_once_and_stop_nothing(tmp_path):
    def read(batch: list[Tensor]) -> Tensor:
        if torch.is_grad_enabled():
            raise KeyError("pixel_values")
        return batch[0]

    callback = ClassAppearance([0], steps=2, fresh_steps=2, batch_to_images=read)
    with pytest.warns(VisualizationWarning, match="ClassAppearance learns from the samples alone: KeyError") as caught:
        events = fit(callback, tmp_path, epochs=2)
    assert len([one for one in caught if one.category is VisualizationWarning]) == 1
    assert len(events) == 3


pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*",
    "ignore:.*number of training batches.*",
    "ignore:.*treespec, LeafSpec.*",
)


def test_class_appearance_shows_every_class_with_trust(tmp_path):
    events = fit(ClassAppearance(steps=2, fresh_steps=3, on_error="raise"), tmp_path, epochs=2)
    assert [len(panels) for panels in events] == [5, 5, 5]
    panel = events[1][3]
    assert panel.name == "3"
    assert panel.tiles[0].values.shape == (3, 16, 16)
    assert set(panel.scalars) == {"logit", "probability", "trust"}
    assert "trust" in panel.caption
    assert panel.caption.endswith("(early)")
    assert not events[2][3].caption.endswith("(early)")


def test_class_appearance_continues_restarts_and_resumes(tmp_path, monkeypatch):
    asked: list[tuple[int, bool]] = []

    def make(model, classes, *, steps, init, image_size, **_) -> Tensor:
        asked.append((steps, init is None))
        return torch.full((len(classes), *image_size), 0.25)

    monkeypatch.setattr("vis_callbacks.synthesis.class_appearance.class_appearance", make)
    callback = ClassAppearance([1, 4], steps=4, fresh_steps=7, restart_every=3, on_error="raise")
    fit(callback, tmp_path, epochs=6)
    # Before training, then after each epoch; the early images are not continued.
    assert asked == [(1, True), (4, True), (7, True), (4, False), (4, False), (7, True), (4, False)]
    again = ClassAppearance([1, 4], steps=2, fresh_steps=7, restart_every=3)
    again.load_state_dict(callback.state_dict())
    assert sorted(again.state_dict()["last"]) == [1, 4]
    assert again.state_dict()["events"] == 7
    assert again.state_dict()["age"] == 2


def test_class_appearance_continues_within_the_first_epoch(tmp_path, monkeypatch):
    asked: list[tuple[int, bool]] = []

    def make(model, classes, *, steps, init, image_size, **_) -> Tensor:
        asked.append((steps, init is None))
        return torch.full((len(classes), *image_size), 0.25)

    monkeypatch.setattr("vis_callbacks.synthesis.class_appearance.class_appearance", make)
    callback = ClassAppearance([1, 4], steps=4, fresh_steps=7, every_n_steps=1, on_error="raise")
    fit(callback, tmp_path, epochs=2)
    # Two steps per epoch: the third event is still in the first one.
    assert asked == [(1, True), (4, True), (7, True), (4, False), (4, False)]


def test_class_appearance_rotates_or_shows_the_worst(tmp_path):
    events = fit(ClassAppearance("rotating", count=2, steps=1, fresh_steps=1, on_error="raise"), tmp_path, epochs=2)
    assert [[panel.name for panel in panels] for panels in events] == [["0", "1"], ["2", "3"], ["0", "4"]]
    events = fit(ClassAppearance("worst", count=3, steps=1, fresh_steps=1, on_error="raise"), tmp_path)
    assert all(len({panel.name for panel in panels}) == 3 for panels in events)


def test_feature_appearance_shows_real_images_beside(tmp_path):
    events = fit(FeatureAppearance("conv2", [2, 5], images=2, real=3, steps=2, on_error="raise"), tmp_path)
    assert [panel.name for panel in events[-1]] == ["model.conv2/2", "model.conv2/5"]
    captions = [tile.caption for tile in events[-1][0].tiles]
    assert [caption.split(":")[0] for caption in captions] == ["made", "made", "real", "real", "real"]
    values = [float(caption.split(":")[1]) for caption in captions[2:]]
    assert values == sorted(values, reverse=True)
    assert "activation" in events[-1][0].scalars


def test_deep_dream_shows_sample_and_dream(tmp_path):
    events = fit(DeepDream("conv2", octaves=2, steps=1, on_error="raise"), tmp_path)
    assert len(events[-1]) == 2
    sample, dream = events[-1][0].tiles
    assert sample.values.shape == dream.values.shape
    assert not torch.equal(sample.values, dream.values)


def test_feature_inversion_shows_layers_side_by_side(tmp_path):
    events = fit(FeatureInversion(["conv1", "conv2"], steps=2, samples=1, on_error="raise"), tmp_path)
    (panel,) = events[-1]
    assert len(panel.tiles) == 3
    assert set(panel.scalars) == {"conv1/psnr", "conv2/psnr"}


def test_fool_model_is_a_curve_of_steps_and_distance(tmp_path):
    events = fit(FoolModel(linf=0.05, steps=3, on_error="raise"), tmp_path)
    assert len(events[-1]) == 4
    panel = events[-1][0]
    assert len(panel.tiles) == 3
    assert set(panel.scalars) == {"steps", "distance", "target_probability"}
    assert "steps, distance" in panel.caption


@pytest.mark.parametrize(
    "callback",
    [ClassAppearance, FeatureAppearance, DeepDream, FeatureInversion, FoolModel],
    ids=lambda kind: kind.__name__,
)
def test_works_with_no_arguments_and_grayscale(callback, tmp_path):
    assert all(fit(callback(on_error="raise", **({"steps": 1})), tmp_path, channels=1))


def test_wrong_options_stop_before_training(tmp_path):
    for wrong in (DeepDream("nolayer"), FeatureAppearance("nolayer"), FeatureInversion(["nolayer"])):
        with pytest.raises(LayerError, match="no layer 'nolayer'"):
            fit(wrong, tmp_path)
    for make, message in (
        (lambda: ClassAppearance("wurst"), "'rotating', 'worst'"),
        (lambda: ClassAppearance(steps=0), "steps=0"),
        (lambda: ClassAppearance(recipe="rest"), "nearest: best"),
        (lambda: FeatureAppearance(images=0), "images=0"),
        (lambda: DeepDream(octaves=0), "octaves=0"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            make()


def test_large_images_made_one_by_one_start_from_different_noise(tmp_path):
    seen: list[list[Panel]] = []
    callback = spied(ClassAppearance([0, 1], fresh_steps=1, samples=1, image_size=224, progress=False), seen)
    trainer = pl.Trainer(
        default_root_dir=tmp_path, logger=False, callbacks=[callback], enable_progress_bar=False, accelerator="cpu"
    )
    data = TensorDataset(torch.rand(2, 3, 32, 32), torch.arange(2))
    trainer.validate(Classifier(ConvNet()), DataLoader(data, batch_size=2), verbose=False)
    first, second = (panel.tiles[0].values.flatten() for panel in seen[0])
    assert torch.corrcoef(torch.stack([first, second]))[0, 1] < 0.5


@pytest.mark.parametrize("shown", [True, False])
def test_a_trainer_without_progress_bar_shows_none(tmp_path, shown):
    callback = ClassAppearance([0], fresh_steps=1, samples=1)
    trainer = pl.Trainer(
        default_root_dir=tmp_path, logger=False, callbacks=[callback], enable_progress_bar=shown, accelerator="cpu"
    )
    data = TensorDataset(torch.rand(2, 3, 32, 32), torch.arange(2))
    trainer.validate(Classifier(ConvNet()), DataLoader(data, batch_size=2), verbose=False)
    assert callback.shows_progress is shown
    assert not ClassAppearance([0], progress=False).shows_progress


def validated(callback: VisualizationCallback, model: nn.Module, shape: tuple[int, int, int], tmp_path) -> list[Panel]:
    """Return the panels of one validation with images of a shape."""
    seen: list[list[Panel]] = []
    trainer = pl.Trainer(
        default_root_dir=tmp_path,
        logger=False,
        callbacks=[spied(callback, seen)],
        enable_progress_bar=False,
        accelerator="cpu",
    )
    data = TensorDataset(torch.rand(2, *shape), torch.arange(2))
    trainer.validate(Classifier(model), DataLoader(data, batch_size=2), verbose=False)
    (panels,) = seen
    return panels


LARGE: dict[str, tuple[VisualizationCallback, int]] = {
    "class": (ClassAppearance([1], fresh_steps=1, samples=1, progress=False), 0),
    "feature": (FeatureAppearance("conv2", [2], real=0, steps=1, samples=1, progress=False), 0),
    "dream": (DeepDream("conv2", octaves=1, steps=1, samples=1, progress=False), 1),
    "inversion": (FeatureInversion(["conv1"], steps=2, samples=1, progress=False), 1),
    "fool": (FoolModel(steps=1, samples=1, progress=False), 1),
}


@pytest.mark.parametrize("kind", LARGE)
def test_of_large_samples_images_are_made_at_512_pixels_and_say_so(kind, tmp_path):
    callback, tile = LARGE[kind]
    panel = validated(callback, ConvNet(), (3, 300, 600), tmp_path)[0]
    assert panel.tiles[tile].values.shape == (3, 256, 512)
    assert panel.caption.endswith(", at 256×512 of 300×600 pixels")
    if tile:
        assert panel.tiles[0].values.shape == (3, 300, 600)


def test_whole_patches_are_kept_and_a_size_that_is_asked_for(tmp_path):
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.head = nn.Conv2d(3, 4, 32, 32), nn.Linear(4, 5)

        def forward(self, images: Tensor) -> Tensor:
            assert not images.shape[2] % 32
            assert not images.shape[3] % 32
            return self.head(self.patches(images).mean(dim=(2, 3)))

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool, self.head = nn.AvgPool2d(25), nn.Linear(3 * 24 * 12, 5)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.pool(images).flatten(1))

    def shape_and_end(model: nn.Module, shape: tuple[int, int, int], **options) -> tuple[tuple[int, ...], bool]:
        callback = ClassAppearance([1], fresh_steps=1, samples=1, progress=False, **options)
        (panel,) = validated(callback, model, shape, tmp_path)
        return tuple(panel.tiles[0].values.shape), "pixels" in panel.caption

    assert shape_and_end(Patches(), (3, 640, 352)) == ((3, 512, 256), True)
    assert shape_and_end(Flat(), (3, 600, 300)) == ((3, 600, 300), False)
    assert shape_and_end(ConvNet(), (3, 600, 300), image_size=(520, 260)) == ((3, 520, 260), False)
    assert shape_and_end(ConvNet(), (3, 500, 300)) == ((3, 500, 300), False)


def test_passes_of_smaller_images_count_less():
    samples = Samples(torch.zeros(2, 3, 1024, 1024), torch.zeros(2).long(), ("a", "b"))
    assert DeepDream(octaves=1, steps=8).passes(Moment(1, 1), samples) == 4
    assert FeatureAppearance(channels=[1, 2], steps=8).passes(Moment(1, 1), samples) == 4
    assert FeatureAppearance(channels=[1, 2], steps=8, image_size=64).passes(Moment(1, 1), samples) == 16


def test_few_large_training_images_are_kept(tmp_path):
    callback = ClassAppearance([0], steps=1, fresh_steps=1)
    for batch in [(torch.zeros(2, 3, 1024, 1024), torch.zeros(2).long())] * 10:
        if not callback._pool.complete:
            callback._pool.observe(batch)
    assert len(callback._pool) == 16


def test_made_images_show_the_bands_that_samples_show(tmp_path):
    shown = {}
    for bands in ((0, 1, 2), (4, 0, 2)):
        torch.manual_seed(0)
        callback = ClassAppearance([1], fresh_steps=2, samples=1, bands=bands, progress=False)
        shown[bands] = validated(callback, ConvNet(5), (5, 16, 16), tmp_path)[0].tiles[0].values
    assert torch.equal(shown[4, 0, 2][1:], shown[0, 1, 2][[0, 2]])
    panel = validated(FoolModel(steps=2, samples=1, bands=(4, 0, 2)), ConvNet(5), (5, 16, 16), tmp_path)[0]
    assert [tile.values.shape[0] for tile in panel.tiles] == [3, 3, 3]
    assert torch.allclose(panel.tiles[1].values - panel.tiles[0].values, panel.tiles[2].values, atol=1e-6)
