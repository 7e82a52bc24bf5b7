"""What is seen of a module's calls, and what of them is kept."""

from __future__ import annotations

import weakref

import torch
from torch import nn

from vis_callbacks.model.looks import Look


def test_the_graph_of_a_step_lives_no_longer_than_the_step() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    look = Look(network, outputs=True)
    output = network(torch.rand(2, 3, 2, 2))
    graph, expected = weakref.ref(output), output.detach().clone()
    del output
    look.stop()
    assert graph() is None
    assert torch.equal(look.given[0], expected)
    assert look.given[0].grad_fn is None


def test_nothing_is_seen_once_it_has_stopped() -> None:
    network = nn.Flatten()
    look = Look(network, inputs=1, outputs=True)
    images = torch.zeros(2, 3, 4, 4)
    network(images)
    look.stop()
    network(images + 1)
    assert (len(look.given), look.images is not None and float(look.images.max())) == (1, 0.0)
