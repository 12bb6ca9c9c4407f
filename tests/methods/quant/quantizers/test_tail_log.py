"""The softmax quantizer with a tail: against slow loops, what it keeps of a row, its properties and its gradient."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.quant.quantizers.exponents import RATES
from methods.quant.quantizers.logarithmic import Log2Quantizer, LogSqrt2Quantizer
from methods.quant.quantizers.ranges import MinMaxRange
from methods.quant.quantizers.tail_log import TailLogQuantizer

LOGITS = torch.randn((40, 65), generator=torch.Generator().manual_seed(0)) * 2
ROWS = LOGITS.softmax(-1)


def fitted(bits: int, x: torch.Tensor) -> TailLogQuantizer:
    """Return a quantizer fitted to x."""
    quantizer = TailLogQuantizer(bits)
    quantizer.fit(x)
    return quantizer


def code_of(value: float, scale: float, rate: int, last: int) -> int:
    """Return a value's code by a logarithm."""
    return last if value <= 0 else min(max(round(-rate * math.log2(value / scale)), 0), last)


def slow(rows: list[list[float]], scale: float, rate: int, last: int) -> list[list[float]]:
    """Return rows on the grid, value by value, the last code being the mean of what has it."""
    codes = [[code_of(value, scale, rate, last) for value in row] for row in rows]
    tail = [v for row, of in zip(rows, codes, strict=True) for v, code in zip(row, of, strict=True) if code == last]
    mean = sum(tail) / max(1, len(tail))
    return [[mean if code == last else scale * 2.0 ** (-code / rate) for code in row] for row in codes]


def cost(rows: list[list[float]], rounded: list[list[float]]) -> float:
    """Return the squared errors of values and of row sums."""
    errors = [[a - b for a, b in zip(*pair, strict=True)] for pair in zip(rounded, rows, strict=True)]
    return sum(sum(e * e for e in row) + sum(row) ** 2 for row in errors)


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_values_equal_a_loop(bits: int) -> None:
    quantizer = fitted(bits, ROWS)
    scale, rate, last = quantizer.scale.item(), int(quantizer.rate), min(2**bits - 1, 126)
    expected = slow(ROWS.tolist(), scale, rate, last)
    assert quantizer(ROWS).tolist() == [pytest.approx(row, rel=1e-5) for row in expected]
    codes = quantizer.quantize(ROWS)
    assert codes.tolist() == [[code_of(value, scale, rate, last) for value in row] for row in ROWS.tolist()]
    assert torch.allclose(quantizer.dequantize(codes), quantizer(ROWS), rtol=1e-5)
    assert quantizer.codes == range(last + 1)


@pytest.mark.parametrize("bits", [2, 4])
def test_rate_and_scale_cost_least(bits: int) -> None:
    few = ROWS[:6, :12]
    quantizer, rows, last = fitted(bits, few), few.double().tolist(), 2**bits - 1
    tried = [(few.max().item() * 2.0 ** (-k / 4), rate) for rate in RATES for k in range(25)]
    costs = [cost(rows, slow(rows, scale, rate, last)) for scale, rate in tried]
    found = cost(rows, slow(rows, quantizer.scale.item(), int(quantizer.rate), last))
    assert found == pytest.approx(min(costs), rel=1e-4)
    assert max(costs) > 2 * min(costs)


def test_three_bits_keep_a_row_that_logarithms_of_least_error_do_not() -> None:
    kept = []
    for quantizer in (TailLogQuantizer(3), LogSqrt2Quantizer(3, MinMaxRange()), Log2Quantizer(3, MinMaxRange())):
        quantizer.fit(ROWS)
        kept.append(float(quantizer(ROWS).sum(-1).mean()))
    assert abs(kept[0] - 1) < 0.03
    assert kept[1] < 0.7
    assert kept[2] > 1.2


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=40), st.integers(2, 8))
def test_rounding_is_monotone_and_changes_nothing_twice(values: list[float], bits: int) -> None:
    x = torch.tensor(values).sort().values
    quantizer = fitted(bits, x)
    once = quantizer(x)
    assert (once.diff() >= 0).all()
    assert torch.allclose(quantizer(once), once, rtol=1e-5, atol=0)


def test_all_zeros_stay_zeros() -> None:
    assert fitted(4, torch.zeros(3, 5))(torch.zeros(3, 5)).abs().max() == 0


def test_gradients_pass_neither_above_the_grid_nor_in_the_tail() -> None:
    quantizer = TailLogQuantizer(2)
    quantizer.tail.fill_(0.1)  # the grid 1, 1/2, 1/4 and 0.1
    x = torch.tensor([2.0, 0.9, 0.3, 0.01], requires_grad=True)
    y = quantizer(x)
    assert y.tolist() == pytest.approx([1.0, 1.0, 0.25, 0.1])
    y.backward(torch.arange(1.0, 5.0))
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 2.0, 3.0, 0.0]
