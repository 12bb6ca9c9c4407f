"""Size and bit operations, counted by hand for tiny models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import WIDE, noise, tiny_distilled, tiny_swin, tiny_vit

from methods.backends.minmax import MinMax, MinMaxConfig
from methods.bits import Bits
from methods.contracts import QuantizationContext
from methods.quant.operations import Costs, costs

Build = Callable[[], Any]
CONTEXT = QuantizationContext(torch.Generator(), WIDE)

# tiny_vit: 16 patches of 48 values and a class token, so 17 tokens of width 16; 2 blocks; MLP 64; 10 classes.
VIT_PATCHES = 16 * 16 * 48
VIT_LAYERS = 17 * 16 * 48 + 17 * 16 * 16 + 2 * 17 * 16 * 64  # qkv, proj, fc1 and fc2 of a block
VIT_PRODUCT = 17 * 17 * 16  # query times key, and as much for attention times value
VIT_HEAD = 16 * 10
VIT_WEIGHTS = 16 * 48 + 2 * (16 * 48 + 16 * 16 + 2 * 16 * 64) + 160
VIT_REST = 16 + 2 * (48 + 16 + 64 + 16) + 10 + 5 * 32 + 16 + 17 * 16  # biases, norms, class token, positions
VIT_ROWS = 16 + 2 * (48 + 16 + 64 + 16) + 10  # output channels: one scale each

# tiny_swin: 8x8 map of width 8 in 4 windows of 16 tokens, then 4x4 of width 16 in one; 2 blocks each; MLP fourfold.
SWIN_PATCHES = 64 * 8 * 12
SWIN_LAYERS = 2 * 64 * 8 * (24 + 8 + 2 * 32) + 2 * 16 * 16 * (48 + 16 + 2 * 64)
SWIN_PRODUCT = 2 * 4 * 16 * 16 * 8 + 2 * 16 * 16 * 16
SWIN_MERGING = 16 * 32 * 16
SWIN_HEAD = 16 * 10
SWIN_WEIGHTS = 8 * 12 + 2 * 8 * (24 + 8 + 64) + 2 * 16 * (48 + 16 + 128) + 32 * 16 + 160
SWIN_ROWS = 8 + 2 * (24 + 8 + 32 + 8) + 2 * (48 + 16 + 64 + 16) + 16 + 10
SWIN_TABLES = 49 * (2 * 2 + 2 * 4)
SWIN_NORMS = 2 * (8 + 2 * 2 * 8 + 32 + 2 * 2 * 16 + 16)
SWIN_REST = SWIN_ROWS - 16 + SWIN_NORMS + SWIN_TABLES  # the merging has no bias


def minmax(model: Any, bits: str, protocol: str = "plain") -> Costs:
    quantized = MinMax().quantize(model, noise(2), Bits.parse(bits), MinMaxConfig(protocol=protocol), CONTEXT)
    return costs(model, quantized, noise(1))


def test_vit_by_hand() -> None:
    macs = VIT_PATCHES + 2 * (VIT_LAYERS + 2 * VIT_PRODUCT) + VIT_HEAD
    assert sum(p.numel() for p in tiny_vit().parameters()) == VIT_WEIGHTS + VIT_REST
    # 10 layers' inputs and 2 x 4 operands of attention have a scale and a zero point each, weights scales alone.
    numbers = VIT_ROWS + 2 * (10 + 2 * 4)
    assert minmax(tiny_vit(), "w4a3") == Costs(VIT_WEIGHTS // 2 + 4 * (VIT_REST + numbers), macs, bits_of_vit(4, 3))
    weights_alone = Costs(VIT_WEIGHTS + 4 * (VIT_REST + VIT_ROWS), macs, bits_of_vit(8, 32))
    assert minmax(tiny_vit(), "w8a32") == weights_alone
    assert minmax(tiny_vit(), "w32a5").bitops == bits_of_vit(32, 5)


def bits_of_vit(weights: int, activations: int) -> int:
    """Eight bits for images, unless no activation is quantized."""
    layers, image = 2 * VIT_LAYERS + VIT_HEAD, 32 if activations == 32 else 8
    return VIT_PATCHES * weights * image + layers * weights * activations + 4 * VIT_PRODUCT * activations**2


def test_swin_by_hand() -> None:
    layers = SWIN_LAYERS + SWIN_MERGING + SWIN_HEAD
    assert sum(p.numel() for p in tiny_swin().parameters()) == SWIN_WEIGHTS + SWIN_REST
    numbers = SWIN_ROWS + 2 * (19 + 4 * 4)
    expected = Costs(
        size_bytes=SWIN_WEIGHTS // 2 + 4 * (SWIN_REST + numbers),
        macs=SWIN_PATCHES + layers + 2 * SWIN_PRODUCT,
        bitops=SWIN_PATCHES * 4 * 8 + layers * 4 * 6 + 2 * SWIN_PRODUCT * 6 * 6,
    )
    assert minmax(tiny_swin(), "w4a6") == expected


def test_odd_widths_are_filled_up_to_bytes() -> None:
    """Width 18 and 9 classes in 3 bits: patches 864, q/k/v 972, proj 324, MLP 1296 each, head 162 weights."""
    model = tiny_vit(embed_dim=18, num_classes=9)
    weights = 324 + 2 * (365 + 122 + 2 * 486) + 61  # bytes: 364.5, 121.5 and 60.75 filled up
    rest = sum(p.numel() for p in model.parameters()) - (864 + 2 * (972 + 324 + 2 * 1296) + 162)
    rows = 18 + 2 * (54 + 18 + 72 + 18) + 9
    assert minmax(model, "w3a32").size_bytes == weights + 4 * (rest + rows)


def test_psaq_vits_protocol_keeps_the_softmax_output_and_stores_embeddings_in_few_bits() -> None:
    plain, psaq = minmax(tiny_vit(), "w4a4"), minmax(tiny_vit(), "w4a4", "psaq_vit")
    assert psaq.bitops - plain.bitops == 2 * VIT_PRODUCT * 4 * (32 - 4) - VIT_PATCHES * 4 * (8 - 4)
    places = 10 + 8 + 2 + 2 * 3  # inputs, outputs, positions and their sum, logits and two residual sums per block
    numbers = VIT_ROWS + 2 * places
    assert psaq.size_bytes == VIT_WEIGHTS // 2 + 17 * 16 // 2 + 4 * (VIT_REST - 17 * 16 + numbers)


@pytest.mark.parametrize("build", [tiny_vit, tiny_distilled, tiny_swin])
def test_floating_point_takes_four_bytes_a_parameter(build: Build) -> None:
    model = build()
    found = minmax(model, "w32a32")
    assert found.size_bytes == 4 * sum(p.numel() for p in model.parameters())
    assert found.bitops == 32 * 32 * found.macs


def test_counting_leaves_the_model_as_it_was() -> None:
    model = tiny_vit()
    minmax(model, "w4a4")
    assert not any(module._forward_hooks for module in model.modules())
