"""The method as a whole: its loss at the first step against single seen, its switches, its determinism."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny_spdfq import seeded, tiny_swin, tiny_vit
from torch import Tensor
from torch.nn import functional

from methods.contracts import ImageSpace, SynthesisContext, SyntheticImages
from methods.errors import UsageError
from methods.models.architecture import attention_modules, attention_sites
from methods.models.attention import attention_maps
from methods.optimisation import loop, views
from spdfq.apa import deep_sites
from spdfq.config import SPDFQConfig
from spdfq.method import SPDFQ

HALF = ImageSpace(16, 16, (0.5,) * 3, (0.5,) * 3)
IMAGENET = ImageSpace(16, 16, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CONFIG = SPDFQConfig(images=4, iterations=3, alpha1=100.0)
VIT, SWIN = tiny_vit(), tiny_swin()


def synthesize(
    model: Any = VIT,
    seed: int = 0,
    space: ImageSpace = HALF,
    micro_batch: int = 1 << 20,
    classes: int = 10,
    **changes: Any,
) -> SyntheticImages:
    context = SynthesisContext(space, classes, seeded(seed), micro_batch=micro_batch)
    return SPDFQ().synthesize(model, dataclasses.replace(CONFIG, **changes), context)


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Record the images a synthesis starts from, its objective, and the regions of every step."""
    seen: dict[str, Any] = {"regions": []}
    original = loop.optimize_images

    def spy(start: Tensor, objective: Any, *rest: Any) -> Any:
        seen["start"], seen["objective"] = start.clone(), objective

        def watched(images: Tensor, step: int) -> Iterator[dict[str, Tensor]]:
            yield from objective(images, step)
            seen["regions"].append(list(objective.regions))

        return original(start, watched, *rest)

    monkeypatch.setattr("spdfq.method.optimize_images", spy)
    return seen


def views_of(start: Tensor, regions: Tensor) -> list[Tensor]:
    """Return every whole image, then every region resized, each [1, 3, H, W] in float64."""
    seen = [image[None].double() for image in start]
    for image, top, left, side in regions.tolist():
        part = start[image : image + 1, :, top : top + side, left : left + side].double()
        seen.append(functional.interpolate(part, (16, 16), mode="bilinear", align_corners=False))
    return seen


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
    model: Any, micro_batch: int, spied: dict[str, Any]
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


def test_images_regions_and_priors_move_alike(spied: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_gradient_to_the_pixels_is_what_finite_differences_say(make: Any, part: str, spied: dict[str, Any]) -> None:
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


def test_start_is_standard_normal_noise(spied: dict[str, Any]) -> None:
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


def test_without_msr_there_are_no_regions(spied: dict[str, Any]) -> None:
    made = synthesize(msr=False)
    assert made.extras["regions"].shape == (0, 4)
    assert len(spied["objective"].targets) == 4
    assert [len(chosen) for chosen in spied["objective"].relevant] == [1] * 4


def test_targets_are_one_hot_without_soft_labels() -> None:
    hard, soft = synthesize(soft_labels=False), synthesize()
    assert hard.targets is not None
    assert soft.targets is not None
    assert hard.targets.tolist() == functional.one_hot(hard.extras["labels"][:4], 10).float().tolist()
    assert soft.targets.double().sum(1).tolist() == pytest.approx([1.0] * 4, abs=1e-5)
    assert soft.targets.min().item() > 0
    assert soft.targets.max().item() < 1


def test_labels_of_an_image_and_of_its_regions_all_differ(spied: dict[str, Any]) -> None:
    made = synthesize(images=12, iterations=1)
    relevant, regions = spied["objective"].relevant, made.extras["regions"]
    counts = set()
    for image in range(12):
        own = [index for index, region in enumerate(regions.tolist()) if region[0] == image]
        labels = [relevant[12 + index][0] for index in own]
        assert relevant[image][1:] == labels
        assert len(set(relevant[image])) == 1 + len(own)
        counts.add(len(own))
    assert counts == {1, 2, 3, 4}
    assert made.extras["labels"].tolist() == [chosen[0] for chosen in relevant]
    assert len({chosen[0] for chosen in relevant[:12]}) > 3


def test_relevant_classes_of_a_whole_image_hold_most_of_its_target(spied: dict[str, Any]) -> None:
    made = synthesize(iterations=1)
    assert made.targets is not None
    for target, chosen in zip(made.targets, spied["objective"].relevant[:4], strict=True):
        rest = [c for c in range(10) if c not in chosen]
        assert target[chosen].min().item() >= math.exp(4) * target[rest].max().item() * (1 - 1e-4)


def test_two_classes_leave_one_label_for_one_region() -> None:
    model = tiny_vit(num_classes=2)
    made = synthesize(model, classes=2, images=6, iterations=1)
    assert made.extras["regions"][:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert (made.extras["labels"][:6] + made.extras["labels"][6:]).tolist() == [1] * 6


def test_regions_stay_or_are_redrawn(spied: dict[str, Any]) -> None:
    synthesize(iterations=4)
    assert all(regions == spied["regions"][0] for regions in spied["regions"])
    spied["regions"].clear()
    made = synthesize(iterations=4, redraw_regions=True)
    images = [[region.image for region in regions] for regions in spied["regions"]]
    assert all(step == images[0] for step in images)
    assert len({str(regions) for regions in spied["regions"]}) == 4
    last = [[r.image, r.top, r.left, r.side] for r in spied["regions"][-1]]
    assert made.extras["regions"].tolist() == last


@pytest.mark.parametrize("micro_batch", [1 << 20, 3])
def test_schedule_of_one_region_visits_one_of_each_image_with_its_own_target(
    micro_batch: int, spied: dict[str, Any]
) -> None:
    made = synthesize(region_schedule="one", iterations=1, apa=False, tv_weight=0.0, micro_batch=micro_batch)
    objective = spied["objective"]
    seen = views_of(spied["start"], made.extras["regions"])
    plain = copy.deepcopy(VIT).double()
    entropies = [
        -(target.double() * plain(view).log_softmax(1)[0]).sum().item()
        for view, target in zip(seen, objective.targets, strict=True)
    ]
    own = [[4 + i for i, r in enumerate(made.extras["regions"].tolist()) if r[0] == image] for image in range(4)]
    assert max(map(len, own)) > 1
    possible = [sum(entropies[:4]) + sum(entropies[i] for i in picked) for picked in itertools.product(*own)]
    assert min(abs(made.losses["sl"][0] - total / 8) for total in possible) < 1e-5


def test_schedule_of_one_region_comes_to_all_of_them(spied: dict[str, Any]) -> None:
    synthesize(region_schedule="one", iterations=1)
    objective = spied["objective"]
    wholes, visits = zip(*(objective._visited() for _ in range(60)), strict=True)
    assert all(seen == [0, 1, 2, 3] for seen in wholes)
    for visit in visits:
        assert visit == sorted(visit)
        assert [objective.regions[i].image for i in visit] == [0, 1, 2, 3]
    assert set(itertools.chain(*visits)) == set(range(len(objective.regions)))


@pytest.mark.parametrize("model", [VIT, SWIN])
def test_priors_from_real_images_are_the_attention_these_get(model: Any, spied: dict[str, Any]) -> None:
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


def test_attention_to_look_at_is_that_of_the_finished_images(spied: dict[str, Any]) -> None:
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


def test_image_passes_are_the_views_seen_on_average(spied: dict[str, Any]) -> None:
    config: dict[str, Any] = {"images": 200, "iterations": 1, "apa": False}
    made = synthesize(**config)
    expected = SPDFQ().image_passes(dataclasses.replace(CONFIG, **config))
    assert 200 + len(made.extras["regions"]) == pytest.approx(expected, rel=0.05)
