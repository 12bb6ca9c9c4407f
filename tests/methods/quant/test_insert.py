"""Inserting quantizers into stock models, and the list of what is quantized."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import WIDE, affine, double, noise, symmetric_channels, tiny_distilled, tiny_swin, tiny_vit
from torch import Tensor, nn

from harness.inputs.digits import build_swin_digits, build_vit_digits
from methods.backends import blockwise, repq
from methods.bits import Bits
from methods.errors import UsageError
from methods.models.architecture import attention_modules
from methods.quant.calibrate import calibrate, choose_weights
from methods.quant.insert import activation_quantizers, fold_weights, insert_quantizers, quantized_layers
from methods.quant.layers import QuantizedLayer
from methods.quant.operations import describe
from methods.quant.quantizers.base import Quantizer
from methods.quant.quantizers.ranges import CLIPPING_PERCENTILES, PercentileRange
from methods.quant.quantizers.uniform import UniformQuantizer
from methods.quant.recipe import MIN_MAX

VIT_LAYERS = ["patch_embed.proj", "head"] + [
    f"blocks.{i}.{part}" for i in range(2) for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
]
SWIN_BLOCKS = ["layers.0.blocks.0", "layers.0.blocks.1", "layers.1.blocks.0", "layers.1.blocks.1"]
SWIN_LAYERS = ["patch_embed.proj", "layers.1.downsample.reduction", "head.fc"] + [
    f"{block}.{part}" for block in SWIN_BLOCKS for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
]
FAMILIES = [
    (tiny_vit, VIT_LAYERS, ["blocks.0", "blocks.1"]),
    (tiny_distilled, [*VIT_LAYERS, "head_dist"], ["blocks.0", "blocks.1"]),
    (tiny_swin, SWIN_LAYERS, SWIN_BLOCKS),
]
Build = Callable[[], Any]


def digits(build: Build) -> Any:
    torch.manual_seed(0)
    return build().eval().requires_grad_(False)


@pytest.mark.parametrize("build", [build_vit_digits, build_swin_digits])
@pytest.mark.parametrize("recipe", [MIN_MAX, blockwise.RECIPE])
def test_w32a32_gives_bit_identical_logits(build: Build, recipe: Any) -> None:
    model, images = digits(build), noise(2, 32)
    quantized = insert_quantizers(model, Bits(32, 32), recipe, WIDE)
    assert quantized is not model
    assert torch.equal(quantized(images), model(images))
    assert describe(quantized) == []


@pytest.mark.parametrize(("build", "layers", "blocks"), FAMILIES)
@pytest.mark.parametrize(
    ("recipe", "weight", "activation", "softmax"),
    [
        (
            MIN_MAX,
            "uniform symmetric per channel, min-max",
            "uniform asymmetric per tensor, min-max",
            "uniform asymmetric per tensor, min-max",
        ),
        (
            blockwise.RECIPE,
            "uniform asymmetric per channel, percentile by MSE",
            "uniform asymmetric per tensor, percentile by MSE",
            "log2 per tensor, percentile by MSE",
        ),
    ],
)
def test_describe_names_every_operand_of_every_product(
    build: Build, layers: list[str], blocks: list[str], recipe: Any, weight: str, activation: str, softmax: str
) -> None:
    rows = describe(insert_quantizers(build(), Bits(3, 5), recipe, WIDE))
    expected = {(f"{name} weight", weight, 3) for name in layers}
    expected |= {(f"{name} input", activation, 5) for name in layers if name != "patch_embed.proj"}
    expected |= {("patch_embed.proj input", "uniform asymmetric per tensor, known range -5 to 5", 8)}
    expected |= {(f"{b}.attn {operand}", activation, 5) for b in blocks for operand in ("query", "key", "value")}
    expected |= {(f"{block}.attn softmax", softmax, 5) for block in blocks}
    found = [(row["operation"], row["quantizer"], row["bits"]) for row in rows]
    assert set(found) == expected
    assert len(found) == len(expected)


def test_one_side_in_floating_point() -> None:
    weights_only = insert_quantizers(tiny_vit(), Bits(4, 32), MIN_MAX, WIDE)
    assert {row["operation"] for row in describe(weights_only)} == {f"{name} weight" for name in VIT_LAYERS}
    assert activation_quantizers(weights_only) == []
    assert all(attention.fused_attn for attention in attention_modules(weights_only))
    activations_only = describe(insert_quantizers(tiny_vit(), Bits(32, 4), MIN_MAX, WIDE))
    assert not any(str(row["operation"]).endswith("weight") for row in activations_only)
    assert len(activations_only) == len(VIT_LAYERS) + 2 * 4


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
def test_weights_only_equals_a_plain_model_with_quantized_weights(build: Build) -> None:
    model, images = build(), noise(2)
    quantized = insert_quantizers(model, Bits(3, 32), MIN_MAX, WIDE)
    plain = copy.deepcopy(model)
    for layer in plain.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.weight.copy_(torch.from_numpy(symmetric_channels(double(layer.weight), 3)))
    assert torch.allclose(quantized(images), plain(images), atol=1e-4)
    assert not torch.allclose(quantized(images), model(images), atol=1e-1)
    before = quantized(images)
    fold_weights(quantized)
    assert torch.equal(quantized(images), before)


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
@pytest.mark.parametrize("recipe", [MIN_MAX, blockwise.RECIPE])
def test_the_original_is_left_as_it_was(build: Build, recipe: Any) -> None:
    model, images = build(), noise(2)
    state, logits = copy.deepcopy(model.state_dict()), model(images)
    quantized = insert_quantizers(model, Bits(4, 4), recipe, WIDE)
    calibrate(quantized, images)
    fold_weights(quantized)
    assert not torch.equal(quantized(images), logits)
    assert torch.equal(model(images), logits)
    assert {name: value.tolist() for name, value in model.state_dict().items()} == {
        name: value.tolist() for name, value in state.items()
    }
    assert not any(isinstance(m, Quantizer | QuantizedLayer) for m in model.modules())


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
def test_calibrated_ranges_are_those_of_the_activations_behind_quantized_weights(build: Build) -> None:
    """Capture every activation of a plain model with quantized weights; compute the ranges from minima and maxima."""
    model, images = build(), noise(3)
    quantized = insert_quantizers(model, Bits(4, 5), MIN_MAX, WIDE)
    calibrate(quantized, images)
    seen: dict[str, Tensor] = {}
    plain = copy.deepcopy(model)
    for name, module in plain.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.weight.copy_(torch.from_numpy(symmetric_channels(double(module.weight), 4)))
            module.register_forward_pre_hook(lambda _, a, name=name: seen.update({f"{name}.inputs": a[0]}))
        if name.endswith("qkv"):
            module.register_forward_hook(
                lambda _, a, out, name=name: seen.update(
                    {f"{name}.outputs.{i}": part for i, part in enumerate(out.chunk(3, -1))}
                )
            )
        if name.endswith("attn_drop"):
            module.register_forward_pre_hook(lambda _, a, name=name: seen.update({name: a[0]}))
    for attention in attention_modules(plain):
        attention.fused_attn = False
    plain(images)
    layers = {name for name, _ in quantized_layers(quantized)}
    names = {name for name, m in quantized.named_modules() if isinstance(m, Quantizer) and "weights" not in name}
    assert names == set(seen)
    assert {name.removesuffix(".inputs") for name in names if name.endswith(".inputs")} == layers
    for name in names - {"patch_embed.proj.inputs"}:  # whose range is known
        quantizer: Any = quantized.get_submodule(name)
        values = double(seen[name])
        _, scale, zero = affine(values, float(values.min()), float(values.max()), 5)
        assert quantizer.scale.item() == pytest.approx(scale, rel=1e-4), name
        assert quantizer.zero_point.item() == zero, name
        assert quantizer.observing is False


def clipped(bits: int) -> UniformQuantizer:
    return UniformQuantizer(bits, PercentileRange(CLIPPING_PERCENTILES), axis=0)


def test_a_layer_takes_the_weights_with_which_its_output_errs_less() -> None:
    """In one layer the largest weights meet an input that is always large: clipping them costs its output most."""
    model = tiny_vit()
    model.blocks[0].mlp.fc1.bias[0] = 20
    model.blocks[0].mlp.fc2.weight[:, 0] = 1.5 * model.blocks[0].mlp.fc2.weight.abs().amax(1)
    quantized, seen = insert_quantizers(model, Bits(3, 32), repq.RECIPE, WIDE), dict[str, Tensor]()
    own = {name: layer.weights for name, layer in quantized_layers(quantized)}
    hooks = [
        layer.register_forward_hook(lambda _, given, out, name=name: seen.update({name: given[0]}))
        for name, layer in quantized_layers(quantized)
    ]
    choose_weights(quantized, noise(3), clipped)
    for hook in hooks:
        hook.remove()
    kept = set()
    for name, layer in quantized_layers(quantized):
        before, rival, chosen = own[name], clipped(3), layer.weights
        assert before is not None and chosen is not None
        rival.fit(layer.layer.weight)
        if isinstance(layer.layer, nn.Linear):
            weight, inputs = double(layer.layer.weight), double(seen[name].flatten(0, -2))
            errors = [
                float(((inputs @ (double(quantizer(layer.layer.weight)) - weight).T) ** 2).sum())
                for quantizer in (before, rival)
            ]
            assert (chosen is before) == (errors[0] <= errors[1]), name
            assert chosen is before or torch.equal(chosen(layer.layer.weight), rival(layer.layer.weight))
        if chosen is before:
            kept.add(name)
    assert "blocks.0.mlp.fc2" in kept
    assert len(kept) < len(own) / 2


def test_other_models_are_refused() -> None:
    with pytest.raises(UsageError, match="Sequential is not supported"):
        insert_quantizers(nn.Sequential(nn.Conv2d(3, 4, 1)), Bits(4, 4), MIN_MAX, WIDE)


def test_behind_a_norm_the_operands_of_the_product_are_on_the_grid() -> None:
    bits = Bits.parse("w4a2")
    quantized = insert_quantizers(tiny_vit(qk_norm=True), bits, MIN_MAX, WIDE)
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    calibrate(quantized, images)
    seen: dict[str, int] = {}

    def count(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            seen[name] = len(output.unique())

        return hook

    attention = quantized.get_submodule("blocks.1.attn")
    attention.get_submodule("q_norm").register_forward_hook(count("query"))
    attention.get_submodule("k_norm").register_forward_hook(count("key"))
    quantized(images)
    assert 1 < seen["query"] <= 4
    assert 1 < seen["key"] <= 4
    rows = [row["operation"] for row in describe(quantized)]
    for operand in ("query", "key", "value", "softmax"):
        assert rows.count(f"blocks.1.attn {operand}") == 1
