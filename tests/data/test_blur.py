"""Blurs: the fast one of maps is the other one, whatever else is in the batch."""

from __future__ import annotations

import pytest
import torch

from vis_callbacks.data.blur import blurred_maps, gaussian_blur


@pytest.mark.parametrize("sigma", [0.5, 2.0, 5.0, 9.0])
@pytest.mark.parametrize("size", [(224, 224), (40, 9), (3, 5)])
def test_maps_are_blurred_as_images_are(size: tuple[int, int], sigma: float) -> None:
    maps = torch.randn(3, 1, *size, generator=torch.Generator().manual_seed(0))
    blurred = blurred_maps(maps, sigma)
    torch.testing.assert_close(blurred, gaussian_blur(maps, sigma))
    assert torch.equal(blurred[1:2], blurred_maps(maps[1:2], sigma)), "to the bit, alone or not"
