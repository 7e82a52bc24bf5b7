"""The tensors of an output, whatever it is made of."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from vis_callbacks.model.parts import part_at, parts_of, with_part


class Pair(NamedTuple):
    maps: Tensor
    pooled: Tensor | None


@dataclass
class Output:
    maps: Tensor
    more: Any = None


A, B, C = (torch.full((1,), float(number)) for number in range(3))


@pytest.mark.parametrize(
    ("output", "paths"),
    [
        (A, [()]),
        ((A, None, "text", B), [(0,), (3,)]),
        ([A, [B]], [(0,), (1, 0)]),
        (Pair(A, B), [(0,), (1,)]),
        (OrderedDict(a=A, b={"c": B}), [("a",), ("b", "c")]),
        (Output(A, (B,)), [("maps",), ("more", 0)]),
        (SimpleNamespace(a=A, b=B), [("a",), ("b",)]),
        ({"maps": A, "index": torch.tensor([1])}, [("maps",)]),
        ((torch.tensor([1]), 2), [(0,)]),
        (None, []),
        ((nn.Linear(1, 1), "text"), []),
    ],
)
def test_every_tensor_is_found_and_can_be_replaced(output: Any, paths: list[Any]) -> None:
    found = parts_of(output)
    assert [path for path, _ in found] == paths
    for path, tensor in found:
        assert part_at(output, path) is tensor
        replaced = with_part(output, tensor, C)
        assert type(replaced) is type(output) or replaced is C
        assert part_at(replaced, path) is C
        assert [one for at, one in parts_of(replaced) if at != path] == [one for at, one in found if at != path]
        # The output that the model may hold elsewhere is as it was.
        assert [one for _, one in parts_of(output)] == [one for _, one in found]


def test_a_tensor_is_replaced_wherever_it_is() -> None:
    output = {"last": A, "all": (B, A)}
    replaced = with_part(output, A, C)
    assert replaced["last"] is C
    assert replaced["all"][0] is B
    assert replaced["all"][1] is C


def test_outputs_of_transformers_keep_keys_and_attributes() -> None:
    outputs = pytest.importorskip("transformers.modeling_outputs")
    output = outputs.BaseModelOutputWithPooling(last_hidden_state=A, pooler_output=B, hidden_states=(C, A))
    assert [path for path, _ in parts_of(output)][:2] == [("last_hidden_state",), ("pooler_output",)]
    replaced = with_part(output, A, C)
    assert replaced.last_hidden_state is replaced["last_hidden_state"] is replaced[0] is C
    assert replaced.hidden_states[1] is C
    assert output.last_hidden_state is A
