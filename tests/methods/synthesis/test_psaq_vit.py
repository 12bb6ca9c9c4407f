"""PSAQ-ViT as a whole: its loss and gradient at the first step against unfused attention in float64."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from test_patch_similarity import slow_entropies
from tiny_models import noise, tiny_distilled, tiny_swin, tiny_vit
from torch import Tensor, nn
from torch.nn import functional

from methods.contracts import ImageSpace, SynthesisContext, SyntheticImages
from methods.errors import UsageError
from methods.models.architecture import attention_modules
from methods.optimisation import loop, views
from methods.synthesis.psaq_vit import PSAQViT, PSAQViTConfig, _Objective

HALF = ImageSpace(16, 16, (0.5,) * 3, (0.5,) * 3)
CONFIG = PSAQViTConfig(images=4, iterations=4, jitter=30)
VIT, SWIN = tiny_vit(), tiny_swin()


def context(seed: int = 0, micro_batch: int = 1 << 20) -> SynthesisContext:
    return SynthesisContext(HALF, 10, torch.Generator().manual_seed(seed), micro_batch=micro_batch)


def synthesize(model: Any = VIT, seed: int = 0, micro_batch: int = 1 << 20, **changes: Any) -> SyntheticImages:
    return PSAQViT().synthesize(model, dataclasses.replace(CONFIG, **changes), context(seed, micro_batch))


def slow_loss(model: Any, images: Tensor, labels: Tensor, windows: list[int]) -> dict[str, Tensor]:
    """Return L_PSE and the cross-entropy of float64 images through timm's own unfused attention."""
    plain, found = copy.deepcopy(model).double(), list[Tensor]()
    for attention in attention_modules(plain):
        attention.fused_attn = False
        values: list[Tensor] = []
        heads = attention.num_heads
        attention.qkv.register_forward_hook(
            lambda *a, v=values, h=heads: v.append(a[2].unflatten(-1, (3, h, -1))[:, :, 2].transpose(1, 2))
        )
        attention.attn_drop.register_forward_hook(lambda *a, v=values: found.append(a[2] @ v[-1]))
    logits = plain(images)
    entropies = []
    for output, count in zip(found, windows, strict=True):
        outputs = output.transpose(1, 2).unflatten(0, (-1, count))
        entropies.append(torch.stack(slow_entropies(outputs)).mean())
    return {"pse": -torch.stack(entropies).sum(), "oh": functional.cross_entropy(logits, labels)}


@pytest.mark.parametrize("micro_batch", [1 << 20, 2])
@pytest.mark.parametrize(
    ("model", "windows"), [(VIT, [1, 1]), (SWIN, [4, 4, 1, 1]), (tiny_vit(scale_attn_norm=True), [1, 1])]
)
def test_loss_and_gradient_equal_the_formula_on_unfused_attention(
    model: Any, windows: list[int], micro_batch: int
) -> None:
    given = context(micro_batch=micro_batch)
    objective = _Objective(model, dataclasses.replace(CONFIG, images=3, tv_weight=0.0), given)
    images = noise(3).requires_grad_(True)
    terms = {"pse": 0.0, "oh": 0.0}
    for group in objective(images, 0):
        torch.stack(list(group.values())).sum().backward()
        terms = {name: terms[name] + group[name].item() for name in terms}
    exact = images.detach().double().requires_grad_(True)
    expected = slow_loss(model, exact, objective.targets.argmax(1), windows)
    torch.stack(list(expected.values())).sum().backward()
    assert terms == {name: pytest.approx(value.item(), abs=1e-4, rel=1e-4) for name, value in expected.items()}
    assert images.grad is not None
    assert exact.grad is not None
    size = exact.grad.abs().max().item()
    assert (images.grad.double() - exact.grad).abs().max().item() < 1e-3 * size


def test_variation_is_that_of_the_images_as_shown() -> None:
    objective = _Objective(VIT, dataclasses.replace(CONFIG, pse_weight=0.0, tv_weight=0.1), context(micro_batch=2))
    images = noise(4)
    *parts, last = list(objective(images, 0))
    assert [set(part) for part in parts] == [{"oh"}, {"oh"}]
    x = images.double()
    shifts = (
        x[..., 1:] - x[..., :-1],
        x[..., 1:, :] - x[..., :-1, :],
        x[..., 1:, 1:] - x[..., :-1, :-1],
        x[..., 1:, :-1] - x[..., :-1, 1:],
    )
    variation = sum(shift.square().sum().sqrt().item() for shift in shifts)
    assert last["tv"].item() == pytest.approx(0.1 * abs(variation - objective.variation_target), rel=1e-5)


def test_every_prefix_token_is_left_out() -> None:
    found: list[int] = []
    for model in (tiny_distilled(), tiny_vit(reg_tokens=3), VIT, tiny_vit(class_token=False, global_pool="avg")):
        objective = _Objective(model, CONFIG, context())
        found.append(objective.entropy._read(noise(1))[1][0].shape[2])
    assert found == [16, 16, 16, 15]


def test_hooks_are_gone_after_the_synthesis() -> None:
    synthesize(iterations=2)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in VIT.modules())


@pytest.mark.parametrize("model", [VIT, SWIN])
def test_the_generator_alone_decides(model: Any) -> None:
    torch.manual_seed(1)
    first = synthesize(model, seed=7)
    torch.manual_seed(2)
    again, other = synthesize(model, seed=7), synthesize(model, seed=8)
    assert torch.equal(first.images, again.images)
    assert first.losses == again.losses
    assert torch.equal(first.extras["labels"], again.extras["labels"])
    assert (first.images - other.images).abs().mean().item() > 0.1


@pytest.mark.parametrize("model", [VIT, SWIN])
def test_micro_batches_change_nothing(model: Any) -> None:
    few: dict[str, Any] = {
        "iterations": 2,
        "learning_rate": 0.01,
    }  # a kernel as narrow as 0.01 soon amplifies any rounding
    whole, parts = synthesize(model, **few), synthesize(model, micro_batch=3, **few)
    for name in ("pse", "oh", "tv"):
        assert parts.losses[name] == pytest.approx(whole.losses[name], rel=1e-3)
    assert (whole.images - parts.images).abs().mean().item() < 1e-5
    still = synthesize(model, jitter=0, flip=0.0, **few)
    assert (whole.images - still.images).abs().mean().item() > 1e-3


def test_images_get_one_random_class_each_and_one_hot_targets() -> None:
    made = synthesize(images=64, iterations=2)
    labels = made.extras["labels"]
    assert made.targets is not None
    assert torch.equal(made.targets, functional.one_hot(labels, 10).float())
    assert len(set(labels.tolist())) == 10


def test_the_loop_gets_the_codes_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    original = loop.optimize_images
    seen: list[Any] = []

    def spy(start: Tensor, *rest: Any) -> Any:
        seen.extend(rest)
        return original(start, *rest)

    monkeypatch.setattr("methods.optimisation.loop.optimize_images", spy)
    synthesize()
    settings, jitter = seen[1], seen[4]
    assert (settings.betas, settings.rounds, settings.warmup) == ((0.5, 0.9), 2, 0.2)
    assert (jitter.limits, jitter.flip) == ((2, 4), 0.5)  # 30 and 60 px of 224 at 16 px: 2.1 and 4.3


def test_defaults_are_the_codes() -> None:
    method, space = PSAQViT(), ImageSpace(224, 224, (0.5,) * 3, (0.5,) * 3)
    deit, swin = method.default_config("deit_t"), method.default_config("swin_t")
    assert (deit.images, deit.iterations, deit.learning_rate, swin.learning_rate) == (32, 1000, 0.2, 0.25)
    growing = [views.Jitter.growing(space.pixels(deit.jitter), deit.rounds, deit.flip, torch.Generator())]
    small = ImageSpace(32, 32, (0.5,) * 3, (0.5,) * 3)
    growing.append(views.Jitter.growing(small.pixels(deit.jitter), deit.rounds, deit.flip, torch.Generator()))
    assert [(jitter.limits, jitter.flip) for jitter in growing] == [((15, 30), 0.5), ((2, 4), 0.5)]
    rates = [deit.loop().rate(step) for step in (0, 99, 100, 300, 499, 500, 599, 800)]
    assert rates == pytest.approx([0.01, 1.0, 1.0, 0.5, 0.0, 0.01, 1.0, 0.5], abs=1e-4)
    assert method.image_passes(deit) == 32000
    assert method.short == {"iterations": 100}


def test_models_without_known_attention_are_refused() -> None:
    with pytest.raises(UsageError, match="Identity is not supported"):
        synthesize(nn.Identity())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"images": 0}, "images >= 1"),
        ({"pse_weight": -1.0}, "pse_weight >= 0"),
        ({"beta2": 1.0}, "beta1 and beta2"),
        ({"jitter": -1}, "limits >= 0"),
        ({"flip": 1.5}, "probability of flips"),
        ({"points": 1}, "points >= 2"),
        ({"rounds": 0}, "rounds <= iterations"),
        ({"iterations": 1}, "rounds <= iterations"),
    ],
)
def test_settings_out_of_range_are_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PSAQViTConfig(**bad)
