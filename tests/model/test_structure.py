from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vis_callbacks.model.features import default_layer, feature_info
from vis_callbacks.model.guard import undisturbed
from vis_callbacks.model.structure import Structure
from vis_callbacks.model.subject import Network


class Growing(nn.Module):
    """Uses as many of its blocks as an attribute says, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Conv2d(3 if number == 0 else 6, 6, 3, padding=1) for number in range(3)])
        self.head, self.depth, self.calls = nn.Linear(6, 5), 1, 0
        self.config: dict[str, Any] = {"widths": [6, 6]}

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        for block in self.blocks[: self.depth]:
            images = block(images).relu()
        return self.head(images.mean(dim=(2, 3)))


CHANGES: dict[str, Callable[[Growing], object]] = {
    "grows": lambda net: setattr(net, "depth", 3),
    "new block": lambda net: net.blocks.append(nn.Conv2d(6, 6, 3)),
    "fewer blocks": lambda net: net.blocks.pop(2),
    "another head": lambda net: setattr(net, "head", nn.Linear(6, 7)),
    "a weight of another shape": lambda net: setattr(net.head, "weight", nn.Parameter(torch.zeros(7, 6))),
    "stride": lambda net: setattr(net.blocks[0], "stride", (2, 2)),
    "a setting in a dict": lambda net: net.config["widths"].append(6),
    "a new setting": lambda net: setattr(net, "depth_now", 3),
    "blocks in another order": lambda net: net.blocks.insert(0, net.blocks.pop(1)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(change: str) -> None:
    net = Growing()
    structure = Structure(net)
    assert structure.is_of(net)
    CHANGES[change](net)
    assert not structure.is_of(net)


def test_what_training_and_passes_change_is_no_change_of_structure() -> None:
    net, images = Growing().train(), torch.rand(2, 3, 8, 8)
    before = Structure(net)
    net(images).sum().backward()
    assert not before.is_of(net)
    structure = before.as_kept_by(net)
    net(images).sum().backward()
    torch.optim.SGD(net.parameters(), lr=0.1).step()
    net.eval().requires_grad_(False)
    net.register_forward_hook(lambda *_: None)
    with undisturbed(net):
        assert structure.is_of(net)
    net.depth = 2
    assert not structure.is_of(net)


def test_a_setting_of_a_module_that_another_calls_counts() -> None:
    net = Growing()
    network = Network(net, net)
    structure = Structure(network)
    assert structure.is_of(network)
    net.depth = 3
    assert not structure.is_of(network)


def test_what_was_learnt_of_the_layers_does_not_outlive_the_model() -> None:
    net, images = Growing(), torch.rand(1, 3, 8, 8)
    assert default_layer(net, images) == "blocks.0"
    found = feature_info(net, images)
    # Calls that the forward counts do not count.
    assert feature_info(net, images) is found
    net.depth = 3
    assert default_layer(net, images) == "blocks.2"
    net.blocks[2].stride = (2, 2)
    assert feature_info(net, images).layout("blocks.2").size == (4, 4)
