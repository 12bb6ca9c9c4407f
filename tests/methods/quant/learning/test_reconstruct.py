"""Block-by-block learning against slow references: one step by hand, dropping, learned steps, determinism."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import WIDE, double, fake, noise, tiny_vit
from torch import Tensor, nn

from methods.backends import blockwise
from methods.backends.blockwise import Blockwise, BlockwiseConfig, loosen
from methods.bits import Bits
from methods.contracts import QuantizationContext, silent
from methods.quant.calibrate import calibrate
from methods.quant.insert import activation_quantizers, insert_quantizers, quantized_layers
from methods.quant.layers import QuantizedLayer
from methods.quant.learning.learned_parts import drawn, dropping
from methods.quant.learning.reconstruct import reconstruct
from methods.quant.learning.settings import Learning
from methods.quant.quantizers.adaround import AdaRoundQuantizer
from methods.quant.quantizers.ranges import MinMaxRange
from methods.quant.quantizers.uniform import UniformQuantizer

W4A4 = Bits(4, 4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prepared(model: Any, images: Tensor) -> Any:
    quantized = insert_quantizers(model, W4A4, blockwise.RECIPE, WIDE)
    calibrate(quantized, images)
    return quantized


def learned(learning: Learning, seed: int = 0, images: int = 4) -> Any:
    model = tiny_vit()
    quantized = prepared(model, noise(images))
    reconstruct(model, quantized, noise(images), learning, generator(seed), silent)
    return quantized


def weights_of(model: nn.Module) -> Tensor:
    return torch.cat([layer.layer.weight.flatten() for _, layer in quantized_layers(model)])


@pytest.mark.parametrize("aim", ["network", "unit"])
def test_two_steps_of_the_classifier_equal_adam_by_hand(aim: str) -> None:
    """Loss, straight-through gradient, Adam and the half cosine, in float64."""
    model, images, rate = tiny_vit(), noise(4), 1e-3
    quantized = prepared(model, images)
    quantized.head.weights.scale.mul_(0.6)  # so that some weights are clipped, and get no gradient
    seen: list[Tensor] = []
    quantized.head.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].detach().clone()))
    learning = Learning(iterations=2, learning_rate=rate, target=aim)
    reconstruct(model, quantized, images, learning, generator(), silent)
    x = fake(double(seen[-1]), quantized.head.inputs)
    local = double(seen[-1]) @ double(model.head.weight).T + double(model.head.bias)
    target = double(model(images)) if aim == "network" else local
    assert np.abs(local - double(model(images))).max() > 0.05
    parameters = [double(model.head.weight).copy(), double(model.head.bias).copy()]
    first, second = ([np.zeros_like(p) for p in parameters] for _ in range(2))
    scale, zero = double(quantized.head.weights.scale), double(quantized.head.weights.zero_point)
    for step, cosine in ((1, 1.0), (2, 0.5)):
        weight, bias = parameters
        error = x @ fake(weight, quantized.head.weights).T + bias - target
        steps = np.round(weight / scale) + zero
        inside = (steps >= 0) & (steps <= 15)
        gradients = [2 / len(x) * (error.T @ x) * inside, 2 / len(x) * error.sum(0)]
        for parameter, gradient, m, v in zip(parameters, gradients, first, second, strict=True):
            m += 0.1 * (gradient - m)
            v += 0.001 * (gradient**2 - v)
            unbiased = m / (1 - 0.9**step), v / (1 - 0.999**step)
            parameter -= rate * cosine * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    assert (~inside).sum() > 0
    assert double(quantized.head.layer.weight) == pytest.approx(parameters[0], abs=2e-6)
    assert double(quantized.head.layer.bias) == pytest.approx(parameters[1], abs=2e-6)
    assert np.abs(parameters[0] - double(model.head.weight)).max() > rate


def test_a_batch_is_drawn_anew_for_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    lots: list[int] = []
    original = nn.functional.conv2d

    def counting(x: Tensor, *rest: Any) -> Tensor:
        if not x.is_meta:  # a dry run counts for nothing
            lots.append(len(x))
        return original(x, *rest)

    monkeypatch.setattr(nn.functional, "conv2d", counting)
    once = learned(Learning(iterations=3, batch=2), images=5)
    assert lots == [5, 5, 2, 2, 2, 5]  # the original, calibration, three steps, and on to the next unit
    assert torch.equal(weights_of(once), weights_of(learned(Learning(iterations=3, batch=2), images=5)))
    assert not torch.equal(weights_of(once), weights_of(learned(Learning(iterations=3, batch=2), seed=1, images=5)))
    large, every = (learned(Learning(iterations=3, batch=size), seed=size) for size in (64, 0))
    assert torch.equal(weights_of(large), weights_of(every))


def test_dropping_everything_learns_with_floating_point_activations() -> None:
    """What a unit puts out while all is dropped is what it puts out with its activation quantizers taken away."""
    quantized = prepared(tiny_vit(), noise(4))
    block, x = quantized.blocks[0], noise(2).flatten(1)[:, : 17 * 16].reshape(2, 17, 16)
    block.attn.qkv.layer.weight.requires_grad_(True)
    with dropping(activation_quantizers(block), 1.0, generator()):
        found = block(x)
    rounded = block(x)
    for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
        layer.inputs, layer.outputs = None, nn.ModuleList()
    block.attn.attn_drop = nn.Identity()
    assert torch.equal(found, block(x))
    assert (found - rounded).abs().max().item() > 0.1


@pytest.mark.parametrize("drop", [0.125, 0.5])
def test_dropping_leaves_a_share_of_the_values_and_passes_their_gradients(drop: float) -> None:
    quantizer = UniformQuantizer(2, MinMaxRange())
    quantizer.fit(torch.tensor([0.0, 1.0]))
    x = torch.linspace(-1.0, 3.0, 40_001).requires_grad_(True)
    with dropping([quantizer], drop, generator()):
        out = quantizer(x)
    exact, rounded = out == x, quantizer(x.detach())
    assert exact.float().mean().item() == pytest.approx(drop, abs=0.01)
    assert torch.equal(out[~exact], rounded[~exact])
    out.sum().backward()
    inside = (x > -1 / 6) & (x < 7 / 6)
    passed: Any = x.grad
    assert torch.equal(passed, (exact | inside).float())
    assert torch.equal(quantizer(x.detach()), rounded)  # no hook is left


def test_draws_are_independent_of_place_and_of_one_another() -> None:
    stream = generator()
    first, second = (drawn(torch.Size((64, 257)), 64, stream).double() for _ in range(2))
    assert first.mean().item() == pytest.approx(0.25, abs=0.01)
    assert (first * second).mean().item() == pytest.approx(1 / 16, abs=0.01)
    assert first.mean(0).std().item() == pytest.approx((0.25 * 0.75 / 64) ** 0.5, rel=0.15)
    assert drawn(torch.Size((1000,)), 256, stream).all()


def test_drop_of_zero_is_off_and_other_drops_follow_the_seed() -> None:
    base = Learning(iterations=4, learning_rate=1e-3)
    same = [weights_of(learned(replace(base, drop=0.0), seed)) for seed in (0, 1)]
    assert torch.equal(*same)
    first, again, other = (weights_of(learned(replace(base, drop=0.5), seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, same[0])


def test_learned_rounding_ends_at_a_neighbour_of_every_weight() -> None:
    learning = Learning(iterations=30, learning_rate=1e-3, rounding="adaround", rounding_rate=0.3)
    model, quantized = tiny_vit(), learned(learning)
    turned = 0
    for name, layer in quantized_layers(quantized):
        start: Any = prepared(tiny_vit(), noise(4)).get_submodule(name)
        scale, zero = start.weights.scale, start.weights.zero_point
        before: Any = model.get_submodule(name)
        low, high = (torch.clamp(f(before.weight / scale), -zero, 15 - zero) for f in (torch.floor, torch.ceil))
        steps = layer.layer.weight / scale
        assert torch.minimum((steps - low).abs(), (steps - high).abs()).max().item() < 1e-4, name
        assert type(layer.weights) is UniformQuantizer
        turned += int((steps - start.weights(before.weight) / scale).abs().gt(0.5).sum())
        assert not torch.equal(quantized.get_submodule(name).layer.bias, before.bias)
    assert turned > 50
    assert not any(isinstance(m, AdaRoundQuantizer) for m in quantized.modules())


def test_learned_steps_end_as_plain_quantizers_with_other_steps() -> None:
    fixed, quantized = learned(Learning(iterations=5)), learned(Learning(iterations=5, scales="learned"))
    uniform: list[tuple[Any, Any]] = [
        (before, after)
        for before, after in zip(activation_quantizers(fixed), activation_quantizers(quantized), strict=True)
        if isinstance(before, UniformQuantizer)
    ]
    assert len(uniform) == 16
    for before, after in uniform:
        assert type(after) is UniformQuantizer
        assert torch.equal(before.zero_point, after.zero_point)
        assert not after.scale.requires_grad
        assert abs(after.scale - before.scale).item() <= 5 * 1e-3 * before.scale.item() + 1e-6
    moved = [a.scale.item() != b.scale.item() for a, b in uniform]
    assert sum(moved) > 13


def test_the_first_learned_step_of_a_scale_follows_the_sign_of_its_gradient() -> None:
    """The patch embedding's input quantizer: the loss' gradient at its output times LSQ's slope, summed in float64.

    Its range is known and would not be learned, so that of the images takes its place.
    """
    model, images, rate = tiny_vit(), noise(4), 1e-3
    quantized = prepared(model, images)
    quantizer = quantized.patch_embed.proj.inputs = UniformQuantizer(4, MinMaxRange())
    quantizer.fit(images)
    scale, zero = quantizer.scale.item(), quantizer.zero_point.item()
    weight = quantized.patch_embed.proj.weights(model.patch_embed.proj.weight)
    rounded = quantizer(images)
    out = nn.functional.conv2d(rounded, weight, model.patch_embed.proj.bias, stride=4)
    error = 2 * (out - model.patch_embed.proj(images)) / (4 * 16)
    upstream = nn.functional.conv_transpose2d(error, weight, stride=4).double()
    steps = (images / scale).double()
    codes = steps.round().clamp(-zero, 15 - zero)
    slope = torch.where(codes == steps.round(), codes - steps, codes)
    gradient = (upstream * slope).sum().item()
    learning = Learning(iterations=1, scales="learned", scale_rate=rate)
    reconstruct(model, quantized, images, learning, generator(), silent)
    moved = quantized.patch_embed.proj.inputs.scale.item() - scale
    assert moved == pytest.approx(-rate * scale * np.sign(gradient), rel=1e-2)


def test_loosened_weights_round_to_the_same_values_and_lie_nearer_to_where_they_were() -> None:
    quantizer = UniformQuantizer(3, MinMaxRange(), axis=0)
    layer = QuantizedLayer(nn.Linear(30, 6), None, quantizer)
    before = torch.randn((6, 30), generator=generator(3))
    quantizer.fit(before)
    grid = quantizer(torch.floor(before / quantizer.scale) * quantizer.scale)
    layer.layer.weight.data.copy_(grid)
    loosen([(layer, before)])
    after = layer.layer.weight.detach()
    assert torch.allclose(quantizer(after), grid, atol=1e-6)
    near = (before - grid).abs() <= 0.49 * quantizer.scale
    assert 0.2 < near.float().mean().item() < 0.95
    assert torch.allclose(after[near], before[near], atol=1e-6)
    moved = ((after - grid) / quantizer.scale)[~near]
    assert torch.allclose(moved, 0.49 * (before - grid)[~near].sign(), atol=1e-4)


def test_combinations_run_to_finite_logits_and_differ() -> None:
    options: dict[str, Any] = {"init": "erq", "attention": "log_sqrt2", "drop": 0.5, "rounding": "adaround"}
    config = BlockwiseConfig(iterations=3, scales="learned", batch=2, **options)
    model = tiny_vit()
    found = Blockwise().quantize(model, noise(4), W4A4, config, QuantizationContext(generator(), WIDE))(noise(4))
    error = (found - model(noise(4))).square().mean().sqrt() / model(noise(4)).std()
    assert 0.01 < error.item() < 0.5


@pytest.mark.parametrize("rounding", ["nearest", "adaround"])
def test_what_stops_learning_leaves_a_plain_network(rounding: str) -> None:
    """As where learning ends: plain quantizers, nothing to learn, no hook."""

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    model, images = tiny_vit(), noise(4)
    quantized = prepared(model, images)
    kinds = {name: type(module) for name, module in quantized.named_modules()}
    learning = Learning(iterations=2, rounding=rounding, scales="learned", drop=0.5)
    with pytest.raises(KeyboardInterrupt):
        reconstruct(model, quantized, images, learning, generator(), stop)
    assert {name: type(module) for name, module in quantized.named_modules()} == kinds
    assert not any(parameter.requires_grad for parameter in quantized.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in [*model.modules(), *quantized.modules()])
