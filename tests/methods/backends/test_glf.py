"""GLF-Q's frozen settings: what it quantizes with which grids, and that its learning brings a model nearer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from tiny_models import WIDE, noise, tiny_vit

from methods.backends.glf import Glf, GlfConfig
from methods.bits import Bits
from methods.contracts import QuantizationContext
from methods.quant.operations import describe


def quantized(iterations: int, seed: int = 0) -> tuple[Any, Any]:
    model = tiny_vit(seed)
    config = replace(GlfConfig(), iterations=iterations, learning_rate=1e-3, scale_rate=1e-2, drop=0.0)
    context = QuantizationContext(torch.Generator().manual_seed(0), WIDE)
    return model, Glf().quantize(model, noise(16), Bits(3, 3), config, context)


def test_operands_of_attention_are_uniform_per_head_and_images_have_eight_bits() -> None:
    rows = {str(row["operation"]): row for row in describe(quantized(2)[1])}
    assert rows["patch_embed.proj input"]["bits"] == 8
    assert {row["bits"] for name, row in rows.items() if name != "patch_embed.proj input"} == {3}
    for operand in ("query", "key", "value", "softmax"):
        text = str(rows[f"blocks.1.attn {operand}"]["quantizer"])
        assert text == "uniform asymmetric per tensor, percentile by MSE, then learned, per head"


def test_learning_brings_the_features_of_its_images_nearer() -> None:
    """Over three models, as what one reaches turns with the last bit of a sum."""
    errors = []
    for iterations in (0, 60):
        total = 0.0
        for seed in range(3):
            model, other = quantized(iterations, seed)
            total += (other(noise(16)) - model(noise(16))).square().mean().item()
        errors.append(total)
    assert errors[1] < 0.8 * errors[0]
