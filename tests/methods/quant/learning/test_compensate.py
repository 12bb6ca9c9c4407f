"""Affine compensation per channel against least squares, and what it leaves of a layer's roundings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import WIDE, double, noise, tiny_swin, tiny_vit

from methods.backends import blockwise
from methods.bits import Bits
from methods.quant.calibrate import calibrate
from methods.quant.insert import insert_quantizers
from methods.quant.learning.compensate import affine_fit, compensate, scale_outputs
from methods.quant.learning.reconstruct import unit_outputs


def test_gain_and_shift_are_those_of_least_squares() -> None:
    random = np.random.default_rng(0)
    found = random.normal(size=(50, 4))
    wanted = found * [1.3, 0.4, 2.0, 1.0] + [0.1, -3, 0, 2] + 0.2 * random.normal(size=(50, 4))
    gain, shift = affine_fit(torch.from_numpy(found), torch.from_numpy(wanted))
    for channel in range(4):
        rows = np.stack([found[:, channel], np.ones(50)], 1)
        expected = np.linalg.lstsq(rows, wanted[:, channel], rcond=None)[0]
        assert [gain[channel].item(), shift[channel].item()] == pytest.approx(expected, rel=1e-9)


def test_a_constant_channel_or_a_turned_one_is_only_shifted() -> None:
    found = torch.stack([torch.ones(8), torch.arange(8.0)], 1)
    gain, shift = affine_fit(found, torch.stack([torch.full((8,), 3.0), -torch.arange(8.0)], 1))
    assert gain.tolist() == [1, 1]
    assert shift.tolist() == [2, -7]


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
def test_a_block_comes_nearer_and_no_rounding_changes(build: Any) -> None:
    model, images = build(), noise(4)
    quantized = insert_quantizers(model, Bits(3, 3), blockwise.RECIPE, WIDE)
    calibrate(quantized, images)
    [first, second] = [name for name in unit_outputs(model, images) if "blocks" in name][:2]
    x = unit_outputs(model, images)[first]
    plain: Any = model.get_submodule(second)
    unit: Any = quantized.get_submodule(second)
    codes = {
        name: unit.get_submodule(name).weights.quantize(unit.get_submodule(name).layer.weight)
        for name in ("attn.proj", "mlp.fc2")
    }
    before = (unit(x) - plain(x)).square().mean().item()
    compensate(plain, unit, x)
    error = unit(x) - plain(x)
    assert error.square().mean().item() < 0.98 * before
    for name, kept in codes.items():
        layer: Any = unit.get_submodule(name)
        assert (layer.weights.quantize(layer.layer.weight) != kept).float().mean().item() < 0.01  # ties may turn


def test_a_layer_without_bias_gets_one() -> None:
    whole: Any = insert_quantizers(tiny_vit(), Bits(4, 32), blockwise.RECIPE, WIDE)
    quantized = whole.blocks[0].mlp.fc2
    x, gain, shift = (
        noise(2).flatten(1)[:, :128].reshape(4, 64),
        torch.rand(16).double() + 0.5,
        torch.rand(16).double(),
    )
    quantized.layer.bias = None
    before = double(quantized(x))
    scale_outputs(quantized, gain, shift)
    assert double(quantized(x)) == pytest.approx(before * gain.numpy() + shift.numpy(), abs=1e-5)
