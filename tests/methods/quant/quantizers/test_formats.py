"""Published number formats against every value they have, enumerated from hand-written tables and definitions."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import WIDE, double, noise, tiny_swin, tiny_vit
from torch import Tensor

from methods.backends.blockwise import Blockwise, BlockwiseConfig
from methods.backends.erq import Erq, ErqConfig
from methods.backends.minmax import MinMax, MinMaxConfig
from methods.bits import FORMATS, Bits
from methods.contracts import QuantizationContext
from methods.errors import UsageError
from methods.models.architecture import named_attentions, product_layers
from methods.quant.operations import describe
from methods.quant.quantizers.block_float import FloatQuantizer
from methods.quant.quantizers.floating_point import E2M1, E2M3, E4M3, FloatFormat
from methods.quant.recipe import format_recipe

TABLES = {
    "E2M1": [0, 0.5, 1, 1.5, 2, 3, 4, 6],
    "E2M3": [i / 8 for i in range(16)] + [2 + i / 4 for i in range(8)] + [4 + i / 2 for i in range(8)],
}


def context() -> QuantizationContext:
    return QuantizationContext(torch.Generator().manual_seed(0), WIDE)


def nearest(value: float, table: list[float]) -> float:
    """The value of a table nearest to a magnitude; a tie goes to the even code, its place in the table."""
    place = bisect_left(table, value)
    if place == len(table):
        return table[-1]
    if place == 0 or table[place] == value:
        return table[place]
    below, above = value - table[place - 1], table[place] - value
    return table[place - 1 if below < above or (below == above and place % 2) else place]


@pytest.mark.parametrize("element", [E2M1, E2M3, E4M3])
def test_every_value_and_every_middle_between_two_rounds_as_defined(element: FloatFormat) -> None:
    table = element.values()
    assert len(table) == 2 ** (element.bits - 1) - (element is E4M3)
    assert table == TABLES.get(element.name, table)
    middles = [(a + b) / 2 for a, b in itertools.pairwise(table)]
    near = [m * f for m in middles for f in (1 - 1e-6, 1 + 1e-6)]
    asked = [*table, *middles, *near, table[-1] * 1.5, table[-1] * 100]
    expected = [nearest(float(np.float32(value)), table) for value in asked]
    assert element.round_(torch.tensor(asked)).tolist() == expected
    assert element.round_(-torch.tensor(asked)).tolist() == [-value for value in expected]


def test_e4m3_is_torchs() -> None:
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    assert sorted(set(every[every.isfinite()].abs().tolist())) == E4M3.values()
    x = torch.randn(5000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 2.5, 5000)
    kept = x.abs() < 448
    assert torch.equal(E4M3.round_(x.clone())[kept], x.to(torch.float8_e4m3fn).float()[kept])


def made(name: str, axis: int | None = -1, stored: bool = False) -> Any:
    recipe = format_recipe(name)
    return (
        recipe.weights(0)
        if stored
        else (recipe.values or recipe.activations)(0)
        if axis == -2
        else recipe.activations(0)
    )


def blocks_by_hand(line: list[float], size: int, element: FloatFormat, scale_of: Any) -> list[float]:
    """Round a line block by block, value by value."""
    result = []
    for start in range(0, len(line), size):
        block = line[start : start + size]
        scale = scale_of(max(abs(value) for value in block))
        for value in block:
            magnitude = nearest(abs(value) / scale, element.values()) * scale if scale else 0.0
            result.append(math.copysign(magnitude, value))
    return result


def mx_scale(element: FloatFormat) -> Any:
    highest = {"E2M1": 2, "E2M3": 2, "E4M3": 8}[element.name]
    return lambda most: 2.0 ** (math.floor(math.log2(most)) - highest) if most else 1.0


def wide(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Values over many magnitudes, some zero."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator) * torch.exp2(torch.randint(-12, 4, shape, generator=generator).float())
    return x * (torch.rand(shape, generator=generator) > 0.1)


@pytest.mark.parametrize(("name", "element"), [("mxfp4", E2M1), ("mxfp6", E2M3), ("mxfp8", E4M3)])
def test_mx_blocks_by_hand(name: str, element: FloatFormat) -> None:
    x = wide((3, 70))  # 70 = 32 + 32 + 6
    x[1, 32:64] = 0
    quantizer = made(name)
    quantizer.fit(x)
    expected = [blocks_by_hand(row, 32, element, mx_scale(element)) for row in x.double().tolist()]
    assert quantizer(x).double().tolist() == expected
    across = made(name, axis=-2)
    assert torch.equal(across(x.T.contiguous()[None])[0].T, quantizer(x))


def test_nvfp4_blocks_by_hand() -> None:
    x = wide((3, 40))
    quantizer = made("nvfp4")
    quantizer.fit(x)
    tensor = np.float32(np.float32(x.abs().max().item()) / np.float32(6 * 448))

    def scale_of(most: float) -> float:
        wanted = np.float32(most) / (np.float32(6) * tensor)
        return float(np.float32(nearest(float(wanted), E4M3.values())) * tensor)

    expected = [blocks_by_hand(row, 16, E2M1, scale_of) for row in x.double().tolist()]
    assert quantizer(x).double().numpy() == pytest.approx(np.array(expected), rel=1e-6)


def test_fp8_has_one_scale_and_its_largest_value_is_exact() -> None:
    x = wide((4, 50))
    quantizer = made("fp8")
    quantizer.fit(x)
    scale = float(quantizer.scale)
    expected = [[math.copysign(nearest(abs(v) / scale, E4M3.values()) * scale, v) for v in row] for row in x.tolist()]
    assert quantizer(x).double().numpy() == pytest.approx(np.array(expected), rel=0.07, abs=scale / 500)
    assert quantizer(x).abs().max().item() == pytest.approx(x.abs().max().item(), rel=1e-6)


@pytest.mark.parametrize("name", ["mxfp4", "mxfp6", "mxfp8", "nvfp4", "fp8"])
def test_codes_stand_for_the_values_in_units_of_their_scales(name: str) -> None:
    x = wide((2, 64), seed=3)
    quantizer: FloatQuantizer = made(name)
    quantizer.fit(x)
    codes = quantizer.quantize(x)
    assert int(codes.min()) >= 0
    assert int(codes.max()) < len(quantizer.codes)
    size = 64 if quantizer.block is None else quantizer.block
    scale = quantizer.scales(x.reshape(-1, size)).expand(-1, size if quantizer.block else 1).reshape(-1)
    scale = scale.expand(x.numel()) if quantizer.block is None else scale
    values = (quantizer.dequantize(codes).flatten() * scale).nan_to_num(0.0).reshape(x.shape)
    assert torch.equal(values, quantizer(x))


def test_bits_know_every_format_with_the_bits_of_its_element() -> None:
    assert {name: format_recipe(name).weights(0).bits for name in FORMATS} == FORMATS
    bits = Bits.parse("MXFP4")
    assert (bits.weights, bits.activations, str(bits)) == (4, 4, "mxfp4")
    assert str(bits.of("head")) == "mxfp4"
    with pytest.raises(UsageError, match="Unknown number format 'mxfp5'"):
        format_recipe("mxfp5")


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_model_in_a_format(build: Callable[[], Any], name: str) -> None:
    """All operands of all products have it; the head's output by hand; more bits come nearer."""
    model, images = build(), noise(4)
    quantized: Any = MinMax().quantize(model, images, Bits.parse(name), MinMaxConfig(), context())
    rows = describe(quantized)
    assert {row["bits"] for row in rows} == {FORMATS[name]}
    assert len(rows) == 2 * len(product_layers(model)) + 4 * len(named_attentions(model))
    head = quantized.head if build is tiny_vit else quantized.head.fc
    stock: Any = model.head if build is tiny_vit else model.head.fc
    x = torch.randn((3, stock.in_features), generator=torch.Generator().manual_seed(2))
    weights = made(name, axis=None, stored=True)
    weights.fit(stock.weight)
    expected = double(head.inputs(x)) @ double(weights(stock.weight)).T + double(stock.bias)
    assert double(head(x)) == pytest.approx(expected, abs=1e-5)
    error = (quantized(images) - model(images)).square().mean() / model(images).square().mean()
    assert 1e-6 < error.item() < (0.05 if FORMATS[name] > 4 else 0.5)


def test_a_layer_may_have_a_format_of_its_own_and_learning_goes_on() -> None:
    bits = Bits(4, 4, (("head", Bits.parse("mxfp8")),), "mixed")
    config = BlockwiseConfig(iterations=3, rounding="adaround", scales="learned")
    quantized = Blockwise().quantize(tiny_vit(), noise(4), bits, config, context())
    found = {str(row["operation"]): str(row["quantizer"]) for row in describe(quantized)}
    assert [name for name, text in found.items() if text.startswith("MX E4M3")] == ["head weight", "head input"]
    assert not Blockwise().takes_formats(BlockwiseConfig(init="erq"))
    assert not Erq().takes_formats(ErqConfig())


def test_a_convolutions_weight_is_one_line_per_output_and_its_scales_are_counted() -> None:
    weight = wide((4, 3, 5, 5))
    quantizer = made("mxfp4", stored=True)
    quantizer.fit(weight)
    plain = made("mxfp4")
    assert torch.equal(quantizer(weight), plain(weight.flatten(1)).reshape(weight.shape))
    assert quantizer.constants == 3  # 75 values are 3 blocks, 4 outputs: 12 bytes
    plain.fit(weight.flatten(1))
    assert plain.constants == 0  # made anew for every activation
