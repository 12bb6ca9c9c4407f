"""The normalized pixel space."""

from __future__ import annotations

import pytest
import tiny_models  # noqa: F401  (one thread)
import torch

from methods.contracts import ImageSpace

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_bounds_are_black_and_white() -> None:
    space = ImageSpace(2, 3, MEAN, STD)
    low, high = space.bounds()
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        assert low[channel].item() == pytest.approx((0 - mean) / std, rel=1e-6)
        assert high[channel].item() == pytest.approx((1 - mean) / std, rel=1e-6)
    assert space.shape == (3, 2, 3)


def test_normalize_maps_every_byte() -> None:
    space = ImageSpace(16, 16, MEAN, STD)
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, -1, -1)
    normalized = space.normalize(pixels)
    assert normalized.dtype == torch.float32
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        expected = [(byte / 255 - mean) / std for byte in range(256)]
        assert normalized[1, channel].flatten().tolist() == pytest.approx(expected, abs=1e-6)
