"""Every image classifier of Hugging Face's transformers that a small configuration builds, with random weights."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import tiny
from tests.helpers.techniques import few
from tests.subject.closed_form import closed_form, correlation, logits_in, settled
from vis_callbacks import Activations, ClassAppearance, Filters, GradCAM, Report, Saliency
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.functional import grad_cam, gradient
from vis_callbacks.model.classifier import logits_of

pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

CLASSES = 5
_VIT = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 48,
    "image_size": 64,
    "patch_size": 8,
}
_TEXT = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 48}
_STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
_HEADS = {**_STAGES, "num_attention_heads": [1, 2, 3, 4]}
_SWIN = {"image_size": 128, "patch_size": 4, "embed_dim": 12, "depths": [1, 1, 2], "num_heads": [1, 2, 4]}
_LEVIT = {
    "image_size": 224,
    "hidden_sizes": [16, 32],
    "num_attention_heads": [1, 2],
    "depths": [1, 1],
    "key_dim": [8, 8],
    "drop_path_rate": 0,
    "mlp_ratio": [2, 2],
    "attention_ratio": [2, 2],
}
_PERCEIVER = {
    "num_latents": 8,
    "d_latents": 16,
    "num_blocks": 1,
    "num_self_attends_per_block": 1,
    "num_self_attention_heads": 2,
}


@dataclass(frozen=True)
class Family:
    """A class of transformers and what is true of it.

    Attributes:
        config: Arguments of its configuration.
        size: Height and width of the images.
        last: Name of the module whose output is the last map, where the head reads the mean of it; "" where there is
            no closed form, mostly because the head reads a class token.
        head: Name of the linear layer that reads this mean; "" where a norm, a rectifier or two heads come between.
        prefix: Number of tokens before those of the map.
        slow: Whether it is tried in the long run only.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    size: int = 224
    last: str = ""
    head: str = ""
    prefix: int = 0
    slow: bool = True


FAMILIES = {
    "BeitForImageClassification": Family(_VIT, 64, "beit.layernorm", prefix=1),
    "BitForImageClassification": Family(
        {"embedding_size": 8, "hidden_sizes": [16, 32, 32, 32], "depths": [1, 1, 1, 1], "num_groups": 4},
        last="bit.norm",
        head="classifier.1",
    ),
    "CLIPForImageClassification": Family(
        {"vision_config": _VIT, "text_config": _TEXT, "projection_dim": 24},
        64,
        "vision_model.encoder.layers.2",
        "classifier",
        prefix=1,
    ),
    "ConvNextForImageClassification": Family(_STAGES, last="convnext.encoder.stages.3", slow=False),
    "ConvNextV2ForImageClassification": Family(_STAGES, last="convnextv2.encoder.stages.3"),
    "CvtForImageClassification": Family(
        {"embed_dim": [8, 16, 24], "num_heads": [1, 2, 3], "depth": [1, 2, 3], "drop_path_rate": [0.0, 0.0, 0.0]}, 128
    ),
    "Data2VecVisionForImageClassification": Family(_VIT, 64, "data2vec_vision.layernorm", prefix=1),
    "DeiTForImageClassification": Family(_VIT, 64),
    "DeiTForImageClassificationWithTeacher": Family(_VIT, 64),
    "Dinov2ForImageClassification": Family({**_VIT, "mlp_ratio": 2}, 64, "dinov2.layernorm", prefix=1),
    "Dinov2WithRegistersForImageClassification": Family({**_VIT, "mlp_ratio": 2}, 64),
    "DonutSwinForImageClassification": Family({**_SWIN, "window_size": 4}, 128, "donut.encoder.layers.2", "classifier"),
    "EfficientNetForImageClassification": Family(
        {"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320},
        last="efficientnet.encoder.top_activation",
        head="classifier",
    ),
    "FocalNetForImageClassification": Family(
        {
            "image_size": 128,
            "embed_dim": 12,
            "depths": [1, 1, 1],
            "focal_levels": [2, 2, 2],
            "focal_windows": [3, 3, 3],
            "hidden_sizes": [12, 24, 48],
        },
        128,
        "focalnet.layernorm",
        "classifier",
    ),
    "HGNetV2ForImageClassification": Family(
        {
            "embedding_size": 8,
            "hidden_sizes": [8, 16, 24, 32],
            "depths": [1, 1, 1, 1],
            "stem_channels": [3, 8, 8],
            "stage_in_channels": [8, 16, 24, 32],
            "stage_mid_channels": [8, 8, 8, 8],
            "stage_out_channels": [16, 24, 32, 32],
            "stage_num_blocks": [1, 1, 1, 1],
            "stage_numb_of_layers": [2, 2, 2, 2],
        },
        last="encoder.stages.3",
        head="fc",
    ),
    # Its tokens are kept in the order of its mask units, until the last stage.
    "HieraForImageClassification": Family(
        {"embed_dim": 12, "image_size": [224, 224], "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 4]},
        last="hiera.encoder.stages.3",
    ),
    "IJepaForImageClassification": Family(_VIT, 64, "ijepa.layernorm", "classifier"),
    "LevitForImageClassification": Family(
        {**_LEVIT, "down_ops": [["Subsample", 8, 2, 2, 2, 2], [""]]}, last="levit.encoder.stages.1"
    ),
    "LevitForImageClassificationWithTeacher": Family(
        {**_LEVIT, "down_ops": [["Subsample", 8, 2, 2, 2, 2], [""]]}, last="levit.encoder.stages.1"
    ),
    "MetaClip2ForImageClassification": Family(
        {"vision_config": _VIT, "text_config": {**_TEXT, "vocab_size": 60000}, "projection_dim": 24},
        64,
        "vision_model.encoder.layers.2",
        "classifier",
        prefix=1,
    ),
    "MobileNetV1ForImageClassification": Family(
        {"depth_multiplier": 0.25}, last="mobilenet_v1.layer.25", head="classifier"
    ),
    "MobileNetV2ForImageClassification": Family(
        {"depth_multiplier": 0.25}, last="mobilenet_v2.conv_1x1", head="classifier"
    ),
    "MobileViTForImageClassification": Family(
        {
            "hidden_sizes": [16, 24, 32],
            "neck_hidden_sizes": [8, 8, 16, 24, 32, 40, 48],
            "image_size": 256,
            "num_attention_heads": 2,
        },
        256,
        "mobilevit.conv_1x1_exp",
        "classifier",
    ),
    "MobileViTV2ForImageClassification": Family(
        {"width_multiplier": 0.25, "image_size": 256}, 256, "mobilevitv2.encoder.layer.4", "classifier"
    ),
    "PPLCNetForImageClassification": Family({"scale": 0.25, "class_expand": 32}, last="encoder"),
    "PerceiverForImageClassificationConvProcessing": Family(
        {**_PERCEIVER, "d_model": 322, "num_cross_attention_heads": 1}
    ),
    "PerceiverForImageClassificationFourier": Family({**_PERCEIVER, "d_model": 261, "num_cross_attention_heads": 1}),
    "PerceiverForImageClassificationLearned": Family(
        {**_PERCEIVER, "d_model": 16, "num_cross_attention_heads": 2, "image_size": 16}, 16
    ),
    "PoolFormerForImageClassification": Family(_STAGES, last="norm", head="classifier"),
    "PvtForImageClassification": Family({**_HEADS, "image_size": 224}),
    "PvtV2ForImageClassification": Family(
        {**_HEADS, "image_size": 224}, last="pvt_v2.encoder.layers.3.layer_norm", head="classifier"
    ),
    "RegNetForImageClassification": Family(
        {**_STAGES, "embedding_size": 8, "groups_width": 8}, last="regnet.encoder.stages.3", head="classifier.1"
    ),
    "ResNetForImageClassification": Family(
        {**_STAGES, "embedding_size": 8}, last="resnet.encoder.stages.3", head="classifier.1", slow=False
    ),
    "SegformerForImageClassification": Family(_HEADS, last="segformer.stages.3", head="classifier"),
    "SiglipForImageClassification": Family(
        {"vision_config": _VIT, "text_config": {**_TEXT, "vocab_size": 50}},
        64,
        "vision_model.post_layernorm",
        "classifier",
    ),
    "SwiftFormerForImageClassification": Family({"depths": [1, 1, 1, 1], "embed_dims": [8, 16, 24, 32]}, last="norm"),
    "SwinForImageClassification": Family({**_SWIN, "window_size": 4}, 128, "swin.layernorm", "classifier", slow=False),
    "Swinv2ForImageClassification": Family({**_SWIN, "window_size": 4}, 128, "swinv2.layernorm", "classifier"),
    # Pooled to 2x2 and then to 1x1: the mean, of maps with an even side.
    "TextNetForImageClassification": Family(
        {"stem_out_channels": 8, "hidden_sizes": [8, 8, 16, 24, 32]}, 256, "textnet.encoder.stages.3", "fc"
    ),
    "TimmWrapperForImageClassification": Family(
        {"architecture": "test_resnet"}, last="timm_model.layer4", head="timm_model.fc"
    ),
    "ViTForImageClassification": Family(_VIT, 64, slow=False),
    "ViTMSNForImageClassification": Family(_VIT, 64, slow=False),
}
# They need more than images; one sentence says that the model does not run, and what would help.
NO_IMAGES = {
    "ImageGPTForImageClassification": (
        {"n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": 17},
        "it reads the numbers of colour clusters, not images",
    ),
    "Siglip2ForImageClassification": (
        {"vision_config": {**_TEXT, "num_patches": 64, "patch_size": 8}, "text_config": {**_TEXT, "vocab_size": 50}},
        "it reads patches that a processor has cut, with a mask and their arrangement",
    ),
}
NOT_BUILT = {
    "DinatForImageClassification": "it needs natten, which is compiled for one version of torch",
    "ShieldGemma2ForImageClassification": "it answers a prompt with a language model of billions of weights",
}


@cache
def build(name: str) -> tuple[nn.Module, Tensor]:
    """The model with seeded weights in eval mode, and two images."""
    family = FAMILIES[name]
    torch.manual_seed(0)
    images = torch.randn(2, 3, family.size, family.size)
    return settled(made(name, family.config), torch.cat([images, torch.randn_like(images)])), images


def made(name: str, config: Mapping[str, Any], **labels: Any) -> nn.Module:
    import transformers

    cls = getattr(transformers, name)
    return cls(cls.config_class(**config, **(labels or {"num_labels": CLASSES}))).eval()


def _families(only: Any = lambda family: True) -> list[Any]:
    return [
        pytest.param(name, marks=[pytest.mark.slow] * family.slow, id=name.replace("ForImageClassification", "-"))
        for name, family in FAMILIES.items()
        if only(family)
    ]


@pytest.mark.slow
def test_every_image_classifier_is_in_a_table() -> None:
    names = import_module("transformers.models.auto.modeling_auto").MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    found = {one for value in names.values() for one in ([value] if isinstance(value, str) else value)}
    new = found - {*FAMILIES, *NO_IMAGES, *NOT_BUILT}
    if new:
        pytest.skip(f"this version of transformers has more: {sorted(new)}")
    assert found == {*FAMILIES, *NO_IMAGES, *NOT_BUILT}


@pytest.mark.parametrize("name", _families())
def test_the_logits_are_those_that_the_model_names(name: str) -> None:
    model, images = build(name)
    with torch.no_grad():
        found, expected = logits_of(model, images), logits_in(model(images))
    assert torch.allclose(found, expected, atol=1e-6)
    assert found.shape == (2, CLASSES)
    assert float(found.std()) > 0


@pytest.mark.parametrize("name", _families())
def test_the_gradient_at_the_image_is_that_of_autograd(name: str) -> None:
    model, images = build(name)
    leaf = images.clone().requires_grad_()
    logits_in(model(leaf))[:, 3].sum().backward()
    found = gradient(model, images, 3)
    assert found.isfinite().all()
    assert float(found.abs().max()) > 0
    assert torch.allclose(found, leaf.grad, rtol=1e-3, atol=1e-4 * float(leaf.grad.abs().max()))


@pytest.mark.parametrize("name", _families(lambda family: family.last))
def test_grad_cam_of_the_default_layer_is_the_closed_form(name: str) -> None:
    model, images = build(name)
    family = FAMILIES[name]
    weights = model.get_submodule(family.head).weight.detach() if family.head else None
    compared = 0
    for target in range(CLASSES):
        expected = closed_form(model, images, target, family.last, weights=weights, prefix=family.prefix)
        found = grad_cam(model, images, target)
        for one, other in zip(found, expected, strict=True):
            if other.any():
                compared += 1
                assert correlation(one, other) >= 0.99
            else:
                assert not one.any()
    assert compared >= 2


@pytest.mark.parametrize("name", _families(lambda family: not family.last))
def test_grad_cam_without_a_closed_form_is_a_map_or_a_sentence(name: str) -> None:
    model, images = build(name)
    refused = ""
    try:
        found = torch.cat([grad_cam(model, images, target) for target in range(CLASSES)])
    except ConfigurationError as error:
        refused = str(error)
    if refused:
        # Its latents have no place in the image.
        assert "Perceiver" in name
        assert len(refused) < 300
        assert "layer" in refused
    else:
        assert found.isfinite().all()
        assert float(found.std(dim=(1, 2, 3)).max()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", NO_IMAGES)
def test_a_model_that_reads_no_images_is_refused_in_one_sentence(name: str) -> None:
    config, _ = NO_IMAGES[name]
    images = torch.randn(2, 3, 64, 64)
    with pytest.raises(ConfigurationError, match=name) as caught:
        grad_cam(made(name, config), images)
    assert len(str(caught.value)) < 300
    assert "forward" in str(caught.value)


class FineTuning(import_module(tiny.PACKAGES[0]).LightningModule):  # type: ignore[misc]
    """As in Hugging Face's examples: the batch is a dict of arguments, and the output holds the loss."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Any:
        return self.model(pixel_values=pixel_values, labels=labels)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self(**batch).loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self(**batch).loss)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


_TRAINED = [
    pytest.param("ResNetForImageClassification", id="ResNet"),
    *(
        pytest.param(f"{name}ForImageClassification", id=name, marks=pytest.mark.slow)
        for name in ("ViT", "Swin", "ConvNext", "MobileNetV2", "Dinov2", "Beit")
    ),
]


@pytest.mark.parametrize("name", _TRAINED)
def test_a_fine_tuning_makes_every_picture_of_the_named_classes(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    names = ["cat", "dog", "emu", "fox", "gnu"]
    torch.manual_seed(0)
    size = min(family.size, 64)
    config = {**family.config, **({"image_size": size} if "image_size" in family.config else {})}
    model = made(name, config, id2label=dict(enumerate(names)), label2id={one: i for i, one in enumerate(names)})
    rows = [{"pixel_values": torch.randn(3, size, size), "labels": i % CLASSES} for i in range(10)]
    loader = torch.utils.data.DataLoader(rows, batch_size=5)
    module = FineTuning(model)
    short = ClassAppearance(samples=2, **few(ClassAppearance.__init__))
    ours = [Filters(), Activations(samples=5), Saliency(samples=5), GradCAM(samples=5), short]
    tiny.trainer(tmp_path, [*ours, Report()], max_epochs=1).fit(module, loader, loader)
    records = tiny.records(tmp_path)
    assert [record["error"] for record in records if record["error"]] == []
    last = [record for record in records if record["epoch"] == 1]
    assert {record["callback"] for record in last} == {one.name for one in ours}
    module.eval()
    with torch.no_grad():
        probabilities = model(pixel_values=torch.stack([row["pixel_values"] for row in rows])).logits.softmax(dim=1)
    own = {
        (names[data["labels"]], names[int(row.argmax())], round(float(row.max()), 3))
        for data, row in zip(rows, probabilities, strict=True)
    }
    shown = {
        (record["label"], record["predicted"], round(record["probability"], 3))
        for record in last
        if record["sample"] is not None
    }
    assert shown
    assert shown <= own
