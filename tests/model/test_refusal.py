"""What is said of a network that takes something else than images alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vis_callbacks import functional as V
from vis_callbacks.errors import SubjectError
from vis_callbacks.model.refusal import sentence_about

IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Indexing(nn.Module):
    def forward(self, batch: Any) -> Tensor:
        return batch["image"]


class Needy(nn.Module):
    def forward(self, images: Tensor, table: Tensor) -> Tensor:
        return images + table


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (Indexing(), "Indexing.forward takes (batch) and failed on images alone: TypeError: "),
        (Needy(), "Needy.forward takes (images, table) and failed on images alone: TypeError: "),
    ],
)
def test_a_type_error_of_the_users_forward_says_what_it_takes(model: nn.Module, says: str) -> None:
    with pytest.raises((TypeError, IndexError)) as raised:
        model(IMAGES)
    error = raised.value if isinstance(raised.value, TypeError) else TypeError("x").with_traceback(raised.tb)
    sentence = sentence_about(model, error)
    assert sentence.startswith(says)
    assert sentence.endswith("set forward= to a function (module, images) -> logits")
    assert len(sentence) < 300


def test_a_type_error_of_a_techniques_own_is_no_fault_of_the_forward() -> None:
    with pytest.raises(TypeError) as raised:
        len(3)  # type: ignore[arg-type]
    assert sentence_about(nn.Linear(2, 2), raised.value) == ""


# What takes something else than float images (N, C, H, W), and is called by a plain function.


class Tokens(nn.Module):
    """Reads whole numbers, as ImageGPT does."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(16, 4), nn.Linear(4, 5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.head(self.table(input_ids).flatten(1, -2).mean(dim=1))


class OneHot(Tokens):
    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(nn.functional.one_hot(input_ids, 4).float().flatten(1, -2).mean(dim=1))


class Table(Tokens):
    def forward(self, numbers: Tensor) -> Tensor:
        return self.head(self.table.weight[numbers].flatten(1, -2).mean(dim=1))


class Patches(Tokens):
    """Reads patches that were cut before, as Siglip2 does."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(48, 4)

    def forward(self, pixel_values: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.head(self.embed(pixel_values).mean(dim=1))


class Video(Tokens):
    def forward(self, clips: Tensor) -> Tensor:
        _count, _frames, _channels, _height, _width = clips.shape
        return self.head(clips.mean(dim=(1, 3, 4)))


class Sound(Tokens):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(1, 4, 3)

    def forward(self, waves: Tensor) -> Tensor:
        return self.head(self.convolution(waves).mean(dim=2))


class Batch(Tokens):
    def forward(self, batch: Any) -> Tensor:
        return self.head(batch["image"].mean(dim=(2, 3)))


class Record(Tokens):
    def forward(self, batch: Any) -> Tensor:
        return self.head(batch.pixels.mean(dim=(2, 3)))


class Masked(Tokens):
    def forward(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.head(images.mean(dim=(2, 3)) * mask.float())  # type: ignore[union-attr]


class Specified(Tokens):
    def forward(self, images: Tensor, boxes: Tensor | None = None) -> Tensor:
        if boxes is None:
            raise ValueError("You have to specify boxes")
        return self.head(images)


class Two(Tokens):
    def forward(self, images: Tensor, table: Tensor) -> Tensor:
        return self.head(images + table)


OTHERS = [Tokens, OneHot, Table, Patches, Video, Sound, Batch, Record, Masked, Specified, Two]


@pytest.mark.parametrize("technique", ["grad_cam", "gradient", "occlusion", "activations"])
@pytest.mark.parametrize("kind", OTHERS)
def test_a_plain_function_says_what_the_forward_takes_and_how_to_wrap_it(kind: type[nn.Module], technique: str) -> None:
    with pytest.raises(SubjectError) as raised:
        getattr(V, technique)(kind(), IMAGES)
    said = str(raised.value)
    assert said.startswith(f"{kind.__name__}.forward takes (")
    assert "wrap it in a module whose forward makes logits of images alone" in said
    assert "forward=" in said
    assert len(said) < 300
    assert raised.value.__cause__ is not None


def test_what_is_wrong_with_the_images_alone_is_said_by_the_model() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(RuntimeError, match="to have 3 channels"):
        V.gradient(net, torch.rand(2, 4, 8, 8))


def test_a_long_signature_leaves_room_for_the_error() -> None:
    class Long(Tokens):
        def forward(
            self,
            input_ids: Tensor,
            attention_mask: Any = None,
            token_type_ids: Any = None,
            position_ids: Any = None,
            past_key_values: Any = None,
            output_attentions: Any = None,
        ) -> Tensor:
            return super().forward(input_ids)

    with pytest.raises(
        SubjectError,
        match=r"takes \(input_ids, attention_mask, token_type_ids, position_ids, …\) .* RuntimeError: Expec",
    ):
        V.gradient(Long(), IMAGES)
