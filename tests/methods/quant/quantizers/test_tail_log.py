"""Logarithmic quantizers: with a tail or zero for softmax, shifted for GELU. Slow loops, properties, gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import WIDE, tiny_swin, tiny_vit
from torch import nn

from methods.backends.best import Best, BestConfig
from methods.bits import Bits
from methods.contracts import QuantizationContext
from methods.models.trace import trace
from methods.quant.insert import quantized_layers
from methods.quant.quantizers.logarithmic import RATES, Log2Quantizer, LogSqrt2Quantizer
from methods.quant.quantizers.ranges import MinMaxRange
from methods.quant.quantizers.shifted_log import ShiftedLogQuantizer
from methods.quant.quantizers.tail_log import AdaptiveLogQuantizer, TailLogQuantizer
from methods.quant.quantizers.uniform import UniformQuantizer

LOGITS = torch.randn((40, 65), generator=torch.Generator().manual_seed(0)) * 2
ROWS = LOGITS.softmax(-1)


KINDS = [TailLogQuantizer, AdaptiveLogQuantizer]


def fitted(bits: int, x: torch.Tensor, kind: type[TailLogQuantizer] = TailLogQuantizer) -> TailLogQuantizer:
    """Return a quantizer fitted to x."""
    quantizer = kind(bits)
    quantizer.fit(x)
    return quantizer


def last_of(kind: type[TailLogQuantizer], bits: int) -> int:
    """Return the last code: AdaLog has zero on top of 2^b powers; 2^-126 is the last power a float holds."""
    return min((1 << bits) - (kind is TailLogQuantizer), 126)


def code_of(value: float, scale: float, rate: int, last: int) -> int:
    """Return a value's code by a logarithm."""
    return last if value <= 0 else min(max(round(-rate * math.log2(value / scale)), 0), last)


def slow(
    rows: list[list[float]], scale: float, rate: int, last: int, kind: type[TailLogQuantizer] = TailLogQuantizer
) -> list[list[float]]:
    """Return rows on the grid, value by value, the last code being the mean of what has it, or zero."""
    codes = [[code_of(value, scale, rate, last) for value in row] for row in rows]
    tail = [v for row, of in zip(rows, codes, strict=True) for v, code in zip(row, of, strict=True) if code == last]
    mean = sum(tail) / max(1, len(tail)) if kind is TailLogQuantizer else 0.0
    return [[mean if code == last else scale * 2.0 ** (-code / rate) for code in row] for row in codes]


def cost(rows: list[list[float]], rounded: list[list[float]]) -> float:
    """Return the squared errors of values and of row sums."""
    errors = [[a - b for a, b in zip(*pair, strict=True)] for pair in zip(rounded, rows, strict=True)]
    return sum(sum(e * e for e in row) + sum(row) ** 2 for row in errors)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_values_equal_a_loop(bits: int, kind: type[TailLogQuantizer]) -> None:
    quantizer = fitted(bits, ROWS, kind)
    scale, rate, last = quantizer.scale.item(), int(quantizer.rate), last_of(kind, bits)
    expected = slow(ROWS.tolist(), scale, rate, last, kind)
    assert quantizer(ROWS).tolist() == [pytest.approx(row, rel=1e-5) for row in expected]
    codes = quantizer.quantize(ROWS)
    assert codes.tolist() == [[code_of(value, scale, rate, last) for value in row] for row in ROWS.tolist()]
    assert torch.allclose(quantizer.dequantize(codes), quantizer(ROWS), rtol=1e-5)
    assert quantizer.codes == range(last + 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [2, 4])
def test_rate_and_scale_cost_least(bits: int, kind: type[TailLogQuantizer]) -> None:
    few = ROWS[:6, :12]
    quantizer, rows, last = fitted(bits, few, kind), few.double().tolist(), last_of(kind, bits)
    tried = [(few.max().item() * 2.0 ** (-k / 4), rate) for rate in RATES for k in range(25)]
    costs = [cost(rows, slow(rows, scale, rate, last, kind)) for scale, rate in tried]
    found = cost(rows, slow(rows, quantizer.scale.item(), int(quantizer.rate), last, kind))
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


GENERATOR = torch.Generator().manual_seed(0)
GELU = nn.functional.gelu(torch.randn(4000, generator=GENERATOR) ** 3)


def slow_shifted(value: float, scale: float, rate: float, levels: int) -> float:
    """Return the value on the grid, one step at a time."""
    shifted = max(0.0, value + 0.17)
    code = levels if shifted == 0 else min(max(round(-rate * math.log2(shifted / scale)), 0), levels)
    return float(scale * 2.0 ** (-code / rate) - 0.17)


def last_code(bits: int) -> int:
    """Return where the grid ends: 2^-126 is the last power a float holds."""
    return min((1 << bits) - 1, 126)


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_shifted_values_equal_a_loop(bits: int) -> None:
    quantizer = ShiftedLogQuantizer(bits, MinMaxRange())
    quantizer.fit(GELU)
    scale, rate = quantizer.scale.item(), quantizer.rate.item()
    assert scale == pytest.approx(GELU.max().item() + 0.17)
    x = torch.cat([GELU[:500], torch.tensor([-1.0, -0.17, 0.0, 99.0])])
    expected = [slow_shifted(value, scale, rate, last_code(bits)) for value in x.tolist()]
    assert len(set(expected)) > min(2**bits, 12) // 2
    assert quantizer(x).tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    codes = quantizer.quantize(x)
    assert quantizer.dequantize(codes).tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert (codes.min().item(), codes.max().item()) == (quantizer.codes[0], quantizer.codes[-1])


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_the_rate_is_the_one_of_least_squared_error(bits: int) -> None:
    quantizer = ShiftedLogQuantizer(bits, MinMaxRange())
    quantizer.fit(GELU)
    scale = GELU.max().item() + 0.17
    errors = {
        rate: sum((slow_shifted(v, scale, rate, last_code(bits)) - v) ** 2 for v in GELU.tolist()) for rate in RATES
    }
    assert quantizer.rate.item() == min(errors, key=lambda rate: errors[rate])


def test_four_bits_err_less_behind_a_gelu_than_uniform_ones() -> None:
    quantizers = ShiftedLogQuantizer(4, MinMaxRange()), UniformQuantizer(4, MinMaxRange())
    errors = []
    for quantizer in quantizers:
        quantizer.fit(GELU)
        errors.append(float((quantizer(GELU) - GELU).square().mean()))
    assert errors[0] < 0.8 * errors[1]


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.lists(st.floats(-0.125, 50, width=32), min_size=2, max_size=40), st.integers(2, 8))
def test_shifted_rounding_is_monotone_and_changes_nothing_twice(values: list[float], bits: int) -> None:
    x = torch.tensor(values).sort().values
    quantizer = ShiftedLogQuantizer(bits, MinMaxRange())
    quantizer.fit(x)
    once = quantizer(x)
    assert (once.diff() >= 0).all()
    assert torch.allclose(quantizer(once), once, rtol=1e-4, atol=1e-5)


def test_gradients_pass_inside_the_range_alone() -> None:
    quantizer = ShiftedLogQuantizer(2, MinMaxRange())
    quantizer.fit(torch.tensor([0.0, 0.83]))
    assert quantizer.scale.item() == pytest.approx(1.0)
    rate = quantizer.rate.item()
    inside = [2.0 ** (-1 / rate) - 0.17, 2.0 ** (-3 / rate) - 0.17]
    x = torch.tensor([-0.17, *inside, 5.0], requires_grad=True)
    quantizer(x).backward(torch.arange(1.0, 5.0))
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 2.0, 3.0, 0.0]


def test_layers_behind_a_gelu_are_the_second_of_each_mlp() -> None:
    assert trace(tiny_vit()).activated == {f"blocks.{i}.mlp.fc2" for i in range(len(tiny_vit().blocks))}
    assert all(name.endswith("mlp.fc2") for name in trace(tiny_swin()).activated)
    relu = tiny_vit()
    relu.blocks[0].mlp.act = nn.ReLU()
    assert "blocks.0.mlp.fc2" not in trace(relu).activated


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
def test_best_puts_each_grid_in_its_place(build: Callable[[], nn.Module]) -> None:
    model = build()
    images = torch.randn((4, 3, 16, 16), generator=torch.Generator().manual_seed(1))
    context = QuantizationContext(torch.Generator().manual_seed(0), WIDE)
    quantized = Best().quantize(model, images, Bits(4, 4), BestConfig(iterations=1), context)
    logarithmic = {name for name, q in quantized_layers(quantized) if isinstance(q.inputs, ShiftedLogQuantizer)}
    assert logarithmic == trace(model).activated
    softmax = [module for module in quantized.modules() if isinstance(module, TailLogQuantizer)]
    assert {len(module.codes) for module in softmax} == {16}


def test_strict_attention_keeps_to_its_bits() -> None:
    quantizer = LogSqrt2Quantizer(2, MinMaxRange(), strict=True)
    quantizer.fit(torch.tensor([0.1, 1.0]))
    x = torch.tensor([1.0, 0.7, 0.5, 0.36, 0.3, 0.0])
    assert quantizer.quantize(x).tolist() == [0, 1, 2, 3, 3, 3]
    assert quantizer(x).tolist() == pytest.approx([1.0, 2**-0.5, 0.5, 0.0, 0.0, 0.0])
