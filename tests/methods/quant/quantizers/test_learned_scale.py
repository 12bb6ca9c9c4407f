"""Learned scales of logarithmic grids: values of their start, and LSQ's gradient by another way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods.quant.learning.learned_parts import learned_scales
from methods.quant.quantizers.learned_scale import LearnedScaleQuantizer
from methods.quant.quantizers.ranges import ACTIVATION_PERCENTILES, PercentileRange
from methods.quant.quantizers.shifted_log import GELU_SHIFT, ShiftedLogQuantizer
from methods.quant.quantizers.tail_log import TailLogQuantizer


def gelu_values() -> Tensor:
    return nn.functional.gelu(2 * torch.randn((40, 64), generator=torch.Generator().manual_seed(3)))


def rows() -> Tensor:
    return (3 * torch.randn((80, 32), generator=torch.Generator().manual_seed(5))).softmax(-1)


def fitted(kind: str, bits: int = 3) -> tuple[Any, Tensor]:
    quantizer: Any = TailLogQuantizer(bits)
    x = rows()
    if kind == "shifted":
        quantizer, x = ShiftedLogQuantizer(bits, PercentileRange(ACTIVATION_PERCENTILES)), gelu_values()
    quantizer.fit(x)
    return quantizer, x


@pytest.mark.parametrize("kind", ["tail", "shifted"])
def test_at_the_start_values_are_those_of_the_fitted_quantizer(kind: str) -> None:
    start, x = fitted(kind)
    expected, codes = start(x), start.quantize(x)
    learned = LearnedScaleQuantizer(start)
    assert torch.equal(learned(x), expected)
    assert torch.equal(learned.quantize(x), codes)
    assert torch.equal(learned.dequantize(codes), start.dequantize(codes))


@pytest.mark.parametrize(("kind", "shift"), [("tail", 0.0), ("shifted", GELU_SHIFT)])
@pytest.mark.parametrize("factor", [1.0, 0.6])
def test_the_gradients_are_those_of_a_grid_that_stretches(kind: str, shift: float, factor: float) -> None:
    """s f(v) - c with f(v) = (v - v) + codes' values, v detached where clipped: autograd does the rest, in float64."""
    start, x = fitted(kind)
    learned = LearnedScaleQuantizer(start)
    learned.scale.data.mul_(factor)  # so that some values are clipped above
    x = x.requires_grad_(True)
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
    value = learned(x)
    (value * upstream).sum().backward()
    inside = learned.inside(x.detach())
    assert 0.05 < inside.float().mean().item() < 1
    if factor < 1:
        assert bool((learned.quantize(x.detach())[~inside] == 0).any())
    y, scale = x.detach().double().requires_grad_(True), learned.scale.detach().double().requires_grad_(True)
    v = (y + shift) / scale
    levels = ((value.detach().double() + shift) / scale).detach()
    f = torch.where(inside, v + (levels - v).detach(), levels)
    ((scale * f - shift) * upstream.double()).sum().backward()
    assert x.grad is not None
    assert y.grad is not None
    assert scale.grad is not None
    assert learned.scale.grad is not None
    assert torch.allclose(x.grad.double(), y.grad, atol=1e-6)
    size = (x.numel() * 7) ** 0.5
    assert learned.scale.grad.item() * size == pytest.approx(scale.grad.item(), rel=1e-3)


def test_a_stretched_tail_keeps_its_ratio_and_a_frozen_quantizer_says_that_it_was_learned() -> None:
    start, x = fitted("tail")
    ratio = (start.tail / start.scale).item()
    holder = nn.Sequential(start)
    with learned_scales(holder) as scales:
        assert [type(q) for q in scales] == [LearnedScaleQuantizer]
        scales[0].scale.data.mul_(1.25)
        expected = holder(x).detach()
    frozen: Any = holder[0]
    assert type(frozen) is TailLogQuantizer
    assert torch.equal(frozen(x), expected)
    assert (frozen.tail / frozen.scale).item() == pytest.approx(ratio, rel=1e-6)
    assert frozen.describe().endswith("then learned")
    assert not frozen.scale.requires_grad
