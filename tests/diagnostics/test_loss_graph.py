"""What a loss is computed from: against losses whose functions are known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vis_callbacks.diagnostics.facts import LossFacts
from vis_callbacks.diagnostics.loss_graph import loss_facts

LABELS = torch.tensor([0, 1, 2, 3])
ROWS = F.one_hot(LABELS, 5).float()


class Attention(nn.Module):
    """Has softmax inside, far from the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.attend, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 5)

    def forward(self, values: Tensor) -> Tensor:
        tokens = values[:, None].expand(-1, 3, -1)
        return self.head(self.attend(tokens, tokens, tokens)[0].mean(dim=1))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda x: F.cross_entropy(x, LABELS), LossFacts()),
        (lambda x: F.cross_entropy(x.softmax(1), LABELS), LossFacts("softmax")),
        (lambda x: F.cross_entropy(x.softmax(1), ROWS), LossFacts("softmax")),
        (lambda x: F.cross_entropy(x.softmax(1)[:, :, None, None], LABELS[:, None, None]), LossFacts("softmax")),
        (lambda x: 0.3 * F.cross_entropy(x, LABELS) + 0.7 * F.cross_entropy(x, LABELS.flip(0)), LossFacts()),
        (lambda x: F.cross_entropy(x.log_softmax(1), LABELS), LossFacts()),
        (lambda x: F.kl_div(x.log_softmax(1), ROWS, reduction="batchmean"), LossFacts()),
        (lambda x: F.nll_loss(x, LABELS), LossFacts("", "logits")),
        (lambda x: F.nll_loss(x.softmax(1), LABELS), LossFacts("", "probabilities")),
        (lambda x: F.nll_loss(x.softmax(1).clamp(min=1e-6).log(), LABELS), LossFacts()),
        (lambda x: F.binary_cross_entropy_with_logits(x, ROWS), LossFacts()),
        (lambda x: F.binary_cross_entropy_with_logits(x.sigmoid(), ROWS), LossFacts("sigmoid")),
        (lambda x: F.binary_cross_entropy(x.sigmoid(), ROWS), LossFacts()),
        (lambda x: (x.softmax(1) - ROWS).square().mean(), LossFacts()),
    ],
)
@pytest.mark.parametrize("network", [lambda: nn.Linear(8, 5), Attention])
def test_functions_are_read_from_the_graph(
    network: Callable[[], nn.Module], loss: Callable[[Tensor], Tensor], expected: LossFacts
) -> None:
    assert loss_facts(loss(network()(torch.randn(4, 8)))) == expected


def test_it_reads_through_lower_precision() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = F.cross_entropy(nn.Linear(8, 5)(torch.randn(4, 8)).softmax(1), LABELS)
    assert loss_facts(loss) == LossFacts("softmax")


def test_a_loss_without_a_graph_tells_nothing() -> None:
    assert loss_facts(torch.zeros(())) == LossFacts()
