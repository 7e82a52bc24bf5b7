from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.synthesis.models import CASES, ConvNet


@pytest.fixture
def model() -> ConvNet:
    torch.manual_seed(0)
    return ConvNet().train()


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, tuple[int, int, int], str]:
    """A model, the shape of its images, and the name of a layer."""
    make, shape, layer = CASES[request.param]
    torch.manual_seed(0)
    return make().train(), shape, layer
