"""Bits: how they are written, and for each layer its own, as in layers quantized by hand."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import WIDE, noise, tiny_swin, tiny_vit

from methods.backends.minmax import MinMax, MinMaxConfig
from methods.bits import Bits
from methods.contracts import QuantizationContext
from methods.errors import UsageError
from methods.models.architecture import layer_names
from methods.quant.calibrate import calibrate
from methods.quant.insert import fold_weights, quantized_layers
from methods.quant.layers import QuantizedLayer
from methods.quant.operations import costs, describe
from methods.quant.recipe import MIN_MAX, image_maker, made

MIXED = Bits(
    weights=4,
    activations=4,
    layers=(
        ("blocks.0.*", Bits(8, 8)),
        ("*.attn", Bits(32, 6)),
        ("head", Bits(3, 5)),
        ("*.1.mlp.fc1", Bits(32, 32)),
    ),
    name="m",
)
BY_HAND = {  # weight, input
    "patch_embed.proj": (4, 8),
    "blocks.0.attn.qkv": (8, 8), "blocks.0.attn.proj": (8, 8), "blocks.0.mlp.fc1": (8, 8), "blocks.0.mlp.fc2": (8, 8),
    "blocks.1.attn.qkv": (4, 4), "blocks.1.attn.proj": (4, 4),
    "blocks.1.mlp.fc1": (32, 32), "blocks.1.mlp.fc2": (4, 4),
    "head": (3, 5),
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "weights", "activations"),
    [("w4a4", 4, 4), ("w2a8", 2, 8), ("w8a2", 8, 2), (" W4A8\n", 4, 8), ("w32a8", 32, 8), ("w32a32", 32, 32)],
)
def test_parse_reads_weights_then_activations(text: str, weights: int, activations: int) -> None:
    bits = Bits.parse(text)
    assert (bits.weights, bits.activations) == (weights, activations)
    assert str(bits) == f"w{weights}a{activations}"


@pytest.mark.parametrize("text", ["", "4a4", "w4", "w4a", "wa", "a4w4", "w4a4x", "xw4a4", "w-4a4", "w4.5a4", "w4 a4"])
def test_parse_refuses_other_forms(text: str) -> None:
    with pytest.raises(UsageError, match="not of the form w4a4"):
        Bits.parse(text)


@pytest.mark.parametrize(
    ("text", "side", "width"),
    [
        ("w1a4", "Weight", 1),
        ("w4a1", "Activation", 1),
        ("w9a4", "Weight", 9),
        ("w4a9", "Activation", 9),
        ("w0a4", "Weight", 0),
        ("w4a16", "Activation", 16),
        ("w31a4", "Weight", 31),
        ("w4a33", "Activation", 33),
    ],
)
def test_parse_refuses_widths_out_of_range(text: str, side: str, width: int) -> None:
    with pytest.raises(UsageError, match=f"^{side} bits {width} "):
        Bits.parse(text)


@pytest.mark.parametrize(("text", "float_"), [("w32a32", True), ("w32a8", False), ("w8a32", False), ("w8a8", False)])
def test_float_means_both_sides(text: str, float_: bool) -> None:
    assert Bits.parse(text).float is float_


@pytest.mark.parametrize("text", ["w4a8", "w32a3", "mxfp4", "nvfp4+x-0123abcd", "w3a32+First_Last-01234567"])
def test_parse_reads_what_bits_write(text: str) -> None:
    bits = Bits.parse(text)
    assert (str(bits), Bits.parse(str(bits)), copy.deepcopy(bits)) == (text, bits, bits)
    again = pickle.loads(pickle.dumps(bits))
    parts = ("weights", "activations", "number_format", "layers", "name")
    assert [getattr(again, part) for part in parts] == [getattr(bits, part) for part in parts]


def test_mixed_bits_are_those_of_their_word_and_know_their_layers() -> None:
    bits = Bits(4, 4, (("head", Bits(8, 8)),), "first last")
    read = Bits.parse(bits)
    assert (read, read.name, str(read.default), read.layers) == (bits, "first_last", "w4a4", ())
    assert read.fits("w4a4", [("head", "w8a8")]) and not read.fits("w4a4", [("head", "w8a4")])
    assert not Bits.parse("w4a4").fits("w4a4", [])
    assert pickle.loads(pickle.dumps(bits)).layers == bits.layers


@pytest.mark.parametrize("text", ["w4a4+", "w4a4+a-0123", "w4a4+a b-01234567", "w4a4+-01234567", "w4a4+a-0123456G"])
def test_parse_refuses_other_names_of_mixed_bits(text: str) -> None:
    with pytest.raises(UsageError, match="not of the form w4a4"):
        Bits.parse(text)


def minmax(model: Any, bits: Bits) -> Any:
    return MinMax().quantize(model, noise(3), bits, MinMaxConfig(), QuantizationContext(torch.Generator(), WIDE))


def by_hand(model: Any) -> Any:
    """Put every quantizer in its place, layer by layer."""
    quantized = copy.deepcopy(model)
    for name, (weights, inputs) in BY_HAND.items():
        layer = quantized.get_submodule(name)
        maker = image_maker(WIDE) if name.startswith("patch_embed") else MIN_MAX.activations
        operands = [MIN_MAX.activations(6) for _ in range(3)] if name.endswith("qkv") else None
        swapped = QuantizedLayer(
            layer,
            made(maker, inputs),
            made(MIN_MAX.weights, weights),
            operands,  # type: ignore[arg-type]
        )
        parent, _, child = name.rpartition(".")
        setattr(quantized.get_submodule(parent), child, swapped)
    for block in quantized.blocks:
        block.attn.attn_drop, block.attn.fused_attn = MIN_MAX.attention(6), False
    calibrate(quantized, noise(3))
    fold_weights(quantized)
    return quantized


def test_mixed_bits_are_those_of_layers_quantized_by_hand() -> None:
    model = tiny_vit()
    quantized = minmax(model, MIXED)
    assert torch.equal(quantized(noise(2)), by_hand(model)(noise(2)))
    for uniform in (Bits(4, 4), Bits(8, 8)):
        assert not torch.equal(quantized(noise(2)), minmax(model, uniform)(noise(2)))
    found = {}
    for name, layer in quantized_layers(quantized):
        weights, inputs = layer.weights, layer.inputs
        found[name] = (weights.bits if weights else 32, inputs.bits if inputs else 32)
    assert found == BY_HAND


def test_mixed_costs_by_hand() -> None:
    model = tiny_vit()
    found = costs(model, minmax(model, MIXED), noise(1))
    qkv, proj, fc = 17 * 16 * 48, 17 * 16 * 16, 17 * 16 * 64
    first = (qkv + proj + 2 * fc) * 8 * 8
    second = (qkv + proj + fc) * 4 * 4 + fc * 32 * 32
    products = 4 * 17 * 17 * 16 * 6 * 6
    assert found.bitops == 16 * 16 * 48 * 4 * 8 + first + second + products + 160 * 3 * 5
    weights = (768 * 4 + (768 + 256 + 2048) * 8 + (768 + 256 + 1024) * 4 + 1024 * 32 + 160 * 3) // 8
    kept = sum(p.numel() for p in model.parameters()) - (768 + 2 * (768 + 256 + 2048) + 160)
    numbers = 16 + (144 + 80) + 10 + 2 * (9 + 8)  # fc1 of the second block has neither scales nor a quantizer
    assert found.size_bytes == weights + 4 * (kept + numbers)


@pytest.mark.parametrize("protocol", ["plain", "psaq_vit"])
@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
def test_the_same_bits_everywhere_are_uniform_bits(build: Callable[[], Any], protocol: str) -> None:
    model, config = build(), MinMaxConfig(protocol=protocol)
    everywhere = Bits(8, 8, (("*", Bits(4, 5)),), "all")
    context = QuantizationContext(torch.Generator(), WIDE)
    mixed = MinMax().quantize(model, noise(3), everywhere, config, context)
    uniform = MinMax().quantize(model, noise(3), Bits(4, 5), config, context)
    assert torch.equal(mixed(noise(2)), uniform(noise(2)))
    assert describe(mixed) == describe(uniform)


def test_floating_point_throughout_is_the_plain_model() -> None:
    model = tiny_vit()
    assert Bits(4, 4, (("*", Bits(32, 32)),), "x").float is False  # the default may still take what no layer is
    bits = Bits(32, 32, (("head", Bits(32, 32)),), "x")
    assert bits.float
    assert torch.equal(minmax(model, bits)(noise(2)), model(noise(2)))


def test_the_last_pattern_that_fits_counts() -> None:
    bits = Bits(4, 4, (("blocks.*", Bits(8, 8)), ("blocks.1.*", Bits(2, 3)), ("*.fc1", Bits(5, 5))), "x")
    assert [str(bits.of(name)) for name in ("head", "blocks.0.attn", "blocks.1.attn", "blocks.1.mlp.fc1")] == [
        "w4a4", "w8a8", "w2a3", "w5a5",
    ]  # fmt: skip


def test_names_of_layers_and_of_attention() -> None:
    names = layer_names(tiny_vit())
    assert set(names) == set(BY_HAND) | {"blocks.0.attn", "blocks.1.attn"}
    assert len(layer_names(tiny_swin())) == 3 + 4 * 5


def test_mixed_bits_are_called_by_default_name_and_contents() -> None:
    one = Bits(4, 4, (("a", Bits(8, 8)), ("b", Bits(2, 2))), "plan")
    text = json.dumps(["w4a4", [["a", "w8a8"], ["b", "w2a2"]]])
    assert str(one) == f"w4a4+plan-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    others = [
        Bits(4, 4, (("b", Bits(2, 2)), ("a", Bits(8, 8))), "plan"),
        Bits(4, 4, (("a", Bits(8, 8)), ("b", Bits(2, 3))), "plan"),
        Bits(4, 5, (("a", Bits(8, 8)), ("b", Bits(2, 2))), "plan"),
    ]
    assert len({str(bits) for bits in (one, *others)}) == 4
