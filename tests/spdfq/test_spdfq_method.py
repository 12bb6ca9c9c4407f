"""The method as a whole: its loss at the first step against single seen, its switches, its determinism."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
from spdfq_kit import CONFIG, HALF, IMAGENET, SWIN, VIT, seeded, spied, synthesize, tiny_swin, tiny_vit, views_of  # noqa: F401
from torch import Tensor

from methods.contracts import ImageSpace, SynthesisContext
from methods.errors import UsageError
from methods.models.architecture import attention_modules, attention_sites
from methods.models.attention import attention_maps
from methods.optimisation import views
from spdfq.apa import deep_sites
from spdfq.config import SPDFQConfig
from spdfq.method import SPDFQ


def alignment_slow(model: Any, images: list[Tensor], priors: list[Tensor]) -> float:
    """Return L_APA with paper settings from timm's own unfused attention, one image at a time, in float64."""
    found: list[Tensor] = []
    for attention in attention_modules(model):
        attention.fused_attn = False
        attention.attn_drop.register_forward_hook(lambda *a: found.append(a[2]))
    sites, total = attention_sites(model), 0.0
    for index, image in enumerate(images):
        found.clear()
        model(image)
        deep = [(s, full) for s, full in zip(sites, found, strict=True) if s.depth >= s.depths / 2]
        for (site, full), prior in zip(deep, priors, strict=True):
            rows = full[:, :, 0, 1:] if site.class_token else full.mean(2)
            for head in range(site.heads):
                error = (rows[:, head] - prior[index, :, head].double()).square().mean().item()
                total += site.depth / site.depths * error / len(images)
    return total


@pytest.mark.parametrize("micro_batch", [1 << 20, 3])
@pytest.mark.parametrize("model", [VIT, SWIN])
def test_first_losses_equal_the_paper_formula_view_by_view(
    model: Any,
    micro_batch: int,
    spied: dict[str, Any],  # noqa: F811
) -> None:
    made = synthesize(model, micro_batch=micro_batch, iterations=1)
    objective, start = spied["objective"], spied["start"]
    seen = views_of(start, made.extras["regions"])
    assert len(seen) == len(objective.targets) > 4
    plain = copy.deepcopy(model).double()
    entropies = [
        -(target.double() * plain(view).log_softmax(1)[0]).sum().item()
        for view, target in zip(seen, objective.targets, strict=True)
    ]
    assert made.losses["sl"] == [pytest.approx(sum(entropies) / len(seen), rel=1e-5)]
    expected = 100.0 * alignment_slow(plain, seen[:4], objective.alignment.priors)
    assert made.losses["apa"] == [pytest.approx(expected, rel=1e-4)]
    x = start.double()
    shifts = (
        x[..., 1:] - x[..., :-1],
        x[..., 1:, :] - x[..., :-1, :],
        x[..., 1:, 1:] - x[..., :-1, :-1],
        x[..., 1:, :-1] - x[..., :-1, 1:],
    )
    variation = sum(shift.square().sum().sqrt().item() for shift in shifts)
    low, high = (v * math.sqrt(4 * 16 * 16 / (32 * 224 * 224)) for v in (2500, 3000))
    assert low <= objective.variation_target <= high
    assert made.losses["tv"] == [pytest.approx(0.05 * abs(variation - objective.variation_target), rel=1e-5)]


def test_images_regions_and_priors_move_alike(spied: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    still = synthesize(iterations=1)
    monkeypatch.setattr(views.Jitter, "draw", lambda self, index: views.View(4, 4, True))  # one patch
    made = synthesize(iterations=1, jitter=56, flip=0.5)
    objective, regions = spied["objective"], made.extras["regions"]
    seen = [view.roll((4, 4), (2, 3)).flip(3) for view in views_of(spied["start"], regions)]
    plain = copy.deepcopy(VIT).double()
    entropies = [
        -(target.double() * plain(view).log_softmax(1)[0]).sum().item()
        for view, target in zip(seen, objective.targets, strict=True)
    ]
    assert made.losses["sl"] == [pytest.approx(sum(entropies) / len(seen), rel=1e-5)]
    assert made.losses["sl"] != still.losses["sl"]
    priors = [
        prior.unflatten(-1, (4, 4)).roll((1, 1), (-2, -1)).flip(-1).flatten(-2) for prior in objective.alignment.priors
    ]
    assert made.losses["apa"] == [pytest.approx(100.0 * alignment_slow(plain, seen[:4], priors), rel=1e-4)]
    assert made.losses["tv"] == still.losses["tv"]


def test_jitter_is_drawn_anew_at_every_step_within_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[views.View] = []
    original = views.View.show

    def watched(view: views.View, images: Tensor) -> Tensor:
        drawn.append(view)
        return original(view, images)

    monkeypatch.setattr(views.View, "show", watched)
    synthesize(iterations=60, images=1, msr=False, apa=False, jitter=28, flip=0.5)
    assert {view.down for view in drawn} == {-2, -1, 0, 1, 2}
    assert all(view.down == view.right for view in drawn)
    assert {view.flipped for view in drawn} == {False, True}


def test_jitter_is_refused_where_priors_cannot_follow() -> None:
    with pytest.raises(UsageError, match="windows"):
        synthesize(SWIN, jitter=28)
    made = synthesize(SWIN, jitter=28, apa=False, iterations=1)
    assert set(made.losses) == {"sl", "tv"}


@pytest.mark.parametrize("part", ["sl", "apa", "tv", "all"])
@pytest.mark.parametrize("make", [tiny_vit, tiny_swin])
def test_gradient_to_the_pixels_is_what_finite_differences_say(make: Any, part: str, spied: dict[str, Any]) -> None:  # noqa: F811
    model = make()
    synthesize(model, iterations=1)
    objective, images = spied["objective"], spied["start"].double()
    model.double()

    def loss(pixels: Tensor) -> Tensor:
        terms = {name: value for group in objective(pixels, 0) for name, value in group.items()}
        assert set(terms) == {"sl", "apa", "tv"}
        return torch.stack(list(terms.values())).sum() if part == "all" else terms[part]

    leaf = images.clone().requires_grad_(True)
    loss(leaf).backward()
    assert leaf.grad is not None
    for seed in range(3):
        direction = torch.randn(images.shape, generator=seeded(seed), dtype=torch.float64)
        slope = (loss(images + 1e-6 * direction) - loss(images - 1e-6 * direction)).item() / 2e-6
        assert (leaf.grad * direction).sum().item() == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_start_is_standard_normal_noise(spied: dict[str, Any]) -> None:  # noqa: F811
    synthesize(images=32, iterations=1, msr=False)
    assert spied["start"].mean().item() == pytest.approx(0, abs=0.02)
    assert spied["start"].std().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("changes", "missing"),
    [({"apa": False}, "apa"), ({"alpha1": 0.0}, "apa"), ({"tv_weight": 0.0}, "tv")],
)
def test_a_part_switched_off_leaves_no_term(changes: dict[str, Any], missing: str) -> None:
    full, part = synthesize(), synthesize(**changes)
    assert set(full.losses) == {"sl", "apa", "tv"}
    assert set(part.losses) == {"sl", "apa", "tv"} - {missing}
    assert all(len(values) == 3 for values in full.losses.values())
    assert not torch.equal(full.images, part.images)


def test_terms_are_logged_with_their_weights() -> None:
    once, twice = synthesize(iterations=1), synthesize(iterations=1, alpha1=200.0, tv_weight=0.1)
    assert twice.losses["apa"][0] == pytest.approx(2 * once.losses["apa"][0], rel=1e-6)
    assert twice.losses["tv"][0] == pytest.approx(2 * once.losses["tv"][0], rel=1e-6)
    assert twice.losses["sl"][0] == once.losses["sl"][0]


def test_without_apa_equals_alpha1_of_zero() -> None:
    assert torch.equal(synthesize(apa=False).images, synthesize(alpha1=0.0).images)


@pytest.mark.parametrize("model", [VIT, SWIN])
def test_priors_from_real_images_are_the_attention_these_get(model: Any, spied: dict[str, Any]) -> None:  # noqa: F811
    real = torch.randn((4, 3, 16, 16), generator=seeded(9))
    context = SynthesisContext(HALF, 10, seeded(0), real_images=lambda count: real[:count])
    config = dataclasses.replace(CONFIG, prior_law="real", iterations=1)
    made = SPDFQ().synthesize(model, config, context)
    priors = spied["objective"].alignment.priors
    assert all(
        prior.double().sum(-1).flatten().tolist() == pytest.approx([1.0] * prior[..., 0].numel()) for prior in priors
    )
    sites = deep_sites(model, 0.5)
    with attention_maps(sites, 4) as maps:
        model(real)
    own = [found / sum(found.unbind(-1))[..., None] for found in maps]  # type: ignore[index]
    assert all(torch.allclose(prior, mine, atol=1e-6) for prior, mine in zip(priors, own, strict=True))
    assert torch.allclose(made.extras["attention_prior"].flatten(1), own[-1][:, 0, 0], atol=1e-6)


def test_priors_from_real_images_need_some() -> None:
    with pytest.raises(UsageError, match="needs real calibration images"):
        synthesize(prior_law="real")
    needs = SPDFQ().needs_real_images
    assert needs(dataclasses.replace(CONFIG, prior_law="real")) is True
    assert needs(dataclasses.replace(CONFIG, prior_law="real", apa=False)) is False
    assert needs(CONFIG) is False


def test_attention_to_look_at_is_that_of_the_finished_images(spied: dict[str, Any]) -> None:  # noqa: F811
    made = synthesize()
    site = attention_sites(VIT)[-1]
    with attention_maps([site], 4) as maps:
        VIT(made.images)
    assert torch.equal(made.extras["attention_reached"], maps[0][:, 0, 0].reshape(4, 4, 4))
    prior = spied["objective"].alignment.priors[-1]
    assert torch.equal(made.extras["attention_prior"], prior[:, 0, 0].reshape(4, 4, 4))
    assert set(synthesize(apa=False).extras) == {"regions", "labels"}


def test_half_precision_stays_near_full_precision() -> None:
    full, half = synthesize(), synthesize(precision="bf16")
    assert half.images.dtype == torch.float32
    for name in ("sl", "tv"):
        assert half.losses[name][0] == pytest.approx(full.losses[name][0], rel=0.03)
    assert half.losses["sl"][0] != full.losses["sl"][0]
    assert half.losses["tv"][0] == pytest.approx(full.losses["tv"][0], rel=1e-6)


@pytest.mark.parametrize("model", [VIT, SWIN])
def test_same_seed_gives_the_same_bits_and_another_seed_others(model: Any) -> None:
    torch.manual_seed(1)
    first = synthesize(model, seed=3)
    state = torch.manual_seed(2).get_state()
    again, other = synthesize(model, seed=3), synthesize(model, seed=4)
    assert torch.equal(first.images, again.images)
    assert first.losses == again.losses
    assert torch.equal(first.extras["regions"], again.extras["regions"])
    assert not torch.equal(first.images, other.images)
    assert torch.equal(torch.get_rng_state(), state)  # torch's own stream is not touched


@pytest.mark.parametrize("model", [VIT, SWIN])
@pytest.mark.parametrize("micro_batch", [1, 3])
@pytest.mark.parametrize("changes", [{}, {"apa_share": 0.3, "region_schedule": "turns"}])
def test_micro_batches_do_not_change_the_images(model: Any, micro_batch: int, changes: dict[str, Any]) -> None:
    whole, parts = synthesize(model, **changes), synthesize(model, micro_batch=micro_batch, **changes)
    assert (whole.images - parts.images).abs().max().item() < 1e-4
    for name, values in whole.losses.items():
        assert parts.losses[name] == pytest.approx(values, rel=1e-4)


@pytest.mark.parametrize("space", [HALF, IMAGENET])
def test_images_lie_in_the_box_of_valid_pixels(space: ImageSpace) -> None:
    images = synthesize(space=space, iterations=1, learning_rate=3.0).images
    assert images.dtype == torch.float32
    for channel, (mean, std) in enumerate(zip(space.mean, space.std, strict=True)):
        assert images[:, channel].min().item() == pytest.approx(
            -mean / std, rel=1e-6
        )  # one great step reaches all edges
        assert images[:, channel].max().item() == pytest.approx((1 - mean) / std, rel=1e-6)


@pytest.mark.parametrize("model", [VIT, SWIN])
def test_a_longer_run_lowers_every_part_of_the_loss(model: Any) -> None:
    losses = synthesize(model, iterations=40, alpha1=100.0).losses
    for name in ("sl", "apa"):
        assert losses[name][-1] < 0.9 * losses[name][0], (name, losses[name])


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_vit()
    state = copy.deepcopy(model.state_dict())
    synthesize(model)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_image_passes_count_images_and_mean_regions() -> None:
    passes = SPDFQ().image_passes
    assert passes(SPDFQConfig(images=32, iterations=1000)) == 1000 * 32 * 3.5
    assert passes(SPDFQConfig(images=8, iterations=10, regions=1)) == 160
    assert passes(SPDFQConfig(images=8, iterations=10, msr=False)) == 80
    assert passes(SPDFQConfig(images=8, iterations=10, region_schedule="one")) == 160
    assert passes(SPDFQConfig(images=8, iterations=10, region_schedule="one", msr=False)) == 80


def test_image_passes_are_the_views_seen_on_average(spied: dict[str, Any]) -> None:  # noqa: F811
    config: dict[str, Any] = {"images": 200, "iterations": 1, "apa": False}
    made = synthesize(**config)
    expected = SPDFQ().image_passes(dataclasses.replace(CONFIG, **config))
    assert 200 + len(made.extras["regions"]) == pytest.approx(expected, rel=0.05)
