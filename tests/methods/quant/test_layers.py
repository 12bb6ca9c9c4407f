"""Quantized layers against references in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import WIDE, Array, affine_minmax, double, noise, symmetric_channels, tiny_swin, tiny_vit
from torch import Tensor, nn

from methods.backends.blockwise import Blockwise, BlockwiseConfig
from methods.bits import Bits
from methods.contracts import QuantizationContext
from methods.models.architecture import attention_modules
from methods.quant.layers import QuantizedLayer
from methods.quant.operations import describe
from methods.quant.quantizers.base import Quantizer
from methods.quant.quantizers.ranges import MinMaxRange
from methods.quant.quantizers.uniform import UniformQuantizer
from methods.quant.recipe import HeadwiseQuantizer


def activation(bits: int) -> UniformQuantizer:
    return UniformQuantizer(bits, MinMaxRange())


def weight(bits: int) -> UniformQuantizer:
    return UniformQuantizer(bits, MinMaxRange(), axis=0, symmetric=True)


def observe(layer: QuantizedLayer, x: Tensor) -> None:
    """Let the activation quantizers of a layer see x."""
    quantizers = [q for q in (layer.inputs, *layer.outputs) if isinstance(q, Quantizer)]
    for quantizer in quantizers:
        quantizer.observing = True
    with torch.no_grad():
        layer(x)
    for quantizer in quantizers:
        quantizer.observing = False


def linear_layer(outputs: int = 6) -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(5, outputs).requires_grad_(False)


X = torch.randn((2, 7, 5), generator=torch.Generator().manual_seed(4))


def test_linear_equals_the_reference() -> None:
    plain = linear_layer()
    w, b = double(plain.weight), double(plain.bias)
    layer = QuantizedLayer(plain, activation(4), weight(3))
    observe(layer, X)
    expected = affine_minmax(double(X), 4) @ symmetric_channels(w, 3).T + b
    assert double(layer(X)) == pytest.approx(expected, abs=1e-5)
    assert np.abs(expected - (double(X) @ w.T + b)).max() > 0.1


def convolve(x: Array, w: Array, b: Array, stride: int, padding: int) -> Array:
    """Convolve [n, C, H, W] with [O, C, k, k] by loops."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    size = (x.shape[-1] - w.shape[-1]) // stride + 1
    result = np.zeros((len(x), len(w), size, size))
    for n, o, i, j in np.ndindex(result.shape):
        top, left = i * stride, j * stride
        patch = x[n, :, top : top + w.shape[-1], left : left + w.shape[-1]]
        result[n, o, i, j] = (patch * w[o]).sum() + b[o]
    return result


@pytest.mark.parametrize(("stride", "padding"), [(2, 0), (1, 1), (3, 2)])
def test_convolution_equals_the_reference(stride: int, padding: int) -> None:
    torch.manual_seed(5)
    plain = nn.Conv2d(3, 4, 2, stride=stride, padding=padding).requires_grad_(False)
    w, b = double(plain.weight), double(plain.bias if plain.bias is not None else torch.zeros(4))
    x = torch.randn((2, 3, 6, 6), generator=torch.Generator().manual_seed(6))
    layer = QuantizedLayer(plain, activation(4), weight(4))
    observe(layer, x)
    expected = convolve(affine_minmax(double(x), 4), symmetric_channels(w, 4), b, stride, padding)
    assert double(layer(x)) == pytest.approx(expected, abs=1e-5)


def test_projection_outputs_are_quantized_slice_by_slice() -> None:
    plain = linear_layer(6)
    with torch.no_grad():  # slices of very different ranges: one scale for all would show
        plain.weight.mul_(torch.tensor([0.01, 0.01, 1.0, 1.0, 30.0, 30.0])[:, None])
        plain.bias.mul_(torch.tensor([0.01, 0.01, 1.0, 1.0, 30.0, 30.0]))
    result = double(X) @ double(plain.weight).T + double(plain.bias)
    layer = QuantizedLayer(plain, None, None, [activation(4) for _ in range(3)])
    observe(layer, X)
    parts = [affine_minmax(part, 4) for part in np.split(result, 3, axis=-1)]
    expected = np.concatenate(parts, axis=-1)
    assert double(layer(X)) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert [len(np.unique(np.round(part, 6))) > 4 for part in parts] == [True] * 3


def test_folding_puts_weights_on_the_grid_and_leaves_outputs_as_they_are() -> None:
    layer = QuantizedLayer(linear_layer(), activation(4), weight(3))
    observe(layer, X)
    original = layer.layer.weight.clone()
    before = layer(X)
    assert torch.equal(layer.layer.weight, original)
    layer.fold()
    assert torch.equal(layer(X), before)
    assert double(layer.layer.weight) == pytest.approx(symmetric_channels(double(original), 3), abs=1e-6)
    assert isinstance(layer.weights, UniformQuantizer)
    steps = layer.layer.weight / layer.weights.scale
    assert (steps - steps.round()).abs().max().item() < 1e-5
    assert set(steps.round().flatten().tolist()) <= {-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0}


def test_a_folded_weight_is_used_as_it_is() -> None:
    layer = QuantizedLayer(linear_layer(), None, weight(3))
    layer.fold()
    with torch.no_grad():
        layer.layer.weight.fill_(0.123)
    expected = 0.123 * double(X).sum(-1, keepdims=True) + double(
        layer.layer.bias if layer.layer.bias is not None else X
    )
    assert double(layer(X)) == pytest.approx(expected, abs=1e-5)


def test_without_quantizers_it_is_the_plain_layer() -> None:
    plain = linear_layer()
    assert torch.equal(QuantizedLayer(plain, None, None)(X), plain(X))


def uniform(bits: int) -> UniformQuantizer:
    return UniformQuantizer(bits, MinMaxRange())


@pytest.mark.parametrize(("shape", "dim"), [((2, 5, 12), -1), ((2, 3, 5, 5), 1)])
def test_every_head_has_the_grid_of_its_own_values(shape: tuple[int, ...], dim: int) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    slices = x.chunk(3, dim=dim)
    slices[1].mul_(10)
    quantizer = HeadwiseQuantizer(uniform, 3, 3, dim)
    for module in quantizer.modules():
        if isinstance(module, Quantizer):
            module.observing = True
    assert torch.equal(quantizer(x), x)
    for module in quantizer.modules():
        if isinstance(module, Quantizer):
            module.observing = False
    for part, found in zip(slices, quantizer(x).chunk(3, dim=dim), strict=True):
        alone = uniform(3)
        alone.fit(part)
        assert torch.equal(found, alone(part))
    assert quantizer.describe() == "uniform asymmetric per tensor, min-max, per head"


@pytest.mark.parametrize("build", [tiny_vit, lambda: tiny_vit(qk_norm=True), tiny_swin])
@pytest.mark.parametrize("scales", ["fixed", "learned"])
def test_operands_of_attention_are_per_head_and_learn(build: Any, scales: str) -> None:
    model, images = build(), noise(4)
    config = BlockwiseConfig(iterations=2, per_head=True, attention="tail_log", scales=scales, drop=0.5)
    quantized = Blockwise().quantize(model, images, Bits(4, 4), config, QuantizationContext(torch.Generator(), WIDE))
    rows = [row for row in describe(quantized) if str(row["operation"]).endswith(("query", "key", "value", "softmax"))]
    attentions = len(attention_modules(model))
    assert len(rows) == 4 * attentions
    assert all(str(row["quantizer"]).endswith("per head") for row in rows)
    single = Blockwise().quantize(
        model,
        images,
        Bits(4, 4),
        BlockwiseConfig(iterations=0, attention="tail_log"),
        QuantizationContext(torch.Generator(), WIDE),
    )
    assert not torch.equal(single(images), quantized(images))
    assert (quantized(images) - model(images)).square().mean() < model(images).square().mean()
