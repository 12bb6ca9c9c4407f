"""Uniform and log2 quantizers: properties on arbitrary values, hand-computed cases, gradients."""

from __future__ import annotations

import math

import pytest
import tiny_models  # noqa: F401  (one thread)
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.quant.quantizers import Log2Quantizer, UniformQuantizer
from methods.quant.ranges import MinMaxRange

PROPERTY = settings(deadline=None, max_examples=50, derandomize=True)
FLOATS = st.floats(-100, 100, width=32, allow_subnormal=False)
VALUES = st.lists(FLOATS, min_size=2, max_size=40)
SHARES = st.lists(st.floats(2.0**-60, 1, width=32), min_size=2, max_size=40)
BITS = st.integers(2, 8)


def uniform(values: Tensor, bits: int, symmetric: bool = False, axis: int | None = None) -> UniformQuantizer:
    quantizer = UniformQuantizer(bits, MinMaxRange(), axis=axis, symmetric=symmetric)
    quantizer.fit(values)
    return quantizer


@PROPERTY
@given(VALUES, BITS, st.booleans())
def test_uniform_error_is_at_most_half_a_step_within_the_range(values: list[float], bits: int, sym: bool) -> None:
    x = torch.tensor(values)
    quantizer = uniform(x, bits, sym)
    error = (quantizer(x).double() - x.double()).abs().max().item()
    assert error <= quantizer.scale.item() * (0.5 + 1e-4)


@PROPERTY
@given(VALUES, VALUES, BITS, st.booleans())
def test_uniform_values_are_integers_of_the_grid(fit: list[float], seen: list[float], bits: int, sym: bool) -> None:
    quantizer = uniform(torch.tensor(fit), bits, sym)
    steps = quantizer(torch.tensor(seen)).double() / quantizer.scale.double() + quantizer.zero_point.double()
    assert (steps - steps.round()).abs().max().item() < 1e-4
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if sym else (0, 2**bits - 1)
    assert steps.round().min().item() >= low
    assert steps.round().max().item() <= high


@PROPERTY
@given(VALUES, VALUES, BITS, st.booleans())
def test_uniform_is_idempotent_and_monotone(fit: list[float], seen: list[float], bits: int, sym: bool) -> None:
    quantizer = uniform(torch.tensor(fit), bits, sym)
    once = quantizer(torch.tensor(seen).sort().values)
    assert torch.equal(quantizer(once), once)
    assert (once.diff() >= 0).all()


@PROPERTY
@given(VALUES, BITS, st.booleans())
def test_uniform_keeps_zero_exactly(values: list[float], bits: int, sym: bool) -> None:
    assert uniform(torch.tensor(values), bits, sym)(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]


def test_asymmetric_by_hand() -> None:
    quantizer = uniform(torch.tensor([-1.0, 2.0]), bits=2)
    assert (quantizer.scale.item(), quantizer.zero_point.item()) == (1.0, 1.0)
    x = torch.tensor([-5.0, -0.6, -0.4, 0.4, 0.6, 1.6, 7.0])
    assert quantizer(x).tolist() == [-1.0, -1.0, 0.0, 0.0, 1.0, 2.0, 2.0]


def test_symmetric_by_hand() -> None:
    quantizer = uniform(torch.tensor([-1.0, 3.5]), bits=3, symmetric=True)
    assert (quantizer.scale.item(), quantizer.zero_point.item()) == (1.0, 0.0)
    x = torch.tensor([-9.0, -3.5, -2.6, 0.4, 2.5, 3.5, 9.0])
    assert quantizer(x).tolist() == [-4.0, -4.0, -3.0, 0.0, 2.0, 3.0, 3.0]


def test_uniform_gradient_is_one_inside_and_zero_outside() -> None:
    quantizer = uniform(torch.tensor([-1.0, 2.0]), bits=2)
    x = torch.tensor([-5.0, -1.6, -1.4, 0.2, 0.5, 2.4, 2.6], requires_grad=True)
    upstream = torch.tensor([3.0, 5.0, 7.0, -11.0, 13.0, 17.0, 19.0])
    y = quantizer(x)
    y.backward(upstream)
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 0.0, 7.0, -11.0, 13.0, 17.0, 0.0]
    assert torch.equal(y.detach(), quantizer(x.detach()))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_per_channel_equals_a_loop_over_channels(axis: int, symmetric: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn((3, 4, 5), generator=generator) * torch.tensor([0.1, 1.0, 3.0, 20.0])[:, None]
    together = uniform(x, 4, symmetric, axis)(x)
    for channel in range(x.shape[axis]):
        part = x.select(axis, channel)
        assert torch.equal(together.select(axis, channel), uniform(part, 4, symmetric)(part))


@pytest.mark.parametrize("symmetric", [True, False])
def test_zero_and_constant_channels(symmetric: bool) -> None:
    x = torch.tensor([[0.0] * 4, [3.0] * 4, [-3.0] * 4, [1e-30] * 4])
    quantizer = uniform(x, 4, symmetric, axis=0)
    y = quantizer(x)
    assert quantizer.scale[0].item() == 1.0
    assert y[0].tolist() == [0.0] * 4
    step = 0.4 if symmetric else 0.2
    assert quantizer.scale[1].item() == pytest.approx(step, rel=1e-6)
    assert y[1].tolist() == pytest.approx([2.8 if symmetric else 3.0] * 4, rel=1e-6)
    assert y[2].tolist() == pytest.approx([-3.2 if symmetric else -3.0] * 4, rel=1e-6)
    assert y[3].tolist() == pytest.approx([1e-30 * (14 / 15 if symmetric else 1)] * 4, rel=1e-5, abs=0)


def test_observing_fits_the_range_and_passes_the_input_on() -> None:
    quantizer = UniformQuantizer(2, MinMaxRange())
    x = torch.tensor([-2.0, 0.3, 4.0])
    quantizer.observing = True
    assert quantizer(x) is x
    quantizer.observing = False
    assert (quantizer.scale.item(), quantizer.zero_point.item()) == (2.0, 1.0)
    assert quantizer(x).tolist() == [-2.0, 0.0, 4.0]


def log2_slow(value: float, scale: float, levels: int) -> float:
    exponent = levels if value == 0 else min(max(round(-math.log2(value / scale)), 0), levels)
    return float(scale * 2.0**-exponent)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_log2_equals_a_loop(bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    x = torch.cat([(2.5 * torch.randn(500, generator=generator)).softmax(0), torch.tensor([0.0, 1.0, 3.0])])
    quantizer = Log2Quantizer(bits, MinMaxRange())
    quantizer.fit(x[:500])
    assert quantizer.scale.item() == x[:500].max().item()
    expected = [log2_slow(value, quantizer.scale.item(), 2**bits - 1) for value in x.tolist()]
    assert len(set(expected)) >= min(2**bits, 12)
    assert quantizer(x).tolist() == pytest.approx(expected, rel=1e-5, abs=1e-44)


def test_log2_by_hand_and_zero_becomes_the_smallest_value() -> None:
    quantizer = Log2Quantizer(2, MinMaxRange())
    quantizer.fit(torch.tensor([0.1, 0.8]))
    x = torch.tensor([0.0, 1e-9, 0.11, 0.3, 0.5, 0.7, 0.8, 2.0])
    expected = [0.1, 0.1, 0.1, 0.4, 0.4, 0.8, 0.8, 0.8]
    assert quantizer(x).tolist() == pytest.approx(expected, rel=1e-6)


def test_log2_gradient_is_zero_where_the_exponent_is_clipped() -> None:
    quantizer = Log2Quantizer(2, MinMaxRange())
    quantizer.fit(torch.tensor([1.0]))
    x = torch.tensor([0.0, 0.05, 0.12, 0.3, 0.9, 1.3, 1.5, 4.0], requires_grad=True)
    upstream = torch.arange(1.0, 9.0)
    y = quantizer(x)
    y.backward(upstream)
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 0.0, 3.0, 4.0, 5.0, 6.0, 0.0, 0.0]
    assert torch.equal(y.detach(), quantizer(x.detach()))


@PROPERTY
@given(SHARES, BITS)
def test_log2_is_within_a_factor_of_root_two_and_idempotent_and_monotone(values: list[float], bits: int) -> None:
    x = torch.tensor(values).sort().values
    quantizer = Log2Quantizer(bits, MinMaxRange())
    quantizer.fit(x)
    y = quantizer(x)
    smallest = quantizer.scale.item() * 2.0 ** -(2**bits - 1)
    ratio = (y / x)[x >= smallest]
    assert ratio.max().item() <= math.sqrt(2) * (1 + 1e-5)
    assert ratio.min().item() >= math.sqrt(0.5) * (1 - 1e-5)
    assert torch.equal(quantizer(y), y)
    assert (y.diff() >= 0).all()


def test_log2_of_all_zeros_is_finite() -> None:
    quantizer = Log2Quantizer(3, MinMaxRange())
    quantizer.fit(torch.zeros(4))
    assert quantizer.scale.item() == 1.0
    assert quantizer(torch.zeros(4)).tolist() == [2.0**-7] * 4


def test_descriptions_name_grid_granularity_and_search() -> None:
    search = MinMaxRange()
    assert UniformQuantizer(4, search).describe() == "uniform asymmetric per tensor, min-max"
    assert UniformQuantizer(4, search, 0, symmetric=True).describe() == "uniform symmetric per channel, min-max"
    assert Log2Quantizer(4, search).describe() == "log2 per tensor, min-max"
