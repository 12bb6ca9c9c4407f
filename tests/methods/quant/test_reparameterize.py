"""Scale reparameterization: the floating-point function stays, and the tensor's grid is the channels' grids."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers import Attention
from timm.models.swin_transformer import SwinTransformer
from tiny_models import WIDE, Array, double, layer_norm, noise, randomized, tiny_distilled, tiny_swin, tiny_vit
from torch import nn

from methods.backends.repq import RECIPE
from methods.bits import Bits
from methods.models.trace import trace
from methods.quant.calibrate import calibrate, observing
from methods.quant.insert import insert_quantizers, quantized_layers
from methods.quant.layers import QuantizedLayer
from methods.quant.quantizers.uniform import OffsetQuantizer, UniformQuantizer
from methods.quant.reparameterize import common_grid, reparameterize

Build = Callable[[], Any]
A4 = Bits(32, 4)


def padded_swin() -> Any:
    """A Swin whose 8x8 map is filled up to 9x9 for windows of 3x3."""
    model = SwinTransformer(
        img_size=16, patch_size=2, num_classes=10, embed_dim=8, depths=(2, 2), num_heads=(2, 4), window_size=3
    )
    return randomized(model)


class GatedAttention(Attention):  # type: ignore[misc]
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, gated=True, **options)


def gated_vit() -> Any:
    return tiny_vit(attn_layer=GatedAttention)


def biasless_vit() -> Any:
    return tiny_vit(qkv_bias=False, norm_layer=partial(nn.LayerNorm, eps=1e-6))


def calibrated(model: Any, bits: Bits = A4) -> Any:
    quantized = insert_quantizers(model, bits, RECIPE, WIDE)
    calibrate(quantized, noise(3))
    return quantized


def test_which_layers_a_norm_feeds() -> None:
    vit = [
        (f"blocks.{i}.{n}", f"blocks.{i}.{m}")
        for i in range(2)
        for n, m in (("norm1", "attn.qkv"), ("norm2", "mlp.fc1"))
    ]
    assert sorted((norm, layer) for layer, norm in trace(tiny_vit()).norms.items()) == sorted(vit)
    swin = set(trace(tiny_swin()).norms)
    assert len(swin) == 9
    assert {"layers.1.downsample.reduction", "layers.0.blocks.1.attn.qkv", "layers.1.blocks.0.mlp.fc1"} <= swin


def test_pairs_that_something_stands_between_are_left_out() -> None:
    assert {layer.split(".")[-1] for layer in trace(padded_swin()).norms} == {"fc1", "reduction"}
    assert sorted(trace(gated_vit()).norms) == ["blocks.0.mlp.fc1", "blocks.1.mlp.fc1"]
    unshifted = tiny_vit(norm_layer=partial(nn.LayerNorm, bias=False))
    assert trace(unshifted).norms == {}


@pytest.mark.parametrize("build", [tiny_vit, tiny_distilled, tiny_swin, padded_swin, gated_vit, biasless_vit])
def test_the_floating_point_function_stays_the_same(build: Build) -> None:
    model, images = build(), noise(2, seed=5)
    quantized = calibrated(model)
    norms = {norm: quantized.get_submodule(norm).weight.clone() for norm in trace(model).norms.values()}
    reparameterize(quantized)
    with torch.no_grad(), observing(quantized):
        found = quantized(images)
    assert (found - model(images)).abs().max().item() <= 1e-4
    for name, weight in norms.items():
        assert (quantized.get_submodule(name).weight - weight).abs().max().item() > 0.01


def test_common_grid_closed_form() -> None:
    scale, offset = torch.tensor([0.5, 1.0, 3.0]), torch.tensor([-2.0, -3.0, -3.0])
    assert [x.item() for x in common_grid(scale, offset, 15)] == [1.5, 3.0]  # zero points 4, 3, 1: mean 2.67
    assert common_grid(scale, offset + 90, 15)[1].item() == 0.0
    assert common_grid(scale, offset - 900, 15)[1].item() == 15.0


def channels(x: Array, scale: Array, offset: Array) -> Array:
    """Quantize the last dimension of x channel by channel to four bits."""
    return np.asarray(np.clip(np.round((x - offset) / scale), 0, 15) * scale + offset)


@pytest.mark.parametrize("pair", [0, 1, 3])
def test_the_tensor_grid_holds_what_the_channel_grids_held(pair: int) -> None:
    """Without weight quantization the reparameterized layer is the channel-wise quantized one, value by value."""
    model = tiny_vit()
    quantized = calibrated(model)
    name, norm_name = sorted(trace(model).norms.items())[pair]
    before: Any = quantized.get_submodule(name).inputs
    scale, offset = double(before.scale).flatten(), double(before.offset).flatten()
    norm, layer = model.get_submodule(norm_name), model.get_submodule(name)
    reparameterize(quantized)
    after: Any = quantized.get_submodule(name)
    assert isinstance(after.inputs, UniformQuantizer)
    assert after.inputs.zero_point.item() in range(16)
    after.outputs = nn.ModuleList()
    x = torch.randn((5, 17, 16), generator=torch.Generator().manual_seed(3))
    expected = channels(layer_norm(double(x), norm), scale, offset) @ double(layer.weight).T + double(layer.bias)
    found = double(after(quantized.get_submodule(norm_name)(x)))
    close = np.isclose(found, expected, atol=1e-4).mean()  # a value at a tie may go either way
    assert close > 0.98
    unquantized = layer_norm(double(x), norm) @ double(layer.weight).T + double(layer.bias)
    assert np.isclose(unquantized, expected, atol=1e-4).mean() < 0.1


def with_constant_channels() -> Any:
    model = tiny_vit()
    with torch.no_grad():
        for norm in (model.blocks[0].norm1, model.blocks[1].norm2):
            norm.weight[3], norm.bias[3] = 0.0, 1.7
            norm.weight[5], norm.bias[5] = 0.0, 0.0
    return model


def test_constant_channels_keep_their_scale_and_are_exact() -> None:
    model, images = with_constant_channels(), noise(2, seed=5)
    quantized = calibrated(model)
    reparameterize(quantized)
    with torch.no_grad(), observing(quantized):
        assert (quantized(images) - model(images)).abs().max().item() <= 1e-4
    quantized = calibrated(model)
    reparameterize(quantized)
    layer, original = quantized.blocks[0].attn.qkv, model.blocks[0].attn.qkv
    norm = quantized.blocks[0].norm1(torch.randn((2, 17, 16), generator=torch.Generator().manual_seed(1)))
    for channel in (3, 5):
        assert torch.allclose(layer.layer.weight[:, channel], original.weight[:, channel])
        assert norm[..., channel].unique().numel() == 1
        assert layer.inputs(norm)[..., channel] == pytest.approx(norm[..., channel], abs=1e-6)
    assert quantized(images).isfinite().all()


def test_weights_are_calibrated_again() -> None:
    quantized = calibrated(tiny_vit(), Bits(4, 4))
    reparameterize(quantized)
    for name, layer in quantized_layers(quantized):
        assert isinstance(layer, QuantizedLayer)
        fresh = RECIPE.weights(4)
        fresh.fit(layer.layer.weight)
        assert torch.equal(fresh(layer.layer.weight), layer.weights(layer.layer.weight)), name  # type: ignore[misc]
        assert not isinstance(layer.inputs, OffsetQuantizer)
