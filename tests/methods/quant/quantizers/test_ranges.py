"""Range searches against closed forms, brute force and full sorts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_models import Array, affine, double
from torch import Tensor

from methods.quant.quantizers.ranges import (
    ACTIVATION_PERCENTILES,
    WEIGHT_PERCENTILES,
    FakeQuantize,
    MinMaxRange,
    OffsetGrid,
    PercentileRange,
    _largest,
    asymmetric_grid,
    finite,
    symmetric_grid,
)


def log2(levels: int) -> FakeQuantize:
    return lambda values, scale: scale * (values / scale).log2().round().clamp(-levels, 0).exp2()


def test_min_max_closed_form_asymmetric() -> None:
    rows = torch.tensor([[-1.0, 3.0, 0.5], [2.0, 5.0, 3.0], [-4.0, -2.0, -3.0]])
    scale, zero = MinMaxRange()(rows, asymmetric_grid(4))
    assert scale.tolist() == pytest.approx([4 / 15, 5 / 15, 4 / 15])
    assert zero.tolist() == [4.0, 0.0, 15.0]


def test_min_max_closed_form_symmetric() -> None:
    rows = torch.tensor([[-1.0, 3.0], [2.0, 5.0], [-4.0, -2.0], [0.0, 0.0]])
    scale, zero = MinMaxRange()(rows, symmetric_grid(4))
    assert scale.tolist() == pytest.approx([6 / 15, 10 / 15, 8 / 15, 1.0])
    assert zero.tolist() == [0.0] * 4


def test_min_max_upper_is_the_maximum() -> None:
    assert MinMaxRange().upper(torch.tensor([0.1, 0.7, 0.2]), log2(15)).item() == pytest.approx(0.7)


def heavy_rows(count: int, length: int, seed: int) -> Tensor:
    """Rows from light to very heavy tails, some one-sided, so that they prefer different clips."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn((count, length), generator=generator)
    power = torch.linspace(0.2, 4.0, count)[:, None]
    rows = normal.sign() * normal.abs() ** power
    rows[::3] = rows[::3].abs()
    return rows


def best_clip(row: Array, bits: int, percentiles: tuple[float, ...]) -> tuple[float, float, float]:
    """Return (percentile, scale, zero point) of least squared error, by trying all."""
    found = []
    for percentile in percentiles:
        low = float(np.quantile(row, 1 - percentile, method="nearest"))
        high = float(np.quantile(row, percentile, method="nearest"))
        values, scale, zero = affine(row, low, high, bits)
        found.append((sum((values - row) ** 2), percentile, scale, zero))
    _, percentile, scale, zero = min(found)
    return percentile, scale, zero


@pytest.mark.parametrize(
    ("percentiles", "length", "distinct"), [(WEIGHT_PERCENTILES, 771, 4), (ACTIVATION_PERCENTILES, 12_345, 2)]
)
def test_percentile_search_equals_brute_force(percentiles: tuple[float, ...], length: int, distinct: int) -> None:
    rows = heavy_rows(12, length, seed=5)
    chosen = set()
    for bits in (2, 4, 6):
        scale, zero = PercentileRange(percentiles)(rows, asymmetric_grid(bits))
        expected = [best_clip(row, bits, percentiles) for row in double(rows)]
        assert scale.tolist() == pytest.approx([s for _, s, _ in expected], rel=1e-5)
        assert zero.tolist() == [z for _, _, z in expected]
        chosen |= {percentile for percentile, _, _ in expected}
    assert len(chosen) >= distinct


def test_percentile_upper_equals_brute_force() -> None:
    generator = torch.Generator().manual_seed(2)
    chosen = set()
    for spread in (0.5, 2.0, 4.0, 6.0):
        values = (spread * torch.randn(12_345, generator=generator)).exp()
        values = values / values.max()
        errors = {}
        for percentile in ACTIVATION_PERCENTILES:
            scale = float(np.quantile(double(values), percentile, method="nearest"))
            exponent = np.clip(np.round(-np.log2(double(values) / scale)), 0, 7)
            errors[scale] = float(((scale * 2.0**-exponent - double(values)) ** 2).mean())
        expected = min(errors, key=lambda scale: errors[scale])
        chosen.add(sorted(errors).index(expected))
        found = PercentileRange(ACTIVATION_PERCENTILES).upper(values, log2(7))
        assert found.item() == pytest.approx(expected, rel=1e-6)
    assert len(chosen) >= 2


def test_percentile_search_on_zero_rows_maps_zero_to_zero() -> None:
    search = PercentileRange(WEIGHT_PERCENTILES)
    scale, zero = search(torch.zeros(2, 50), asymmetric_grid(4))
    assert (scale.tolist(), zero.tolist()) == ([1.0, 1.0], [0.0, 0.0])
    assert search.upper(torch.zeros(50), log2(15)).item() == 1.0


def long_row(kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    row = torch.randn(250_007, generator=generator)
    if kind == "ties":
        return (row * 4).round() / 4
    if kind == "equal":
        return torch.full_like(row, -2.5)
    if kind == "sampled high":  # the strided sample sees nothing but the largest values: too high a bound
        row[::5] += 100
    if kind == "sampled low":  # the strided sample sees none of the largest values
        row[1::5] += 100
    return row


@pytest.mark.parametrize("kind", ["normal", "ties", "equal", "sampled high", "sampled low"])
@pytest.mark.parametrize("keep", [1, 26, 251, 60_000])
def test_largest_of_a_long_row_equals_a_full_sort(kind: str, keep: int) -> None:
    row = long_row(kind)
    expected = np.sort(row.numpy())[::-1][:keep]
    found = _largest(row[None], keep)
    assert found.shape == (1, keep)
    assert np.array_equal(found[0].numpy(), expected)


def test_largest_of_several_rows_sorts_each() -> None:
    rows = torch.tensor([[3.0, 1.0, 2.0], [-1.0, 5.0, 5.0]])
    assert _largest(rows, 2).tolist() == [[3.0, 2.0], [5.0, 5.0]]


def test_search_over_a_long_tensor_takes_the_exact_order_statistics() -> None:
    row = long_row("normal")
    scale, zero = PercentileRange((0.999,))(row[None], asymmetric_grid(4))
    low = float(np.quantile(double(row), 0.001, method="nearest"))
    high = float(np.quantile(double(row), 0.999, method="nearest"))
    assert scale.item() == pytest.approx((high - low) / 15, rel=1e-6)
    assert zero.item() == round(-low / ((high - low) / 15))
    assert math.isclose(low, -3.09, abs_tol=0.05)


def test_offset_grid_closed_form_and_constant_rows() -> None:
    rows = torch.tensor([[-1.0, 3.0, 0.5], [7.0, 7.0, 7.0], [10.0, 12.0, 11.0], [0.0, 0.0, 0.0]])
    scale, offset = MinMaxRange()(rows, OffsetGrid(15))
    assert scale.tolist() == pytest.approx([4 / 15, 3 / 15, 2 / 15, 3 / 15])
    assert offset.tolist() == [-1.0, 7.0, 10.0, 0.0]
    assert MinMaxRange()(rows[1::2], OffsetGrid(15))[0].tolist() == [1.0, 1.0]


def test_percentile_search_on_the_offset_grid_equals_brute_force() -> None:
    rows = heavy_rows(12, 4_321, seed=8) + torch.linspace(-9, 9, 12)[:, None]
    scale, offset = PercentileRange(ACTIVATION_PERCENTILES)(rows, OffsetGrid(7))
    chosen = set()
    for row, found_scale, found_offset in zip(double(rows), scale.tolist(), offset.tolist(), strict=True):
        errors = {}
        for p in ACTIVATION_PERCENTILES:
            low, high = (float(np.quantile(row, share, method="nearest")) for share in (1 - p, p))
            step = (high - low) / 7
            values = np.clip(np.round((row - low) / step), 0, 7) * step + low
            errors[p] = (float(((values - row) ** 2).mean()), step, low)
        best = min(errors, key=lambda p: errors[p][0])
        chosen.add(best)
        assert (found_scale, found_offset) == pytest.approx(errors[best][1:], rel=1e-5)
    assert len(chosen) >= 2


def test_ranges_are_those_of_the_finite_values() -> None:
    inf, nan = math.inf, math.nan
    rows = torch.tensor([[-2.0, inf, 3.0, nan], [-inf, 4.0, nan, 5.0], [inf, nan, -inf, inf], [1.0, -1.0, 0.5, 2.0]])
    cleaned = [[-2.0, 3.0, 3.0, 0.0], [4.0, 4.0, 4.0, 5.0], [0.0] * 4, [1.0, -1.0, 0.5, 2.0]]
    assert finite(rows).tolist() == cleaned
    assert finite(rows[3:]).data_ptr() == rows[3:].data_ptr()
    for search in (MinMaxRange(), PercentileRange(ACTIVATION_PERCENTILES)):
        for found, expected in zip(
            search(rows, OffsetGrid(3)), search(torch.tensor(cleaned), OffsetGrid(3)), strict=True
        ):
            assert torch.equal(found, expected)
        assert search.upper(torch.tensor([0.2, inf, 0.9, nan]), log2(15)).item() == pytest.approx(0.9)
