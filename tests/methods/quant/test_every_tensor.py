"""PSAQ-ViT's protocol against blocks written out by hand, which find the ranges of every place themselves."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import WIDE, Array, affine, double, layer_norm, noise, symmetric_channels, tiny_swin, tiny_vit
from torch import nn

from methods.backends.minmax import MinMax, MinMaxConfig
from methods.bits import Bits
from methods.contracts import QuantizationContext
from methods.errors import UsageError
from methods.quant.operations import describe

W4A5 = Bits(4, 5)


def psaq(model: Any, bits: Bits = W4A5) -> Any:
    config = MinMaxConfig(protocol="psaq_vit")
    return MinMax().quantize(model, noise(3), bits, config, QuantizationContext(torch.Generator(), WIDE))


class Places:
    """The places of one block: a first pass in floating point notes their ranges, later ones quantize."""

    def __init__(self) -> None:
        self.ranges: dict[str, tuple[float, float]] = {}
        self.calibrating = True

    def at(self, place: str, x: Array) -> Array:
        if self.calibrating:
            self.ranges[place] = float(x.min()), float(x.max())
            return x
        return affine(x, *self.ranges[place], W4A5.activations)[0]

    def linear(self, x: Array, layer: Any) -> Array:
        weight = double(layer.weight)
        weight = weight if self.calibrating else symmetric_channels(weight, W4A5.weights)
        return np.asarray(x @ weight.T + double(layer.bias))

    def attention(self, x: Array, attention: Any, bias: Array | None, mask: Array) -> Array:
        """Sets of tokens [sets, N, C], head by head; bias [heads, N, N], mask [sets, N, N]."""
        qkv = self.at("qkv", self.linear(x, attention.qkv))
        query, key, value = np.split(qkv, 3, axis=-1)
        heads = attention.num_heads
        width = query.shape[-1] // heads
        parts = [slice(h * width, (h + 1) * width) for h in range(heads)]
        logits = np.stack([query[..., p] @ key[..., p].transpose(0, 2, 1) / math.sqrt(width) for p in parts], axis=1)
        logits = self.at("logits", logits)
        if bias is not None:
            logits = self.at("biased", logits + bias)
        weights = np.exp(logits + mask[:, None])
        weights = weights / weights.sum(-1, keepdims=True)
        mixed = np.concatenate([weights[:, h] @ value[..., p] for h, p in enumerate(parts)], axis=-1)
        return self.at("proj", self.linear(self.at("mixed", mixed), attention.proj))

    def mlp(self, x: Array, mlp: Any) -> Array:
        hidden = self.linear(x, mlp.fc1)
        hidden = self.at("gelu", hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))))
        return self.at("fc2", self.linear(hidden, mlp.fc2))

    def block(self, x: Array, block: Any, attend: Callable[[Array], Array]) -> Array:
        x = self.at("first sum", x + attend(self.at("norm1", layer_norm(x, block.norm1))))
        return self.at("second sum", x + self.mlp(self.at("norm2", layer_norm(x, block.norm2)), block.mlp))

    def vit(self, x: Array, block: Any) -> Array:
        mask = np.zeros((1, x.shape[1], x.shape[1]))
        return self.block(x, block, lambda normed: self.attention(normed, block.attn, None, mask))

    def swin(self, x: Array, block: Any) -> Array:
        bias = relative_bias(self.at("table", double(block.attn.relative_position_bias_table)), 4)
        return self.block(x, block, lambda normed: self.windows(normed, block, bias, block.shift_size[0]))

    def windows(self, x: Array, block: Any, bias: Array, shift: int) -> Array:
        """Attention in the 4x4 windows of maps [n, H, W, C] rolled by `shift`; tokens see their own region only."""
        count, side, _, channels = x.shape
        rolled = np.roll(x, (-shift, -shift), (1, 2))
        band = np.searchsorted([side - 4, side - shift] if shift else [side], np.arange(side), side="right")
        regions = 3 * band[:, None] + band[None, :]
        corners = [(row, column) for row in range(0, side, 4) for column in range(0, side, 4)]
        tokens = np.stack(
            [rolled[n, r : r + 4, c : c + 4].reshape(16, channels) for n in range(count) for r, c in corners]
        )
        masks = []
        for r, c in corners:
            region = regions[r : r + 4, c : c + 4].reshape(16)
            masks.append(np.where(region[:, None] == region[None, :], 0.0, -100.0))
        mixed = self.attention(tokens, block.attn, bias, np.stack(masks * count))
        result = np.empty_like(rolled)
        for place, values in enumerate(mixed):
            r, c = corners[place % len(corners)]
            result[place // len(corners), r : r + 4, c : c + 4] = values.reshape(4, 4, channels)
        return np.asarray(np.roll(result, (shift, shift), (1, 2)))


def relative_bias(table: Array, side: int) -> Array:
    """Return the bias [heads, N, N] of a window: the table's row for the distance of two tokens."""
    bias = np.empty((table.shape[1], side**2, side**2))
    for i in range(side**2):
        for j in range(side**2):
            down, right = i // side - j // side, i % side - j % side
            bias[:, i, j] = table[(down + side - 1) * (2 * side - 1) + right + side - 1]
    return bias


def input_of(model: Any, block: nn.Module) -> Array:
    """Return what a block of the floating-point model is given for the calibration images."""
    seen = []
    hook = block.register_forward_pre_hook(lambda _, arguments: seen.append(double(arguments[0])))
    model(noise(3))
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("name", ["blocks.0", "blocks.1"])
def test_vit_block_equals_a_hand_written_forward(name: str) -> None:
    model = tiny_vit()
    block, quantized = model.get_submodule(name), psaq(model).get_submodule(name)
    compare(model, block, quantized, torch.randn((2, 17, 16), generator=torch.Generator().manual_seed(9)), Places.vit)


@pytest.mark.parametrize("name", ["layers.0.blocks.0", "layers.0.blocks.1", "layers.1.blocks.1"])
def test_swin_block_equals_a_hand_written_forward(name: str) -> None:
    model = tiny_swin()
    block: Any = model.get_submodule(name)
    shape = (2, *block.input_resolution, block.dim)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(9))
    compare(model, block, psaq(model).get_submodule(name), x, Places.swin)


def compare(model: Any, block: Any, quantized: Any, x: torch.Tensor, forward: Callable[..., Array]) -> None:
    """Few values may differ by a step or so: where single and double precision round to two neighbours."""
    places = Places()
    given = input_of(model, block)
    exact = double(block(torch.from_numpy(given).float()))
    assert forward(places, given, block) == pytest.approx(exact, abs=1e-4)
    places.calibrating = False
    expected = forward(places, double(x), block)
    found = double(quantized(x.clone()))
    step = (places.ranges["second sum"][1] - min(0.0, places.ranges["second sum"][0])) / 31
    assert np.isclose(found, expected, atol=1e-4).mean() > 0.99
    assert np.abs(found - expected).max() < 1.01 * step
    assert np.isclose(double(block(x)), expected, atol=1e-4).mean() < 0.1


def outputs_of(model: Any, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Return what modules of the floating-point model put out for the calibration images."""
    outputs: dict[str, torch.Tensor] = {}

    def keep(name: str, _module: nn.Module, _arguments: Any, output: torch.Tensor) -> None:
        outputs[name] = output

    hooks = [model.get_submodule(name).register_forward_hook(partial(keep, name)) for name in names]
    model(noise(3))
    for hook in hooks:
        hook.remove()
    return outputs


def test_ranges_around_the_blocks_are_those_of_the_floating_point_model() -> None:
    for model, places in (
        (tiny_vit(), ("patch_embed.proj", "pos_drop", "head")),
        (tiny_swin(), ("patch_embed.norm", "layers.1.downsample.reduction", "norm", "head.fc")),
    ):
        outputs = outputs_of(model, places)
        quantized = psaq(model)
        for name in places:
            module = quantized.get_submodule(name)
            quantizer = module.outputs[0] if hasattr(module, "outputs") else module.output_quantizer
            low, high = min(0.0, outputs[name].min().item()), outputs[name].max().item()
            assert quantizer.scale.item() == pytest.approx((high - low) / 31, rel=1e-5), name
            assert quantizer.zero_point.item() == round(-low / ((high - low) / 31)), name


def test_embeddings_are_on_their_own_grids() -> None:
    model, swin = tiny_vit(), tiny_swin()
    expected = affine(double(model.pos_embed), model.pos_embed.min().item(), model.pos_embed.max().item(), 5)[0]
    assert double(psaq(model).pos_embed) == pytest.approx(expected, abs=1e-5)
    table = psaq(swin).layers[0].blocks[1].attn.relative_position_bias_table
    assert 2 < len(table.unique()) <= 32
    assert table.numel() == 98


LAYERS = [
    f"{layer} {side}" for layer in ("attn.qkv", "attn.proj", "mlp.fc2") for side in ("weight", "input", "output")
]
PLACES = ["mlp.fc1 weight", "mlp.fc1 input", "attn logits", "norm2 residual sum"]
VIT = ["patch_embed.proj weight", "patch_embed.proj input", "patch_embed.proj output", "pos_embed", "pos_drop output",
       "head weight", "head input", "head output"]  # fmt: skip
SWIN = ["patch_embed.proj weight", "patch_embed.proj input", "patch_embed.proj output", "patch_embed.norm output",
        "layers.1.downsample.reduction weight", "layers.1.downsample.reduction input",
        "layers.1.downsample.reduction output", "norm output",
        "head.fc weight", "head.fc input", "head.fc output"]  # fmt: skip


def block_rows(block: str, *more: str) -> list[str]:
    return [f"{block} output", *(f"{block}.{row}" for row in (*LAYERS, *PLACES, *more))]


def test_every_place_is_listed() -> None:
    vit = [row for i in range(2) for row in block_rows(f"blocks.{i}")]
    swin = [
        row
        for stage in range(2)
        for i in range(2)
        for row in block_rows(f"layers.{stage}.blocks.{i}", "attn biased logits", "attn relative_position_bias_table")
    ]
    for model, expected in ((tiny_vit(), VIT + vit), (tiny_swin(), SWIN + swin)):
        rows = describe(psaq(model, Bits(3, 6)))
        assert sorted(str(row["operation"]) for row in rows) == sorted(expected)
        for row in rows:
            weight = str(row["operation"]).endswith("weight")
            grid = "symmetric per channel" if weight else "asymmetric per tensor"
            assert (row["bits"], row["quantizer"]) == (3 if weight else 6, f"uniform {grid}, min-max")


def test_one_side_in_floating_point() -> None:
    assert all(str(row["operation"]).endswith("weight") for row in describe(psaq(tiny_swin(), Bits(4, 32))))
    assert not any(str(row["operation"]).endswith("weight") for row in describe(psaq(tiny_vit(), Bits(32, 4))))


def test_what_the_protocol_has_no_place_for_is_refused() -> None:
    with pytest.raises(UsageError, match="no place for gated attention or norms"):
        psaq(tiny_vit(qk_norm=True))
    with pytest.raises(UsageError, match=r"Unknown protocol 'psaq'\. Did you mean 'psaq_vit'\?"):
        MinMaxConfig(protocol="psaq")
