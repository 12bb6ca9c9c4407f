"""Uniform quantizers: properties on arbitrary values, hand-computed cases, gradients."""

from __future__ import annotations

import pytest
import tiny_models  # noqa: F401  (one thread)
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.quant.quantizers.base import workspace
from methods.quant.quantizers.ranges import MinMaxRange
from methods.quant.quantizers.uniform import OffsetQuantizer, UniformQuantizer

PROPERTY = settings(deadline=None, max_examples=50, derandomize=True)
FLOATS = st.floats(-100, 100, width=32, allow_subnormal=False)
VALUES = st.lists(FLOATS, min_size=2, max_size=40)
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


def offset(values: Tensor, bits: int, axis: int | None = None) -> OffsetQuantizer:
    quantizer = OffsetQuantizer(bits, MinMaxRange(), axis)
    quantizer.fit(values)
    return quantizer


def test_offset_by_hand() -> None:
    quantizer = offset(torch.tensor([10.0, 13.0]), bits=2)
    x = torch.tensor([-5.0, 10.4, 10.6, 12.4, 12.6, 99.0])
    assert quantizer(x).tolist() == [10.0, 10.0, 11.0, 12.0, 13.0, 13.0]
    assert quantizer.quantize(x).tolist() == [0, 0, 1, 2, 3, 3]


@PROPERTY
@given(VALUES, BITS)
def test_offset_error_is_at_most_half_a_step_within_the_range(values: list[float], bits: int) -> None:
    x = torch.tensor(values)
    quantizer = offset(x, bits)
    error = (quantizer(x).double() - x.double()).abs().max().item()
    assert error <= quantizer.scale.item() / 2 * (1 + 1e-4) + 2 * torch.finfo(torch.float32).eps * x.abs().max().item()


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_offset_per_channel_equals_a_loop_over_channels(axis: int) -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn((3, 4, 5), generator=generator) * torch.tensor([0.1, 1.0, 3.0, 20.0])[:, None] + 7
    together = offset(x, 4, axis)(x)
    for channel in range(x.shape[axis]):
        part = x.select(axis, channel)
        assert torch.equal(together.select(axis, channel), offset(part, 4)(part))


def test_offset_keeps_constant_channels_exactly_and_takes_the_step_of_the_others() -> None:
    x = torch.tensor([[0.0, 0.3, 1.0, -3.7], [0.0, 0.3, 4.0, -3.7]])
    quantizer = offset(x, 2, axis=-1)
    assert quantizer.scale.flatten().tolist() == [1.0] * 4
    assert torch.equal(quantizer(x), x)
    constant = offset(torch.full((3, 2), -0.7), 4, axis=-1)
    assert constant.scale.flatten().tolist() == [1.0, 1.0]
    assert torch.equal(constant(torch.full((3, 2), -0.7)), torch.full((3, 2), -0.7))


@pytest.mark.parametrize("axis", [None, 0, -1])
@pytest.mark.parametrize("shape", [(70_000, 1), (3, 40_000), (700, 3, 37), (1, 90_000)])
def test_large_tensors_are_rounded_as_one_chain_rounds_them(shape: tuple[int, ...], axis: int | None) -> None:
    """Bit by bit, whether by parts, in place on a slice, or with a gradient."""
    x = 5 * torch.randn(shape, generator=torch.Generator().manual_seed(8))
    quantizer = uniform(x[..., :30], 4) if axis is None else uniform(x, 4, axis=axis)
    low, high = 0 - quantizer.zero_point, 15 - quantizer.zero_point
    expected = x.div(quantizer.scale).round().clamp(low, high).mul(quantizer.scale)
    assert torch.equal(quantizer(x), expected)
    assert torch.equal(quantizer(x.clone().requires_grad_()).detach(), expected)
    wide = torch.cat([x, x], dim=-1)
    quantizer.fake_quantize_(wide[..., : x.shape[-1]])
    assert torch.equal(wide, torch.cat([expected, x], dim=-1))


def large(seed: int) -> Tensor:
    return torch.randn((3, 40_000), generator=torch.Generator().manual_seed(seed))


def test_a_workspace_uses_memory_again_only_after_its_end() -> None:
    left, right = large(1), large(2).T
    quantizer = uniform(left, 4)
    expected = [quantizer(x) for x in (left, right)]
    places = []
    for _ in range(2):
        with torch.inference_mode(), workspace():
            found = [quantizer(x) for x in (left, right)]
            assert [x.stride() for x in found] == [(40_000, 1), (1, 40_000)]
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
            places.append({x.data_ptr() for x in found})
    assert len(places[0]) == 2
    assert places[0] == places[1]


def test_what_a_quantizer_returns_is_the_callers_outside_inference_mode_and_workspaces() -> None:
    x, y = large(1), large(2)
    quantizer = uniform(x, 4)
    with torch.no_grad(), workspace():
        first = quantizer(x)
    with torch.inference_mode():
        second = quantizer(x)
        with workspace():
            quantizer(y)
        with workspace():
            quantizer(y)
    assert torch.equal(first, second)
    assert torch.equal(first, quantizer(x))
