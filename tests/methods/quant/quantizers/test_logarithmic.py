"""Logarithmic quantizers: properties on arbitrary values, hand-computed cases, gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny_models  # noqa: F401  (one thread)
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.quant.quantizers.logarithmic import Log2Quantizer, LogSqrt2Quantizer
from methods.quant.quantizers.ranges import MinMaxRange
from methods.quant.quantizers.shift_uniform_log2 import ETAS, ShiftUniformLog2Quantizer

PROPERTY = settings(deadline=None, max_examples=50, derandomize=True)
SHARES = st.lists(st.floats(2.0**-60, 1, width=32), min_size=2, max_size=40)
BITS = st.integers(2, 8)


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


def sqrt2(values: torch.Tensor, bits: int) -> LogSqrt2Quantizer:
    quantizer = LogSqrt2Quantizer(bits, MinMaxRange())
    quantizer.fit(values)
    return quantizer


def log_sqrt2_slow(value: float, scale: float, bits: int) -> float:
    """RepQ-ViT's formula as printed: shifts, and root two for odd exponents."""
    q = 2**bits if value == 0 else max(round(-2 * math.log2(value / scale)), 0)
    return 0.0 if q >= 2**bits else 2.0 ** -math.ceil(q / 2) * (math.sqrt(2) if q % 2 else 1.0) * scale


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_log_sqrt2_equals_the_printed_formula(bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    x = torch.cat([(2.5 * torch.randn(500, generator=generator)).softmax(0), torch.tensor([0.0, 1.0, 3.0])])
    quantizer = sqrt2(x[:500], bits)
    expected = [log_sqrt2_slow(value, quantizer.scale.item(), bits) for value in x.tolist()]
    assert len(set(expected)) >= min(2**bits, 16)
    assert quantizer(x).tolist() == pytest.approx(expected, rel=1e-5, abs=0)


def test_log_sqrt2_by_hand_and_zero_is_exact() -> None:
    quantizer = sqrt2(torch.tensor([0.1, 0.8]), 2)
    x = torch.tensor([0.0, 0.23, 0.24, 0.33, 0.34, 0.4, 0.47, 0.48, 0.67, 0.68, 2.0])
    root = math.sqrt(2)
    expected = [0.0, 0.0, 0.4 / root, 0.4 / root, 0.4, 0.4, 0.4, 0.8 / root, 0.8 / root, 0.8, 0.8]
    assert quantizer(x).tolist() == pytest.approx(expected, rel=1e-6, abs=0)
    assert quantizer.quantize(x).tolist() == [4, 4, 3, 3, 2, 2, 2, 1, 1, 0, 0]


@PROPERTY
@given(SHARES, BITS)
def test_log_sqrt2_is_within_half_a_step_of_the_exponent(values: list[float], bits: int) -> None:
    x = torch.tensor(values)
    quantizer = sqrt2(x, bits)
    y = quantizer(x)
    smallest = quantizer.scale.item() * 2.0 ** (-(quantizer.zero_code - 0.5) / 2)
    ratio = (y / x)[x > smallest * (1 + 1e-5)]
    assert ratio.max().item() <= 2**0.25 * (1 + 1e-5)
    assert ratio.min().item() >= 2**-0.25 * (1 - 1e-5)
    assert (y[x < smallest * (1 - 1e-5)] == 0).all()


def test_log_sqrt2_gradient_is_zero_where_the_value_is_clipped_or_zero() -> None:
    quantizer = sqrt2(torch.tensor([1.0]), 2)
    x = torch.tensor([0.0, 0.25, 0.31, 0.5, 0.9, 1.15, 1.25, 4.0], requires_grad=True)
    y = quantizer(x)
    y.backward(torch.arange(1.0, 9.0))
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 0.0, 3.0, 4.0, 5.0, 6.0, 0.0, 0.0]
    assert torch.equal(y.detach(), quantizer(x.detach()))


def test_shift_uniform_log2_equals_brute_force_over_the_shifts() -> None:
    generator = torch.Generator().manual_seed(5)
    chosen = set()
    for spread in (0.3, 1.0, 3.0):
        x = (spread * torch.randn((40, 50), generator=generator)).softmax(-1).flatten()
        a = x.double().numpy()
        trials = {}
        for eta in ETAS:
            y = -np.log2(a + eta)
            step = (y.max() - y.min()) / 7
            values = 2.0 ** -np.round(np.round((y - y.min()) / step) * step + y.min()) - eta
            trials[eta] = (float(((values - a) ** 2).mean()), values)
        best = min(trials, key=lambda eta: trials[eta][0])
        quantizer = ShiftUniformLog2Quantizer(3, MinMaxRange())
        quantizer.fit(x)
        assert quantizer.eta.item() == pytest.approx(best)
        assert np.mean(np.isclose(quantizer(x).double().numpy(), trials[best][1], atol=1e-5)) > 0.995
        chosen.add(best)
    assert len(chosen) > 1


def test_shift_uniform_log2_by_hand() -> None:
    quantizer = ShiftUniformLog2Quantizer(2, MinMaxRange())
    quantizer.scale, quantizer.offset, quantizer.eta = torch.tensor(1.5), torch.tensor(0.0), torch.tensor(0.125)
    x = torch.tensor([0.0, 0.04, 0.125, 0.5, 0.9])
    # y = 3, 2.6, 2, 0.68, -0.04; codes 2, 2, 1, 0, 0; exponents 3, 3, 2 (1.5 to even), 0, 0
    assert quantizer.quantize(x).tolist() == [2, 2, 1, 0, 0]
    assert quantizer(x).tolist() == [0.0, 0.0, 0.125, 0.875, 0.875]


def test_all_zeros_are_kept_by_the_grids_that_can() -> None:
    for quantizer in (LogSqrt2Quantizer(3, MinMaxRange()), ShiftUniformLog2Quantizer(3, MinMaxRange())):
        quantizer.fit(torch.zeros(4))
        assert quantizer(torch.zeros(4)).tolist() == [0.0] * 4
