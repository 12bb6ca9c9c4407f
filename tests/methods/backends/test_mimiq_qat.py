"""`mimiq_qat`: its losses against slow loops in float64, a whole step by hand, what is learned and what is left."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import WIDE, noise, tiny_swin, tiny_vit
from torch import Tensor, nn

from methods.backends import mimiq_qat
from methods.backends.mimiq_qat import Distillation, MimiQQat, MimiQQatConfig, head_structure_loss, logit_loss
from methods.bits import Bits
from methods.contracts import QuantizationContext
from methods.errors import UsageError
from methods.optimisation.loop import DivergenceError
from methods.quant.calibrate import calibrate
from methods.quant.insert import fold_weights, insert_quantizers, quantized_layers
from methods.quant.operations import describe
from methods.quant.quantizers.base import Quantizer
from methods.quant.quantizers.learned_step import LearnedStepQuantizer
from methods.quant.quantizers.uniform import OffsetQuantizer, UniformQuantizer

W4A4 = Bits(4, 4)
CONFIG = MimiQQatConfig(epochs=4, batch=3, learning_rate=2e-3, augment=False)


def train(model: Any, seed: int = 0, bits: Bits = W4A4, images: int = 5, **changes: Any) -> Any:
    context = QuantizationContext(torch.Generator().manual_seed(seed), WIDE)
    return MimiQQat().quantize(model, noise(images), bits, dataclasses.replace(CONFIG, **changes), context)


def slow_head_loss(target: Tensor, output: Tensor, prefix: int) -> Tensor:
    """L_head, image by image, window by window, head by head, channel by channel."""
    n, windows, _, heads, width = target.shape
    terms = []
    for i in range(n):
        for w in range(windows):
            for h in range(heads):
                for c in range(width):
                    t, q = target[i, w, prefix:, h, c], output[i, w, prefix:, h, c]
                    cov = ((t - t.mean()) * (q - q.mean())).mean()
                    variances = (t - t.mean()).square().mean() + (q - q.mean()).square().mean()
                    terms.append((2 * cov + 9e-4) / (variances + 9e-4))
    return 1 - torch.stack(terms).mean()


@pytest.mark.parametrize(("windows", "prefix"), [(1, 1), (3, 0), (1, 2)])
def test_head_loss_and_gradient_equal_a_loop_over_channels(windows: int, prefix: int) -> None:
    generator, shape = torch.Generator().manual_seed(windows), (2, windows, 6, 2, 3)
    target, output = (0.1 * torch.randn(shape, generator=generator) + 1 for _ in range(2))
    output.requires_grad_()
    exact = output.detach().double().requires_grad_()
    found, expected = head_structure_loss(target, output, prefix), slow_head_loss(target.double(), exact, prefix)
    found.backward()
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    assert output.grad is not None
    assert exact.grad is not None
    assert (output.grad.double() - exact.grad).abs().max().item() < 1e-4 * exact.grad.abs().max().item()
    assert head_structure_loss(target, target, prefix).item() == pytest.approx(0.0, abs=1e-6)


def test_logit_loss_by_definition() -> None:
    target, output = (
        torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.5, 3.0]]),
        torch.tensor([[0.0, 2.5, 1.0], [1.0, 0.5, 0.0]]),
    )
    total = 0.0
    for row_t, row_o in zip(target.tolist(), output.tolist(), strict=True):
        p, q = ([math.exp(z / 5) / sum(math.exp(y / 5) for y in row) for z in row] for row in (row_t, row_o))
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert logit_loss(target, output, 5.0).item() == pytest.approx(25 * total / 2, rel=1e-5)


def attention_values(model: Any, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return logits and, per layer, what enters the projection after attention [maps, tokens, heads, d]."""
    found: list[Tensor] = []
    hooks = [
        m.proj.register_forward_pre_hook(lambda module, x, m=m: found.append(x[0].unflatten(-1, (m.num_heads, -1))))
        for m in model.modules()
        if hasattr(m, "attn_drop")
    ]
    logits = model(images)
    for hook in hooks:
        hook.remove()
    return logits, found


@pytest.mark.parametrize(("build", "prefix", "windows"), [(tiny_vit, 1, [1, 1]), (tiny_swin, 0, [4, 4, 1, 1])])
def test_distillation_is_the_sum_of_its_losses(build: Callable[[], Any], prefix: int, windows: list[int]) -> None:
    model, other = build(), build(3)  # type: ignore[call-arg]
    images = noise(2)
    expected, targets = attention_values(model, images)
    logits, outputs = attention_values(other, images)
    heads = [
        head_structure_loss(t.unflatten(0, (-1, w)), o.unflatten(0, (-1, w)), prefix)
        for t, o, w in zip(targets, outputs, windows, strict=True)
    ]
    total = logit_loss(expected, logits, 5.0) + 7.0 * torch.stack(heads).mean()
    assert Distillation(model, other, 5.0, 7.0)(images).item() == pytest.approx(total.item(), rel=1e-5)
    assert Distillation(model, other, 5.0, 0.0)(images).item() == pytest.approx(
        logit_loss(expected, logits, 5.0).item(), rel=1e-5
    )
    with pytest.raises(DivergenceError, match="not finite"):
        Distillation(model, other, 5.0, 0.0)(images * math.nan)


def start(model: Any, bits: Bits = W4A4) -> Any:
    """The network as it is before training."""
    quantized = insert_quantizers(model, bits, CONFIG.recipe(), WIDE)
    for _, layer in quantized_layers(quantized):
        if isinstance(layer.layer, nn.Conv2d):
            layer.inputs = None
    calibrate(quantized, noise(5))
    return quantized


def test_a_step_is_nesterovs_on_weights_and_steps_alike() -> None:
    model = tiny_vit()
    by_hand = start(model).requires_grad_(True)
    expected = dict(by_hand.named_parameters())
    before = {name: p.detach().clone() for name, p in expected.items()}
    Distillation(model, by_hand, 5.0, 10.0)(noise(5)).backward()
    trained = start(model)
    context = QuantizationContext(torch.Generator().manual_seed(0), WIDE)
    mimiq_qat._train(model, trained, noise(5), dataclasses.replace(CONFIG, epochs=1, warmup=0, batch=5), context)
    moved = 0
    for name, parameter in trained.named_parameters():
        gradient = expected[name].grad
        step = torch.zeros(()) if gradient is None else 2e-3 * 1.9 * gradient  # Nesterov's first step
        assert torch.allclose(parameter, before[name] - step, atol=1e-6 + 1e-3 * step.abs().max().item()), name
        moved += int(not torch.equal(parameter, before[name]))
    assert moved > 40
    assert "blocks.0.attn.attn_drop.scale" in expected
    assert "blocks.1.attn.qkv.outputs.2.offset" in expected


def test_weights_rest_during_the_warm_up_while_steps_are_learned() -> None:
    model = tiny_vit()
    trained = start(model)
    before = {name: p.detach().clone() for name, p in trained.named_parameters()}
    context = QuantizationContext(torch.Generator().manual_seed(0), WIDE)
    mimiq_qat._train(model, trained, noise(5), dataclasses.replace(CONFIG, epochs=2), context)
    changed = {name for name, p in trained.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert {name.rpartition(".")[2] for name in changed} == {"scale", "offset"}


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
def test_training_brings_the_network_nearer_to_the_model(build: Callable[[], Any]) -> None:
    model, images = build(), noise(5)
    plain = start(model)
    fold_weights(plain)
    quantized = train(model, epochs=40)
    with torch.no_grad():
        losses = [Distillation(model, network, 5.0, 10.0)(images).item() for network in (plain, quantized)]
    assert losses[1] < 0.9 * losses[0]


def test_ranges_stop_following_the_weights_where_something_raised_meanwhile() -> None:
    network = start(tiny_vit())
    with pytest.raises(KeyboardInterrupt), mimiq_qat._following_weights(network):
        raise KeyboardInterrupt
    assert not any(m.observing or m.sequential for m in network.modules() if isinstance(m, Quantizer))


def test_what_is_left_is_plain_quantizers_and_weights_on_their_grid() -> None:
    quantized = train(tiny_vit())
    quantizers = [m for m in quantized.modules() if isinstance(m, Quantizer)]
    assert not any(isinstance(m, LearnedStepQuantizer) or m.observing for m in quantizers)
    assert sum(isinstance(m, OffsetQuantizer) for m in quantizers) == 2 * (4 + 3 + 1) + 1  # the image's is not learned
    assert not any(p.requires_grad for p in quantized.parameters())
    for _, layer in quantized_layers(quantized):
        weight, quantizer = layer.layer.weight.flatten(1), layer.weights
        assert isinstance(quantizer, UniformQuantizer)
        steps = weight / quantizer.scale.reshape(-1, 1)
        assert (steps - steps.round()).abs().max().item() < 1e-4
        assert torch.equal(quantizer(layer.layer.weight), layer.layer.weight)
        assert 6.99 < steps.abs().max(dim=1).values.min().item() < 8.1  # the range is that of the learned weight
    rows = {row["operation"]: row["quantizer"] for row in describe(quantized)}
    assert rows.pop("patch_embed.proj input") == "uniform asymmetric per tensor, known range -5 to 5"
    assert set(rows.values()) == {
        "uniform symmetric per channel, min-max",
        "uniform offset per tensor, min-max, then learned",
    }


def test_the_last_epoch_counts_and_the_frozen_network_is_the_trained_one(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Tensor] = []
    original = mimiq_qat._freeze

    def freeze(quantized: nn.Module) -> None:
        with torch.no_grad():
            kept.append(quantized(noise(2)))
        original(quantized)

    monkeypatch.setattr(mimiq_qat, "_freeze", freeze)
    quantized = train(tiny_vit())
    assert torch.allclose(quantized(noise(2)), kept[0], atol=1e-3)


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
def test_the_generator_alone_decides_and_the_model_is_left_alone(build: Callable[[], Any]) -> None:
    model = build()
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(1)
    first = train(model, seed=3, augment=True)(noise(2))
    torch.manual_seed(2)
    assert torch.equal(train(model, seed=3, augment=True)(noise(2)), first)
    assert not torch.equal(train(model, seed=4, augment=True)(noise(2)), first)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("bits", [Bits(4, 32), Bits(32, 4)])
def test_one_side_alone_is_trained_too(bits: Bits) -> None:
    model = tiny_vit()
    untrained = train(model, bits=bits, epochs=0)
    assert not torch.equal(train(model, bits=bits)(noise(2)), untrained(noise(2)))


def test_nothing_to_quantize_is_the_plain_model() -> None:
    model = tiny_vit()
    assert torch.equal(train(model, bits=Bits(32, 32))(noise(2)), model(noise(2)))


def test_the_passes_of_a_training_are_those_estimated() -> None:
    model, passes = tiny_vit(), list[float]()

    def count(module: nn.Module, arguments: tuple[Tensor]) -> None:  # the quantized network, a copy, has it too
        passes.append(len(arguments[0]) * (1.0 if torch.is_grad_enabled() else 1 / 3))

    model.register_forward_pre_hook(count)
    train(model)
    assert sum(passes) == pytest.approx(MimiQQat().image_passes(CONFIG, 5))


def test_settings_estimates_and_refusals() -> None:
    method = MimiQQat()
    config = method.default_config("deit_t")
    assert (config.epochs, config.batch, config.learning_rate, config.warmup) == (100, 16, 1e-3, 2)
    assert (config.temperature, config.head_weight, config.gradient_scale) == (5.0, 10.0, 0.01)
    assert method.image_passes(config, 3) == 401
    assert method.short == {"epochs": 30}
    with pytest.raises(UsageError, match="Identity is not supported"):
        train(nn.Identity())
    bad: dict[str, Any]
    for bad, message in (
        ({"epochs": -1}, "epochs >= 0"),
        ({"batch": 0}, "batch >= 1"),
        ({"learning_rate": 0.0}, "its rate"),
        ({"momentum": 1.0}, "momentum from 0 to 1"),
    ):
        with pytest.raises(UsageError, match=message):
            MimiQQatConfig(**bad)
