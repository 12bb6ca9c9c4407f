"""The twin-uniform quantizer by hand and against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models  # noqa: F401  (one thread)
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.quant.twin_uniform import TwinUniformQuantizer

PROPERTY = settings(deadline=None, max_examples=50, derandomize=True)


def test_non_negative_by_hand() -> None:
    quantizer = TwinUniformQuantizer(3)
    quantizer.steps = torch.tensor([0.125, 1.0])  # 0, 1/8, 2/8, 3/8 and 0, 1, 2, 3
    x = torch.tensor([0.0, 0.05, 0.07, 0.375, 0.68, 0.7, 1.4, 2.6, 9.0])
    assert quantizer(x).tolist() == [0.0, 0.0, 0.125, 0.375, 0.375, 1.0, 1.0, 3.0, 3.0]
    assert quantizer.quantize(x).tolist() == [0, 0, 1, 3, 3, 5, 5, 7, 7]


def test_signed_by_hand() -> None:
    quantizer = TwinUniformQuantizer(3, signed=True)
    quantizer.steps = torch.tensor([-0.0625, 0.5])
    x = torch.tensor([-9.0, -0.17, -0.05, -0.03, 0.0, 0.2, 0.3, 1.6])
    assert quantizer(x).tolist() == [-0.1875, -0.1875, -0.0625, 0.0, 0.0, 0.0, 0.5, 1.5]
    assert quantizer.quantize(x).tolist() == [3, 3, 1, 0, 0, 0, 5, 7]


@pytest.mark.parametrize("signed", [False, True])
@PROPERTY
@given(st.lists(st.floats(-50, 50, width=32, allow_subnormal=False), min_size=2, max_size=30), st.integers(2, 8))
def test_error_is_at_most_half_a_step(signed: bool, numbers: list[float], bits: int) -> None:
    x = torch.tensor(numbers) if signed else torch.tensor(numbers).abs()
    quantizer = TwinUniformQuantizer(bits, signed)
    quantizer.fit(x)
    inside = quantizer.inside(x)
    step = torch.where(x < 0, quantizer.steps[0].abs(), quantizer.steps[1])
    assert ((quantizer(x) - x).abs() <= step / 2 * (1 + 1e-4))[inside].all()


@pytest.mark.parametrize("signed", [False, True])
def test_the_shift_is_the_one_of_least_squared_error(signed: bool) -> None:
    generator = torch.Generator().manual_seed(6)
    chosen = set()
    for spread in (0.5, 2.0, 4.0):
        x = spread * torch.randn(3000, generator=generator)
        x = torch.nn.functional.gelu(x) if signed else x.softmax(0)
        a, coarse = x.double().numpy(), x.max().item() / 7
        errors = {}
        for shift in range(-8 if signed else 0, 9):
            fine = coarse * 2.0**-shift
            first = np.clip(np.round(a / (-fine if signed else fine)), 0, 7) * (-fine if signed else fine)
            second = np.clip(np.round(a / coarse), 0, 7) * coarse
            errors[shift] = float((np.minimum(abs(first - a), abs(second - a)) ** 2).mean())
        best = min(errors, key=lambda shift: errors[shift])
        quantizer = TwinUniformQuantizer(4, signed)
        quantizer.fit(x)
        assert quantizer.steps.abs().tolist() == pytest.approx([coarse * 2.0**-best, coarse], rel=1e-6)
        chosen.add(best)
    assert len(chosen) > 1


@pytest.mark.parametrize("signed", [False, True])
def test_all_zeros(signed: bool) -> None:
    quantizer = TwinUniformQuantizer(4, signed)
    quantizer.fit(torch.zeros(5))
    assert quantizer(torch.zeros(5)).tolist() == [0.0] * 5


def test_values_that_are_all_negative() -> None:
    quantizer = TwinUniformQuantizer(4, signed=True)
    x = torch.tensor([-7.0, -3.0, -1.0])
    quantizer.fit(x)
    assert quantizer(x).tolist() == pytest.approx([-7.0, -3.0, -1.0])
