"""`ias`: what each of its three stages does and leaves as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import WIDE, noise, tiny_swin, tiny_vit
from torch import Tensor, nn

from methods.backends import ias
from methods.backends.ias import Ias, IasConfig, exact_weights
from methods.bits import Bits
from methods.contracts import QuantizationContext, Report, silent
from methods.errors import UsageError
from methods.models.trace import trace
from methods.quant.calibrate import calibrate, observing
from methods.quant.insert import insert_quantizers, quantized_layers
from methods.quant.learning.reconstruct import reconstruct
from methods.quant.operations import describe
from methods.quant.quantizers.uniform import OffsetQuantizer, UniformQuantizer
from methods.quant.reparameterize import reparameterize

W4A4 = Bits(4, 4)
CONFIG = IasConfig(iterations=8, learning_rate=1e-3, batch=0)
Build = Callable[[], Any]


def quantize(
    model: Any, config: IasConfig = CONFIG, bits: Bits = W4A4, images: int = 4, seed: int = 0, report: Report = silent
) -> Any:
    context = QuantizationContext(torch.Generator().manual_seed(seed), WIDE, report)
    return Ias().quantize(model, noise(images), bits, config, context)


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Record the network before and after each learning stage."""
    recorded: list[dict[str, Any]] = []

    def recording(model: nn.Module, quantized: nn.Module, *rest: Any) -> None:
        before = copy.deepcopy(quantized)
        reconstruct(model, quantized, *rest)
        recorded.append({"before": before, "after": copy.deepcopy(quantized)})

    monkeypatch.setattr(ias, "reconstruct", recording)
    return recorded


def unquantized(quantized: Any, images: Tensor) -> Tensor:
    """The function a quantized network computes with all quantizers off."""
    network = copy.deepcopy(quantized)
    for _, layer in quantized_layers(network):
        layer.folded = True
    with torch.no_grad(), observing(network):
        out: Tensor = network(images)
    return out


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
def test_without_learning_the_second_stage_leaves_the_function_as_it_was(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks: list[Any] = []
    monkeypatch.setattr(ias, "fold_weights", networks.append)
    model = build()
    quantize(model, IasConfig(iterations=0))
    assert (unquantized(networks[0], noise(2)) - model(noise(2))).abs().max().item() <= 1e-4
    assert not any(isinstance(m, OffsetQuantizer) for m in networks[0].modules())


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
def test_the_second_stage_leaves_the_function_learned_in_the_first_as_it_was(
    build: Build, stages: list[dict[str, Any]]
) -> None:
    quantize(build())
    first, second = stages[0]["after"], stages[1]["before"]
    difference = (unquantized(first, noise(2)) - unquantized(second, noise(2))).abs().max().item()
    assert difference <= 1e-4
    assert (unquantized(first, noise(2)) - unquantized(stages[0]["before"], noise(2))).abs().max().item() > 1e-2


def test_weights_are_exact_and_activations_channel_wise_in_the_first_stage_only(stages: list[dict[str, Any]]) -> None:
    model = tiny_vit()
    quantize(model)
    first, third = stages[0]["before"], stages[1]["before"]
    for name in trace(model).norms:
        assert first.get_submodule(name).inputs.scale.numel() == 16
        assert third.get_submodule(name).inputs.scale.numel() == 1
    assert all(layer.folded for _, layer in quantized_layers(first))
    assert not any(layer.folded for _, layer in quantized_layers(third))
    for name, layer in quantized_layers(third):
        original: Any = model.get_submodule(name)
        found: Any = layer.weights
        expected: Any = ias.RECIPE.weights(4)
        expected.fit(layer.layer.weight)
        assert torch.equal(found.scale, expected.scale), name
        if name.endswith(("proj", "fc2", "head")):
            assert not torch.equal(layer.layer.weight, original.weight), name


def test_without_learning_it_is_calibration_with_exact_weights() -> None:
    model, images = tiny_swin(), noise(4)
    expected = insert_quantizers(model, W4A4, ias.RECIPE, WIDE)
    with exact_weights(expected):
        calibrate(expected, images, sequential=True)
        reparameterize(expected)
    found = quantize(model, IasConfig(iterations=0))
    with torch.no_grad():
        assert torch.equal(found(images), expected(images))


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
def test_learning_brings_the_logits_nearer(build: Callable[[int], Any]) -> None:
    """Over several models: any change of a weight, however small, makes the error of one of them three times another,
    as it turns roundings all through the network."""
    settings, images = (IasConfig(iterations=30, learning_rate=3e-3, batch=0), IasConfig(iterations=0)), noise(4)
    learned, plain = (
        sum((quantize(model, config)(images) - model(images)).square().mean().item() for model in map(build, range(3)))
        for config in settings
    )
    assert learned < 0.6 * plain


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
def test_what_is_quantized(build: Build) -> None:
    for row in describe(quantize(build(), IasConfig(iterations=0), Bits(3, 5))):
        operation = str(row["operation"])
        if operation.endswith("softmax"):
            assert (row["quantizer"], row["bits"]) == ("shift-uniform-log2 per tensor, percentile by MSE", 5)
        else:
            bits = 3 if operation.endswith("weight") else 8 if operation == "patch_embed.proj input" else 5
            assert (row["bits"], str(row["quantizer"]).startswith("uniform asymmetric")) == (bits, True)


def test_the_seed_draws_the_batches() -> None:
    config = IasConfig(iterations=2, learning_rate=1e-3, batch=2)
    first, again, other = (quantize(tiny_vit(), config, seed=seed)(noise(2)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("bits", "steps"), [("w4a4", 2 * 4 * 5), ("w6a6", 2 * 4), ("w4a8", 2 * 4 * 5), ("w8a32", 4), ("w32a8", 4)]
)
def test_every_step_is_reported_and_higher_widths_take_a_fifth(bits: str, steps: int) -> None:
    seen: list[tuple[int, int]] = []
    config = IasConfig(iterations=5, learning_rate=1e-4)
    quantize(tiny_vit(), config, Bits.parse(bits), images=2, report=lambda *step: seen.append(step))
    assert seen == [(step, steps) for step in range(1, steps + 1)]


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
@pytest.mark.parametrize(("bits", "distance"), [("w32a8", 0.1), ("w8a32", 0.02), ("w2a2", 1.2), ("w32a32", 0)])
def test_one_image_and_every_width(build: Build, bits: str, distance: float) -> None:
    """Root mean square of the error, in standard deviations of the logits (two unrelated sets: about 1.4)."""
    model, images = build(), noise(1)
    logits = quantize(model, IasConfig(iterations=2), Bits.parse(bits), images=1)(images)
    error = (logits - model(images)).square().mean().sqrt() / model(images).std()
    assert error.item() <= distance


def test_weights_are_quantized_again_where_something_raised_meanwhile() -> None:
    network = insert_quantizers(tiny_vit(), W4A4, ias.RECIPE, WIDE)
    with pytest.raises(KeyboardInterrupt), exact_weights(network):
        raise KeyboardInterrupt
    assert not any(layer.folded for _, layer in quantized_layers(network))


def test_a_constant_channel_stays_finite_and_exact_before_learning() -> None:
    model = tiny_vit()
    model.blocks[0].norm1.weight[3] = 0.0
    first = insert_quantizers(model, W4A4, ias.RECIPE, WIDE)
    with exact_weights(first):
        calibrate(first, noise(4), sequential=True)
        inputs: Any = first.get_submodule("blocks.0.attn.qkv").inputs
        normed = model.blocks[0].norm1(torch.randn((2, 17, 16), generator=torch.Generator().manual_seed(9)))
        assert torch.equal(inputs(normed)[..., 3], normed[..., 3])
    quantized = quantize(model)
    assert quantized(noise(2)).isfinite().all()
    assert all(m.scale.isfinite().all() for m in quantized.modules() if isinstance(m, UniformQuantizer))


def test_the_original_is_left_as_it_was_and_nothing_is_left_to_train() -> None:
    model = tiny_vit()
    state = copy.deepcopy(model.state_dict())
    quantized = quantize(model)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(p.requires_grad for p in [*model.parameters(), *quantized.parameters()])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in [*model.modules(), *quantized.modules()])


def test_settings_and_estimate() -> None:
    assert Ias().image_passes(IasConfig(iterations=100), 32) == 32 * 201
    assert Ias().image_passes(IasConfig(iterations=100), 128) == 128 + 200 * 64
    published = Ias().default_config("deit_t")
    assert [published.learning(Bits.parse(b)).iterations for b in ("w4a4", "w3a8", "w6a6")] == [1000, 1000, 200]
    assert (Ias.short, published.learning_rate, published.batch) == ({"iterations": 50}, 4e-5, 64)
    bad: list[dict[str, Any]] = [{"iterations": -1}, {"learning_rate": 0.0}, {"batch": -1}]
    for settings in bad:
        with pytest.raises(UsageError, match="iterations >= 0"):
            IasConfig(**settings)
