"""Learned rounding: where it starts, its gradient and regulariser in closed form, and where it ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_models import double
from torch import Tensor, nn

from methods.quant.layers import QuantizedLayer
from methods.quant.learning.learned_parts import learned_rounding
from methods.quant.quantizers.adaround import AdaRoundQuantizer, beta
from methods.quant.quantizers.ranges import PercentileRange
from methods.quant.quantizers.uniform import UniformQuantizer


def plain(bits: int = 4) -> UniformQuantizer:
    """A quantizer that clips the largest weights."""
    return UniformQuantizer(bits, PercentileRange((0.9,)), axis=0)


def weight() -> Tensor:
    return torch.randn((6, 30), generator=torch.Generator().manual_seed(4))


def made(bits: int = 4) -> tuple[AdaRoundQuantizer, UniformQuantizer]:
    start = plain(bits)
    start.fit(weight())
    return AdaRoundQuantizer(start, weight()), start


def limits(start: UniformQuantizer) -> tuple[Tensor, Tensor]:
    return (start.codes[0] - start.zero_point) * start.scale, (start.codes[-1] - start.zero_point) * start.scale


def test_it_starts_at_the_clipped_weight_and_would_round_to_nearest() -> None:
    quantizer, start = made()
    expected = torch.clamp(weight(), *limits(start))
    assert not torch.equal(expected, weight())
    assert double(quantizer(weight())) == pytest.approx(double(expected), abs=1e-5)
    assert double(quantizer.hardened()) == pytest.approx(double(start(weight())), abs=1e-6)


def test_values_and_gradients_are_the_formulas() -> None:
    quantizer, start = made()
    with torch.no_grad():
        quantizer.up.add_(torch.randn(quantizer.up.shape, generator=torch.Generator().manual_seed(5)) * 2)
    out = quantizer(weight())
    slope = torch.randn(out.shape, generator=torch.Generator().manual_seed(6))
    (out * slope).sum().backward()
    assert quantizer.up.grad is not None
    low, high = (double(x).flatten() for x in limits(start))
    for row in range(6):
        scale = start.scale[row].item()
        for column in range(30):
            v = quantizer.up[row, column].item()
            sigmoid = 1 / (1 + math.exp(-v))
            stretched = 1.2 * sigmoid - 0.1
            value = scale * (math.floor(weight()[row, column].item() / scale) + min(max(stretched, 0.0), 1.0))
            assert out[row, column].item() == pytest.approx(min(max(value, low[row]), high[row]), abs=1e-5)
            free = 0 < stretched < 1 and low[row] < value < high[row]
            gradient = slope[row, column].item() * scale * 1.2 * sigmoid * (1 - sigmoid) if free else 0.0
            assert quantizer.up.grad[row, column].item() == pytest.approx(gradient, abs=1e-5)


def test_the_regulariser_in_closed_form() -> None:
    quantizer, _ = made()
    h = double(quantizer.rectified())
    for exponent in (20.0, 3.5, 2.0):
        assert quantizer.regulariser(exponent).item() == pytest.approx((1 - np.abs(2 * h - 1) ** exponent).sum())
    with torch.no_grad():
        quantizer.up.copy_(torch.where(quantizer.up > 0, 9.0, -9.0))
    assert quantizer.regulariser(2.0).item() == 0.0


def test_beta_rests_and_then_falls_along_a_line() -> None:
    assert [beta(x) for x in (0.0, 0.19)] == [None, None]
    assert [beta(x) for x in (0.2, 0.6, 1.0)] == pytest.approx([20.0, 11.0, 2.0])


def test_the_end_is_floor_or_ceiling_within_the_range_and_a_plain_quantizer() -> None:
    layer = QuantizedLayer(nn.Linear(30, 6), None, plain())
    layer.layer.weight.data.copy_(weight())
    start = layer.weights
    assert isinstance(start, UniformQuantizer)
    start.fit(weight())
    scale, (low, high) = start.scale, limits(start)
    with learned_rounding([layer]) as (quantizer,):
        with torch.no_grad():
            quantizer.up.copy_(torch.randn(quantizer.up.shape, generator=torch.Generator().manual_seed(7)))
        up = quantizer.up >= 0
    floor, ceiling = (torch.clamp(f(weight() / scale) * scale, low, high) for f in (torch.floor, torch.ceil))
    assert torch.allclose(layer.layer.weight, torch.where(up, ceiling, floor), atol=1e-6)
    assert (layer.layer.weight - start(weight())).abs().max().item() > 0.5 * scale.max().item()
    assert layer.weights is start
    assert torch.allclose(start(layer.layer.weight), layer.layer.weight, atol=1e-6)


def test_layers_without_quantized_weights_are_left_alone() -> None:
    exact, folded = QuantizedLayer(nn.Linear(3, 2), None, None), QuantizedLayer(nn.Linear(3, 2), None, plain())
    folded.folded = True
    before = folded.weights, folded.layer.weight.clone()
    with learned_rounding([exact, folded]) as learned:
        assert learned == []
        assert (exact.weights, folded.weights) == (None, before[0])
    assert torch.equal(folded.layer.weight, before[1])
