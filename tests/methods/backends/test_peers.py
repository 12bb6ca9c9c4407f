"""Peers end to end: `repq` against a hand-written forward; settings of `glf`, `fima`, `aphq` and `adalog`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from tiny_models import WIDE, block_reference, double, noise, tiny_swin, tiny_vit
from torch import Tensor, nn

from methods.backends.adalog import AdaLog, AdaLogConfig
from methods.backends.aphq import Aphq, AphqConfig
from methods.backends.blockwise import BlockwiseConfig
from methods.backends.fima import Fima, FimaConfig
from methods.backends.glf import Glf, GlfConfig
from methods.backends.repq import RECIPE as REPQ
from methods.backends.repq import RepQ, RepQConfig, reparameterized
from methods.bits import Bits
from methods.contracts import QuantizationContext
from methods.quant.calibrate import calibrate
from methods.quant.insert import activation_quantizers, fold_weights, insert_quantizers
from methods.quant.learning import reconstruct
from methods.quant.learning.curvature import FisherObjective, PerturbationObjective
from methods.quant.learning.objectives import LocalObjective, Objective
from methods.quant.operations import describe
from methods.quant.quantizers.base import Quantizer
from methods.quant.recipe import MIN_MAX

W4A4 = Bits(4, 4)


def repq(model: Any, bits: Bits = W4A4, images: int = 4) -> Any:
    return RepQ().quantize(model, noise(images), bits, RepQConfig(), QuantizationContext(torch.Generator(), WIDE))


@pytest.mark.parametrize("depth", [0, 1])
def test_quantized_block_equals_a_hand_written_forward(depth: int) -> None:
    model = tiny_vit()
    unfolded: Any = reparameterized(model, noise(4), W4A4, WIDE)
    plain: Any = copy.deepcopy(unfolded.blocks[depth])
    for part in (plain.attn, plain.mlp):
        for name in ("qkv", "proj", "fc1", "fc2"):
            if hasattr(part, name):
                setattr(part, name, getattr(part, name).layer)
    quantized = repq(model)
    x = torch.randn((2, 17, 16), generator=torch.Generator().manual_seed(9))
    expected = block_reference(double(x), quantized.blocks[depth], plain, heads=2)
    assert double(quantized.blocks[depth](x)) == pytest.approx(expected, abs=1e-4)
    assert np.abs(double(model.blocks[depth](x)) - expected).max() > 0.1


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
def test_sequential_ranges_are_those_of_quantized_activations(build: Callable[[], Any]) -> None:
    """Run again, every quantizer sees what it was fitted to; floating-point activations give other ranges."""
    quantized = insert_quantizers(build(), W4A4, MIN_MAX, WIDE)
    calibrate(quantized, noise(3), sequential=True)
    seen: dict[int, Tensor] = {}
    quantizers: list[Any] = activation_quantizers(quantized)
    for quantizer in quantizers:
        quantizer.register_forward_pre_hook(lambda module, arguments: seen.update({id(module): arguments[0].detach()}))
    quantized(noise(3).requires_grad_(True))  # without gradients the slices of q, k and v are changed in place
    scales = [(quantizer.scale.item(), quantizer.zero_point.item()) for quantizer in quantizers]
    for quantizer in quantizers:
        assert not quantizer.observing
        quantizer.fit(seen[id(quantizer)])
    assert [(quantizer.scale.item(), quantizer.zero_point.item()) for quantizer in quantizers] == scales
    calibrate(quantized, noise(3))
    assert sum(quantizer.scale.item() != scale for quantizer, (scale, _) in zip(quantizers, scales, strict=True)) > 12


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
def test_what_is_quantized_is_plain_but_for_the_softmax(build: Callable[[], Any]) -> None:
    rows = describe(repq(build(), Bits(3, 5)))
    channel, tensor = (
        "uniform asymmetric per channel, percentile by MSE",
        "uniform asymmetric per tensor, percentile by MSE",
    )
    known = "uniform asymmetric per tensor"
    for row in rows:
        operation = str(row["operation"])
        if operation.endswith("weight"):
            assert (row["quantizer"], row["bits"]) == (channel, 3)
        elif operation.endswith("softmax"):
            assert (row["quantizer"], row["bits"]) == ("log-sqrt2 per tensor, percentile by MSE", 5)
        elif operation == "patch_embed.proj input":
            assert (row["quantizer"], row["bits"]) == (f"{known}, known range -5 to 5", 8)
        else:
            assert (row["quantizer"], row["bits"]) == (tensor, 5)
    assert len(rows) == len(describe(insert_quantizers(build(), Bits(3, 5), MIN_MAX, WIDE)))


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
def test_the_original_is_left_as_it_was(build: Callable[[], Any]) -> None:
    model = build()
    state, logits = copy.deepcopy(model.state_dict()), model(noise(2))
    repq(model)
    assert torch.equal(model(noise(2)), logits)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(isinstance(m, Quantizer) for m in model.modules())


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
@pytest.mark.parametrize(
    ("bits", "distance"), [("w32a8", 0.1), ("w8a32", 0.02), ("w4a4", 0.5), ("w2a2", 1.2), ("w32a32", 0)]
)
def test_one_image_and_every_width(build: Callable[[], Any], bits: str, distance: float) -> None:
    """Root mean square of the error, in standard deviations of the logits (two unrelated sets: about 1.4)."""
    model, images = build(), noise(1)
    logits = repq(model, Bits.parse(bits), images=1)(images)
    error = (logits - model(images)).square().mean().sqrt() / model(images).std()
    assert error.item() <= distance


def test_an_all_zero_layer_stays_zero() -> None:
    model = tiny_vit()
    for module in model.blocks[0].mlp.modules():
        if isinstance(module, nn.Linear):
            module.weight.zero_()
            module.bias.zero_()
    quantized = repq(model)
    x = torch.randn((2, 17, 16), generator=torch.Generator().manual_seed(9))
    assert quantized.blocks[0].mlp(quantized.blocks[0].norm2(x)).abs().max().item() <= 1e-6
    assert quantized(noise(2)).isfinite().all()


def test_the_estimate_is_one_forward_pass() -> None:
    assert RepQ().image_passes(RepQConfig(), 33) == 11


LEARNERS = {"glf": (Glf, GlfConfig), "fima": (Fima, FimaConfig), "aphq": (Aphq, AphqConfig)}


def learned(name: str, iterations: int, seed: int = 0) -> tuple[Any, Any]:
    model, (backend, config_class) = tiny_vit(seed), LEARNERS[name]
    context = QuantizationContext(torch.Generator().manual_seed(0), WIDE)
    config = replace(
        config_class(), iterations=iterations, learning_rate=1e-3, rounding_rate=0.3, scale_rate=1e-2, drop=0.0
    )
    return model, backend().quantize(model, noise(16), Bits(3, 3), config, context)


@pytest.mark.parametrize("name", LEARNERS)
def test_operands_of_attention_are_uniform_per_head_and_images_have_eight_bits(name: str) -> None:
    rows = {str(row["operation"]): row for row in describe(learned(name, 2)[1])}
    assert rows["patch_embed.proj input"]["bits"] == 8
    assert {row["bits"] for operation, row in rows.items() if operation != "patch_embed.proj input"} == {3}
    for operand in ("query", "key", "value", "softmax"):
        text = str(rows[f"blocks.1.attn {operand}"]["quantizer"])
        assert text == "uniform asymmetric per tensor, percentile by MSE, then learned, per head"


def test_learning_brings_the_features_of_its_images_nearer() -> None:
    """Over three models, as what one reaches turns with the last bit of a sum."""
    errors = []
    for iterations in (0, 60):
        total = 0.0
        for seed in range(3):
            model, other = learned("glf", iterations, seed)
            total += (other(noise(16)) - model(noise(16))).square().mean().item()
        errors.append(total)
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize(("name", "kind"), [("fima", FisherObjective), ("aphq", PerturbationObjective)])
def test_units_learn_by_the_loss_of_their_paper(
    name: str, kind: type[Objective], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the classifier, which has no rest behind it; roundings learned with it are not those learned without."""
    made = Mock(side_effect=kind)
    monkeypatch.setattr(reconstruct, kind.__name__, made)
    quantized = learned(name, 3)[1]
    assert made.call_count == 3
    monkeypatch.setattr(reconstruct, kind.__name__, lambda target, *_: LocalObjective(target))
    assert not torch.equal(learned(name, 3)[1](noise(2)), quantized(noise(2)))


def test_adalog_fits_logarithms_per_head_and_behind_gelu_and_learns_nothing() -> None:
    model = tiny_vit()
    context = QuantizationContext(torch.Generator().manual_seed(0), WIDE)
    quantized = AdaLog().quantize(model, noise(8), Bits(4, 4), AdaLogConfig(), context)
    rows = {str(row["operation"]): str(row["quantizer"]) for row in describe(quantized)}
    assert (
        rows["blocks.0.attn softmax"]
        == "log with zero beside its powers per tensor, least error of rows and their sums, per head"
    )
    assert rows["blocks.0.mlp.fc2 input"] == "shifted log per tensor, percentile by MSE"
    assert rows["blocks.0.attn key"] == "uniform asymmetric per tensor, percentile by MSE, per head"
    recipe = BlockwiseConfig(attention="adaptive_log", gelu="shifted_log", per_head=True).grids(REPQ)
    expected = reparameterized(model, noise(8), Bits(4, 4), WIDE, recipe)
    fold_weights(expected)
    assert torch.equal(quantized(noise(3)), expected(noise(3)))
