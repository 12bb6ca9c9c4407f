"""Learned steps, offsets and scales: equal to what they start from, gradients against slow references."""

from __future__ import annotations

from typing import Any, TypeAlias

import pytest
import tiny_models  # noqa: F401  (one thread)
import torch
from torch import Tensor, nn

from methods.quant.learning.learned_parts import learned_scales
from methods.quant.quantizers.learned_scale import LearnedScaleQuantizer
from methods.quant.quantizers.learned_step import LearnedStepQuantizer
from methods.quant.quantizers.ranges import ACTIVATION_PERCENTILES, MinMaxRange, PercentileRange
from methods.quant.quantizers.shifted_log import GELU_SHIFT, ShiftedLogQuantizer
from methods.quant.quantizers.tail_log import AdaptiveLogQuantizer, TailLogQuantizer
from methods.quant.quantizers.uniform import OffsetQuantizer, UniformQuantizer

Plain: TypeAlias = UniformQuantizer | OffsetQuantizer
KINDS = ["affine", "symmetric", "channels", "offset", "offset channels"]


def values(seed: int = 0, spread: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn((6, 5, 40), generator=generator) + torch.tensor([0.3, -2.0, 0.1, 0.0, 4.0])[:, None]


def fitted(kind: str, bits: int = 3) -> Plain:
    start: Plain
    if kind.startswith("offset"):
        start = OffsetQuantizer(bits, MinMaxRange(), axis=1 if "channels" in kind else None)
    else:
        search = PercentileRange(ACTIVATION_PERCENTILES)
        start = UniformQuantizer(bits, search, 1 if kind == "channels" else None, kind == "symmetric")
    start.fit(values())
    return start


def moved(kind: str, learn_offset: bool = True) -> LearnedStepQuantizer:
    """A quantizer that has learned: other steps, and offsets other than its start's."""
    quantizer = LearnedStepQuantizer(fitted(kind), learn_offset=learn_offset)
    with torch.no_grad():
        quantizer.scale.mul_(0.7)
        quantizer.offset.add_(0.123)
    return quantizer


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_as_the_fitted_quantizer_bit_for_bit(kind: str) -> None:
    start = fitted(kind)
    quantizer, x = LearnedStepQuantizer(start), values(1, spread=2.0)
    expected = start(x)
    with torch.no_grad():
        assert torch.equal(quantizer(x), expected)
    assert torch.equal(quantizer(x).detach(), expected)
    assert torch.equal(quantizer(x.requires_grad_()).detach(), expected)
    assert torch.equal(quantizer.quantize(x), start.quantize(x))
    in_place = x.detach().clone()
    quantizer.fake_quantize_(in_place)
    assert torch.equal(in_place, expected)


def bounds(quantizer: LearnedStepQuantizer, channel: int) -> tuple[float, float]:
    """Return the least and largest number of steps from the offset, of a channel."""
    start = quantizer.start
    if isinstance(start, OffsetQuantizer):
        return 0.0, 7.0
    zero = start.zero_point.flatten()[channel % start.zero_point.numel()].item()
    return start.grid.qmin - zero, start.grid.qmax - zero


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_equal_a_loop_over_values(kind: str) -> None:
    quantizer, x, upstream = moved(kind), values(2, spread=2.0).requires_grad_(), values(3)
    quantizer.gradient_scale = 0.5
    y = quantizer(x)
    y.backward(upstream)
    scales, offsets = (p.detach().double().flatten().tolist() for p in (quantizer.scale, quantizer.offset))
    steps, shifts, gradient = [0.0] * len(scales), [0.0] * len(scales), torch.zeros_like(x)
    for i, j, k in torch.cartesian_prod(*(torch.arange(n) for n in x.shape)).tolist():
        channel = j % len(scales)
        low, high = bounds(quantizer, j)
        v = (x[i, j, k].item() - offsets[channel]) / scales[channel]
        code, g = min(max(round(v), low), high), upstream[i, j, k].item()
        assert y[i, j, k].item() == pytest.approx(scales[channel] * code + offsets[channel], abs=1e-5)
        inside = low <= round(v) <= high
        gradient[i, j, k] = g if inside else 0.0
        steps[channel] += g * (code - v if inside else code)
        shifts[channel] += 0.0 if inside else g
    factor = 0.5 / (1200 / len(scales) * 7) ** 0.5
    assert x.grad is not None
    assert quantizer.scale.grad is not None
    assert quantizer.offset.grad is not None
    assert torch.equal(x.grad, gradient)
    assert 0.05 < (gradient == 0).double().mean().item() < 0.9
    assert quantizer.scale.grad.flatten().tolist() == pytest.approx([factor * s for s in steps], rel=1e-4, abs=1e-5)
    assert quantizer.offset.grad.flatten().tolist() == pytest.approx([factor * s for s in shifts], rel=1e-4, abs=1e-5)


def test_gradients_equal_finite_differences_with_the_rounding_error_held_fixed() -> None:
    x = values(4, spread=2.0).double()
    quantizer = moved("affine").double()
    low, high = bounds(quantizer, 0)
    scale, offset = quantizer.scale.item(), quantizer.offset.item()
    steps = (x - offset) / scale
    rounding, codes = steps.round() - steps, steps.round().clamp(low, high)

    def surrogate(s: float, m: float) -> float:
        inner = torch.where(codes == steps.round(), (x - m) / s + rounding, codes)
        return float((s * inner + m).pow(3).sum())

    quantizer(x).pow(3).sum().backward()
    factor, h = (1200 * 7) ** -0.5, 1e-7
    assert quantizer.scale.grad is not None
    assert quantizer.offset.grad is not None
    by_scale = (surrogate(scale + h, offset) - surrogate(scale - h, offset)) / (2 * h)
    by_offset = (surrogate(scale, offset + h) - surrogate(scale, offset - h)) / (2 * h)
    assert quantizer.scale.grad.item() == pytest.approx(factor * by_scale, rel=1e-4)
    assert quantizer.offset.grad.item() == pytest.approx(factor * by_offset, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("learn_offset", [True, False])
def test_frozen_is_plain_and_rounds_alike(kind: str, learn_offset: bool) -> None:
    quantizer, x = moved(kind, learn_offset), values(5, spread=2.0)
    affine = not kind.startswith("offset") and not learn_offset
    if affine:
        quantizer.offset.data.zero_()
    frozen = quantizer.freeze()
    assert type(frozen) is (UniformQuantizer if affine else OffsetQuantizer)
    assert not list(frozen.parameters())
    with torch.no_grad():
        assert torch.allclose(frozen(x), quantizer(x), atol=1e-5)
    assert frozen.describe().endswith("then learned")
    assert frozen.scale.data_ptr() != quantizer.scale.data_ptr()


def test_a_step_below_zero_does_not_turn_the_grid() -> None:
    quantizer, x = LearnedStepQuantizer(fitted("affine")), values(6)
    expected = quantizer(x)
    quantizer.scale.data.neg_()
    assert torch.equal(quantizer(x), expected)
    quantizer.scale.data.zero_()
    assert torch.isfinite(quantizer(x)).all()


def test_observing_fits_again() -> None:
    quantizer, x = moved("affine"), values(7, spread=3.0)
    quantizer.observing = True
    assert quantizer(x) is x
    quantizer.observing = False
    again = UniformQuantizer(3, PercentileRange(ACTIVATION_PERCENTILES))
    again.fit(x)
    assert torch.equal(quantizer(x), again(x))


def gelu_values() -> Tensor:
    return nn.functional.gelu(2 * torch.randn((40, 64), generator=torch.Generator().manual_seed(3)))


def rows() -> Tensor:
    return (3 * torch.randn((80, 32), generator=torch.Generator().manual_seed(5))).softmax(-1)


def fitted_log(kind: str, bits: int = 3) -> tuple[Any, Tensor]:
    quantizer: Any = TailLogQuantizer(bits)
    x = rows()
    if kind == "adaptive":
        quantizer = AdaptiveLogQuantizer(bits)
    if kind == "shifted":
        quantizer, x = ShiftedLogQuantizer(bits, PercentileRange(ACTIVATION_PERCENTILES)), gelu_values()
    quantizer.fit(x)
    return quantizer, x


@pytest.mark.parametrize("kind", ["tail", "adaptive", "shifted"])
def test_at_the_start_values_are_those_of_the_fitted_quantizer(kind: str) -> None:
    start, x = fitted_log(kind)
    expected, codes = start(x), start.quantize(x)
    learned = LearnedScaleQuantizer(start)
    assert torch.equal(learned(x), expected)
    assert torch.equal(learned.quantize(x), codes)
    assert torch.equal(learned.dequantize(codes), start.dequantize(codes))


@pytest.mark.parametrize(("kind", "shift"), [("tail", 0.0), ("adaptive", 0.0), ("shifted", GELU_SHIFT)])
@pytest.mark.parametrize("factor", [1.0, 0.6])
def test_the_gradients_are_those_of_a_grid_that_stretches(kind: str, shift: float, factor: float) -> None:
    """s f(v) - c with f(v) = (v - v) + codes' values, v detached where clipped: autograd does the rest, in float64."""
    start, x = fitted_log(kind)
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
    size = (x.numel() * start.codes[-1]) ** 0.5
    assert learned.scale.grad.item() * size == pytest.approx(scale.grad.item(), rel=1e-3)


def test_a_stretched_tail_keeps_its_ratio_and_a_frozen_quantizer_says_that_it_was_learned() -> None:
    start, x = fitted_log("tail")
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
