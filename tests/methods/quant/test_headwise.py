"""Grids per head and turned heads: against heads taken one by one, and functions that stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import WIDE, noise, tiny_swin, tiny_vit
from torch import nn

from methods.backends.blockwise import Blockwise, BlockwiseConfig
from methods.bits import Bits
from methods.contracts import QuantizationContext
from methods.models.architecture import attention_modules
from methods.models.rotate_heads import heads_rotated
from methods.quant.operations import describe
from methods.quant.quantizers.base import Quantizer
from methods.quant.quantizers.ranges import MinMaxRange
from methods.quant.quantizers.uniform import UniformQuantizer
from methods.quant.recipe import HeadwiseQuantizer


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


@pytest.mark.parametrize(
    "build", [tiny_vit, lambda: tiny_vit(qk_norm=True), lambda: tiny_vit(qkv_bias=False), tiny_swin]
)
def test_a_model_with_turned_heads_computes_the_same(build: Any) -> None:
    model, images = build(), noise(3)
    turned = heads_rotated(model)
    assert torch.allclose(turned(images), model(images), atol=2e-4)
    normed = not isinstance(getattr(attention_modules(model)[0], "q_norm", nn.Identity()), nn.Identity)
    for before, after in zip(attention_modules(model), attention_modules(turned), strict=True):
        parts = list(zip(before.qkv.weight.chunk(3), after.qkv.weight.chunk(3), strict=True))
        assert [torch.equal(old, new) for old, new in parts] == [normed, normed, False]
        assert not torch.equal(before.proj.weight, after.proj.weight)


def test_norms_behind_attention_keep_their_values() -> None:
    model, images = tiny_vit(scale_attn_norm=True), noise(2)
    turned: Any = heads_rotated(model)
    width = model.blocks[0].attn.qkv.out_features // 3
    assert torch.equal(turned.blocks[0].attn.qkv.weight[2 * width :], model.blocks[0].attn.qkv.weight[2 * width :])
    assert torch.allclose(turned(images), model(images), atol=2e-4)
