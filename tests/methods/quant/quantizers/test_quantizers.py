"""What every quantizer promises, on arbitrary values: codes, round trip, order, gradients, infinities."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import tiny_models  # noqa: F401  (one thread)
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.quant.quantizers.base import Quantizer
from methods.quant.quantizers.logarithmic import Log2Quantizer, LogSqrt2Quantizer
from methods.quant.quantizers.ranges import ACTIVATION_PERCENTILES, MinMaxRange, PercentileRange
from methods.quant.quantizers.shift_uniform_log2 import ShiftUniformLog2Quantizer
from methods.quant.quantizers.uniform import OffsetQuantizer, UniformQuantizer

Make = Callable[[int], Quantizer]
SIGNED: dict[str, Make] = {
    "asymmetric": lambda bits: UniformQuantizer(bits, MinMaxRange()),
    "symmetric": lambda bits: UniformQuantizer(bits, MinMaxRange(), symmetric=True),
    "percentile": lambda bits: UniformQuantizer(bits, PercentileRange(ACTIVATION_PERCENTILES)),
    "offset": lambda bits: OffsetQuantizer(bits, MinMaxRange()),
}
SHARES: dict[str, Make] = {
    "log2": lambda bits: Log2Quantizer(bits, MinMaxRange()),
    "log-sqrt2": lambda bits: LogSqrt2Quantizer(bits, MinMaxRange()),
    "shift-uniform-log2": lambda bits: ShiftUniformLog2Quantizer(bits, MinMaxRange()),
}
ALL = SIGNED | SHARES
KEEPS_ZERO = ("asymmetric", "symmetric", "percentile", "log-sqrt2")
CODES = {"symmetric": (-8, 7), "log-sqrt2": (0, 16)}
PROPERTY = settings(deadline=None, max_examples=25, derandomize=True)
BITS = st.integers(2, 8)
LISTS = st.lists(st.floats(-100, 100, width=32, allow_subnormal=False), min_size=2, max_size=30)


def values(name: str, numbers: list[float]) -> Tensor:
    """Return the numbers, or for quantizers of shares, their magnitudes over 100."""
    x = torch.tensor(numbers)
    return x if name in SIGNED else x.abs() / 100


def fitted(name: str, numbers: list[float], bits: int) -> Quantizer:
    quantizer = ALL[name](bits)
    quantizer.fit(values(name, numbers))
    return quantizer


@pytest.mark.parametrize("name", ALL)
@PROPERTY
@given(LISTS, LISTS, BITS)
def test_forward_is_the_round_trip_over_the_stated_codes(
    name: str, fit: list[float], seen: list[float], bits: int
) -> None:
    quantizer, x = fitted(name, fit, bits), values(name, seen)
    codes = quantizer.quantize(x)
    assert codes.dtype == torch.int32
    assert set(codes.tolist()) <= set(quantizer.codes)
    assert quantizer(x).tolist() == pytest.approx(quantizer.dequantize(codes).tolist(), rel=1e-6, abs=1e-37)


@pytest.mark.parametrize("name", ALL)
@PROPERTY
@given(LISTS, LISTS, BITS)
def test_idempotent_and_monotone(name: str, fit: list[float], seen: list[float], bits: int) -> None:
    quantizer = fitted(name, fit, bits)
    once = quantizer(values(name, seen).sort().values)
    assert (once.diff() >= 0).all()
    assert quantizer(once).tolist() == pytest.approx(once.tolist(), rel=1e-6)


@pytest.mark.parametrize("name", KEEPS_ZERO)
@PROPERTY
@given(LISTS, BITS)
def test_zero_is_exact(name: str, fit: list[float], bits: int) -> None:
    assert fitted(name, fit, bits)(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("name", ALL)
@PROPERTY
@given(LISTS, LISTS, BITS)
def test_every_value_goes_to_the_nearest_code_around_it(
    name: str, fit: list[float], seen: list[float], bits: int
) -> None:
    """Between two neighbours of the grid, a value goes to one of the two; beyond its ends, to the end."""
    quantizer, x = fitted(name, fit, bits), values(name, seen)
    grid = quantizer.dequantize(torch.tensor(list(quantizer.codes), dtype=torch.int32)).unique()
    slack = 1e-5 * grid.abs().max() + 1e-30
    for value, found in zip(x, quantizer(x), strict=True):
        around = torch.stack(
            [
                grid[grid <= value].max() if (grid <= value).any() else grid[0],
                grid[grid >= value].min() if (grid >= value).any() else grid[-1],
            ]
        )
        assert around[0] - slack <= found <= around[1] + slack


@pytest.mark.parametrize("name", ALL)
@PROPERTY
@given(LISTS, LISTS, BITS)
def test_gradients_pass_inside_and_stop_outside(name: str, fit: list[float], seen: list[float], bits: int) -> None:
    quantizer = fitted(name, fit, bits)
    x = values(name, seen).requires_grad_()
    upstream = torch.arange(1.0, len(seen) + 1)
    y = quantizer(x)
    y.backward(upstream)
    assert x.grad is not None
    assert torch.equal(x.grad, torch.where(quantizer.inside(x.detach()), upstream, 0.0))
    assert torch.equal(y.detach(), quantizer(x.detach()))


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_one_within_the_range_and_zero_far_outside(name: str) -> None:
    quantizer = fitted(name, [-100.0, -3.0, 20.0, 100.0], 4)
    grid = quantizer.dequantize(torch.tensor(list(quantizer.codes), dtype=torch.int32))
    low, high = grid[grid > 0].min().item() if name == "log-sqrt2" else grid.min().item(), grid.max().item()
    x = torch.tensor([0.3 * low + 0.7 * high, 0.6 * low + 0.4 * high, 4 * high], requires_grad=True)
    quantizer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("name", ALL)
def test_infinities_count_as_the_ends_of_the_range(name: str) -> None:
    signed = name in SIGNED
    numbers = values(name, [-100.0, -3.0, 20.0, 80.0])
    ends = torch.stack([numbers.max(), numbers.min()])
    infinite = torch.tensor([math.inf, -math.inf]) if signed else torch.stack([torch.tensor(math.inf), ends[1]])
    plain, quantizer = ALL[name](4), ALL[name](4)
    plain.fit(torch.cat([numbers, ends]))
    quantizer.fit(torch.cat([numbers, infinite]))
    grid = plain.dequantize(torch.tensor(list(plain.codes), dtype=torch.int32))
    assert quantizer(infinite)[0].item() == grid.max().item()
    assert torch.equal(quantizer(numbers), plain(numbers))
    if signed:
        assert quantizer(infinite)[1].item() == grid.min().item()


@pytest.mark.parametrize("name", ALL)
def test_codes_are_stated(name: str) -> None:
    low, high = CODES.get(name, (0, 15))
    assert ALL[name](4).codes == range(low, high + 1)


def test_observing_fits_the_range_and_passes_the_input_on() -> None:
    quantizer = UniformQuantizer(2, MinMaxRange())
    x = torch.tensor([-2.0, 0.3, 4.0])
    quantizer.observing = True
    assert quantizer(x) is x
    quantizer.sequential = True
    assert quantizer(x).tolist() == [-2.0, 0.0, 4.0]
    quantizer.observing = quantizer.sequential = False
    assert (quantizer.scale.item(), quantizer.zero_point.item()) == (2.0, 1.0)
    assert quantizer(x).tolist() == [-2.0, 0.0, 4.0]


def test_descriptions_name_grid_granularity_and_search() -> None:
    found = {name: make(4).describe() for name, make in ALL.items()}
    assert found == {
        "asymmetric": "uniform asymmetric per tensor, min-max",
        "symmetric": "uniform symmetric per tensor, min-max",
        "percentile": "uniform asymmetric per tensor, percentile by MSE",
        "offset": "uniform offset per tensor, min-max",
        "log2": "log2 per tensor, min-max",
        "log-sqrt2": "log-sqrt2 per tensor, min-max",
        "shift-uniform-log2": "shift-uniform-log2 per tensor, min-max",
    }
    assert UniformQuantizer(4, MinMaxRange(), 0).describe() == "uniform asymmetric per channel, min-max"
    assert OffsetQuantizer(4, MinMaxRange(), -1).describe() == "uniform offset per channel, min-max"
