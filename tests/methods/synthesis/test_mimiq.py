"""MimiQ: inter-head similarity against a loop over pairs in float64, its looks, its loss on unfused attention."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import Array, double, noise, tiny_distilled, tiny_swin, tiny_vit
from torch import Tensor, nn
from torch.nn import functional

from methods.contracts import ImageSpace, SynthesisContext, SyntheticImages
from methods.errors import UsageError
from methods.models.architecture import attention_modules, attention_sites
from methods.models.attention import attention_operands
from methods.optimisation.views import Look
from methods.synthesis.mimiq import MimiQ, MimiQConfig, MimiQObjective
from methods.synthesis.mimiq_heads import head_dissimilarity

HALF = ImageSpace(16, 16, (0.5,) * 3, (0.5,) * 3)
CONFIG = MimiQConfig(images=3, iterations=4, roll=30)
VIT, SWIN = tiny_vit(), tiny_swin()


def context(seed: int = 0, micro_batch: int = 1 << 20) -> SynthesisContext:
    return SynthesisContext(HALF, 10, torch.Generator().manual_seed(seed), micro_batch=micro_batch)


def synthesize(model: Any = VIT, seed: int = 0, micro_batch: int = 1 << 20, **changes: Any) -> SyntheticImages:
    return MimiQ().synthesize(model, dataclasses.replace(CONFIG, **changes), context(seed, micro_batch))


def slow_ssim(x: Tensor, y: Tensor) -> Tensor:
    """SSIM of maps [..., keys] after min-max scaling, with global statistics."""
    x, y = ((m - m.amin(-1, True)) / (m.amax(-1, True) - m.amin(-1, True)) for m in (x, y))
    mx, my = x.mean(-1), y.mean(-1)
    vx, vy = ((m - m.mean(-1, True)).square().mean(-1) for m in (x, y))
    covariance = ((x - x.mean(-1, True)) * (y - y.mean(-1, True))).mean(-1)
    return (2 * mx * my + 1e-4) * (2 * covariance + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))


def slow_dissimilarity(maps: Tensor) -> Tensor:
    """Mean of 1 - SSIM^2 over pairs of heads, windows and queries, of maps [windows, heads, queries, keys]."""
    heads = maps.shape[1]
    pairs = [(a, b) for a in range(heads) for b in range(a + 1, heads)]
    return torch.stack([1 - slow_ssim(maps[:, a], maps[:, b]) ** 2 for a, b in pairs]).mean()


@pytest.mark.parametrize(("windows", "heads", "prefix"), [(1, 2, 1), (2, 3, 0), (1, 4, 2)])
def test_similarity_and_gradient_equal_a_loop_over_pairs(windows: int, heads: int, prefix: int) -> None:
    generator, shape = torch.Generator().manual_seed(heads), (2, windows, heads, 9 + prefix, 5)
    query, key = (torch.randn(shape, generator=generator).requires_grad_() for _ in range(2))
    weights = torch.tensor([1.0, -2.0])
    found = head_dissimilarity(query, key, prefix)
    (found * weights).sum().backward()
    exact = [t.detach().double().requires_grad_() for t in (query, key)]
    maps = (exact[0] @ exact[1].transpose(-2, -1))[..., prefix:, prefix:]
    expected = torch.stack([slow_dissimilarity(image) for image in maps])
    (expected * weights).sum().backward()
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    for mine, slow in zip((query, key), exact, strict=True):
        assert mine.grad is not None
        assert slow.grad is not None
        assert (mine.grad.double() - slow.grad).abs().max().item() < 1e-4 * slow.grad.abs().max().item()


def test_equal_heads_cost_nothing_whatever_their_scale_and_others_do() -> None:
    query, key = (torch.randn((1, 1, 1, 8, 4), generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    scales = torch.tensor([1.0, 3.0, 0.2])[:, None, None]
    assert head_dissimilarity(query * scales, key, 0).item() == pytest.approx(0.0, abs=1e-5)
    others = torch.randn((1, 1, 3, 8, 4), generator=torch.Generator().manual_seed(2))
    assert head_dissimilarity(others, key, 0).item() > 0.3


def test_a_map_without_spread_is_finite() -> None:
    query = torch.zeros((1, 1, 2, 4, 3)).requires_grad_()
    loss = head_dissimilarity(query, torch.randn(1, 1, 2, 4, 3), 0)
    loss.sum().backward()
    assert math.isfinite(loss.item())
    assert query.grad is not None
    assert torch.isfinite(query.grad).all()


def slow_maps(model: Any, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return logits and Q K^T [maps, heads, tokens, tokens] of every layer, in float64, head by head."""
    plain, found = copy.deepcopy(model).double(), list[Tensor]()
    for attention in attention_modules(plain):

        def read(module: Any, arguments: Any, output: Tensor, attention: Any = attention) -> None:
            heads = attention.num_heads
            width = output.shape[-1] // (3 * heads)
            query, key, _ = output.chunk(3, dim=-1)
            parts = [slice(h * width, (h + 1) * width) for h in range(heads)]
            found.append(torch.stack([query[..., p] @ key[..., p].transpose(1, 2) for p in parts], dim=1))

        attention.qkv.register_forward_hook(read)
    return plain(images), found


def slow_terms(
    model: Any, images: Tensor, labels: Tensor, prefix: int, windows: list[int], look: Look
) -> dict[str, Tensor]:
    """Return the three terms of MimiQ's loss for float64 images."""
    down, right = look.offsets
    shown = images.roll((down, right), (2, 3)) * look.gain.double() + look.shift.double()
    logits, maps = slow_maps(model, shown)
    similarity = []
    for layer, count in zip(maps, windows, strict=True):
        grouped = layer[:, :, prefix:, prefix:].unflatten(0, (-1, count))
        similarity.append(torch.stack([slow_dissimilarity(image) for image in grouped]).mean())
    x = shown
    straight = [x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]]
    oblique = [x[..., 1:, 1:] - x[..., :-1, :-1], x[..., 1:, :-1] - x[..., :-1, 1:]]
    norms = [s.square().sum().sqrt() for s in straight] + [o.square().sum().sqrt() / math.sqrt(2) for o in oblique]
    variation = torch.stack(norms).sum()
    similar = torch.stack(similarity).mean()
    return {"oh": functional.cross_entropy(logits, labels), "ssim": 0.7 * similar, "tv": 1e-3 * variation}


@pytest.mark.parametrize("micro_batch", [1 << 20, 2])
@pytest.mark.parametrize(
    ("model", "prefix", "windows"), [(VIT, 1, [1, 1]), (SWIN, 0, [4, 4, 1, 1]), (tiny_distilled(), 2, [1, 1])]
)
def test_loss_and_gradient_equal_the_formula_on_unfused_attention(
    model: Any, prefix: int, windows: list[int], micro_batch: int
) -> None:
    config = dataclasses.replace(CONFIG, ssim_weight=0.7, tv_weight=1e-3)
    objective = MimiQObjective(model, config, context(micro_batch=micro_batch))
    objective.context.generator.manual_seed(5)
    look = Look.draw((3, 3), 4, 1.0, 0.25, torch.Generator().manual_seed(5))  # 60 px of 224 at 16 px; half of 0.5
    images, terms = noise(3).requires_grad_(), dict.fromkeys(("oh", "ssim", "tv"), 0.0)
    for group in objective(images, 2):
        torch.stack(list(group.values())).sum().backward()
        terms |= {name: terms[name] + value.item() for name, value in group.items()}
    exact = images.detach().double().requires_grad_()
    expected = slow_terms(model, exact, objective.targets.argmax(1), prefix, windows, look)
    torch.stack(list(expected.values())).sum().backward()
    assert terms == {name: pytest.approx(value.item(), rel=1e-4) for name, value in expected.items()}
    assert images.grad is not None
    assert exact.grad is not None
    assert (images.grad.double() - exact.grad).abs().max().item() < 1e-3 * exact.grad.abs().max().item()


def test_operands_are_behind_their_norms() -> None:
    model = tiny_vit(qk_norm=True)
    site = attention_sites(model)[0]
    with attention_operands([site]) as found:
        model(noise(2))
    assert len(found) == 1
    attention: Any = site.module
    for operand, norm in zip(found[0], (attention.q_norm, attention.k_norm), strict=True):
        centred = (double(operand) - double(norm.bias)) / double(norm.weight)
        assert centred.shape == (2, 1, 2, 17, 8)
        assert centred.mean(-1) == pytest.approx(np.zeros((2, 1, 2, 17)), abs=1e-5)
    assert not attention.qkv._forward_hooks


def test_a_look_by_hand() -> None:
    look = Look((1, -2), torch.tensor([2.0, 0.5, 1.0]).reshape(1, 3, 1, 1), torch.full((1, 3, 1, 1), 0.25))
    images = noise(1, 5)
    shown: Array = double(look.show(images))
    for c, i, j in ((0, 0, 0), (1, 3, 4), (2, 4, 2)):
        before = images[0, c, (i - 1) % 5, (j + 2) % 5].item()
        assert shown[0, c, i, j] == pytest.approx(before * [2.0, 0.5, 1.0][c] + 0.25, rel=1e-6)


def test_looks_follow_their_laws() -> None:
    generator = torch.Generator().manual_seed(0)
    looks = [Look.draw((40, 3), 2, 0.7, 0.0, generator) for _ in range(60)]
    assert {o for look in looks for o in look.offsets} == {-2, -1, 0, 1, 2}
    assert any(look.offsets[0] != look.offsets[1] for look in looks)
    stretch = -torch.cat([look.gain for look in looks]).log().flatten()
    moved = -torch.cat([look.shift / look.gain for look in looks]).flatten()
    for uniform in (stretch, moved):
        assert uniform.abs().max().item() == pytest.approx(0.7, abs=0.01)
        assert uniform.std().item() == pytest.approx(0.7 / math.sqrt(3), rel=0.03)
    offsets = Look.draw((3000, 3), 0, 0.0, 0.4, generator).shift
    assert offsets.std().item() == pytest.approx(0.4, rel=0.03)


def test_roll_widens_half_way_and_noise_falls_to_nothing() -> None:
    objective = MimiQObjective(VIT, dataclasses.replace(CONFIG, iterations=400, colour=0.0), context())
    looks = [objective.begin(noise(3), step) for step in range(400)]
    widest = [max(abs(o) for look in part for o in look.offsets) for part in (looks[:200], looks[200:])]
    assert widest == [2, 4]  # 30 and 60 px of 224 at 16 px: 2.1 and 4.3
    early, late = (torch.cat([look.shift for look in part]).std().item() for part in (looks[:40], looks[-40:]))
    assert early == pytest.approx(0.5 * 0.95, rel=0.1)
    assert late == pytest.approx(0.5 * 0.058, rel=0.15)


@pytest.mark.parametrize("model", [VIT, SWIN])
def test_the_generator_alone_decides(model: Any) -> None:
    torch.manual_seed(1)
    first = synthesize(model, seed=7)
    torch.manual_seed(2)
    again, other = synthesize(model, seed=7), synthesize(model, seed=8)
    assert torch.equal(first.images, again.images)
    assert first.losses == again.losses
    assert first.targets is not None
    assert torch.equal(first.targets.argmax(1), first.extras["labels"])
    assert (first.images - other.images).abs().mean().item() > 0.1


@pytest.mark.parametrize("model", [VIT, SWIN])
def test_micro_batches_change_nothing(model: Any) -> None:
    whole, parts = synthesize(model, learning_rate=0.01), synthesize(model, micro_batch=2, learning_rate=0.01)
    for name in ("ssim", "oh", "tv"):
        assert parts.losses[name] == pytest.approx(whole.losses[name], rel=1e-3)
    assert (whole.images - parts.images).abs().mean().item() < 1e-4


def test_defaults_are_the_codes() -> None:
    config = MimiQ().default_config("deit_t")
    loop = config.loop()
    assert (config.images, config.iterations, config.roll, config.tv_weight) == (32, 2000, 8, 2.5e-5)
    assert (loop.betas, loop.weight_decay, loop.warmup, loop.rounds) == ((0.9, 0.999), 1e-6, 0.0, 1)
    assert [0.1 * loop.rate(step) for step in (0, 1000, 2000)] == pytest.approx([0.1, 0.0505, 0.001])
    assert MimiQ().image_passes(config) == 64000
    assert MimiQ.short == {"iterations": 100}


def test_models_it_cannot_handle_are_refused() -> None:
    with pytest.raises(UsageError, match="Identity is not supported"):
        synthesize(nn.Identity())
    with pytest.raises(UsageError, match="no layer of this model has two"):
        synthesize(tiny_vit(num_heads=1))
    assert "ssim" not in synthesize(tiny_vit(num_heads=1), ssim_weight=0.0).losses


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"images": 0}, "images >= 1"),
        ({"beta1": 1.0}, "beta1 and beta2"),
        ({"roll": -1}, "roll, colour"),
        ({"tv_weight": -1.0}, "its weights"),
        ({"learning_rate": 0.0}, "learning_rate > 0"),
        ({"final_rate": 0.2}, "floor <= 1"),
    ],
)
def test_settings_out_of_range_are_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MimiQConfig(**bad)
