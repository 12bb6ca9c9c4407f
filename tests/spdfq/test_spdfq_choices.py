"""What the paper leaves open: every choice that is off by default, against hand-made cases and slow references."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from spdfq_kit import HALF, IMAGENET, SWIN, VIT, noise, seeded, spied, synthesize, views_of  # noqa: F401
from torch import Tensor

from methods.contracts import SynthesisContext
from methods.errors import UsageError
from methods.models.attention import attention_maps
from methods.optimisation.patch_similarity import DensityLaw, PatchEntropy
from methods.optimisation.spectrum import smoothed
from spdfq.apa import Alignment, deep_sites, draw_priors
from spdfq.config import SPDFQConfig
from spdfq.draws import natural_noise
from spdfq.method import SPDFQ
from spdfq.msr import RegionLaw
from spdfq.objective import Objective
from spdfq.priors import PriorLaw
from spdfq.soft_labels import SoftLabelLaw


def objective_of(**changes: Any) -> Objective:
    return Objective(VIT, SPDFQConfig(images=4, iterations=3, **changes), SynthesisContext(HALF, 10, seeded(0)))


def test_a_dominant_class_has_the_largest_entry_and_the_same_draws() -> None:
    relevant = [[7, 1, 2, 3]] * 50
    free = SoftLabelLaw().draw(relevant, 10, seeded(1)).log()
    ruled = SoftLabelLaw(dominant=True).draw(relevant, 10, seeded(1)).log()
    assert (ruled.argmax(1) == 7).all()
    assert 5 < int((free.argmax(1) == 7).sum()) < 25
    assert torch.allclose(ruled.sort(dim=1).values, free.sort(dim=1).values, atol=1e-6)


def test_only_its_own_class_may_be_relevant_for_a_whole_image() -> None:
    shared, own = objective_of(), objective_of(relevant="own")
    assert own.relevant == [chosen[:1] if view < 4 else chosen for view, chosen in enumerate(shared.relevant)]
    assert max(len(chosen) for chosen in shared.relevant) > 1
    assert ((own.targets / own.targets.amin(1, keepdim=True)).log() > 4).sum(1).tolist() == [1] * len(own.relevant)


@pytest.mark.parametrize("micro_batch", [1 << 20, 3])
def test_the_mean_of_labels_over_images_and_over_regions(micro_batch: int, spied: dict[str, Any]) -> None:  # noqa: F811
    made = synthesize(label_mean="images", iterations=1, apa=False, micro_batch=micro_batch)
    objective, views = spied["objective"], views_of(spied["start"], made.extras["regions"])
    model = VIT.double()
    try:
        losses = [
            -float((target.double() * model(view).log_softmax(1)).sum())
            for view, target in zip(views, objective.targets, strict=True)
        ]
    finally:
        VIT.float()
    assert made.losses["sl"][0] == pytest.approx(sum(losses[:4]) / 4 + sum(losses[4:]) / len(losses[4:]), rel=1e-5)


def test_in_turns_a_step_sees_one_view_of_each_image() -> None:
    objective = objective_of(region_schedule="turns")
    steps = [objective._visited() for _ in range(200)]
    for wholes, parts in steps:
        assert sorted(wholes + [objective.regions[part].image for part in parts]) == [0, 1, 2, 3]
    counts = [sum(image in wholes for wholes, _ in steps) for image in range(4)]
    assert all(70 < count < 130 for count in counts)
    assert set(itertools.chain(*(parts for _, parts in steps))) == set(range(len(objective.regions)))
    assert SPDFQ().image_passes(objective.config) == 4 * 3


def test_attention_in_turns_is_that_of_the_images_seen_whole(spied: dict[str, Any]) -> None:  # noqa: F811
    found = synthesize(region_schedule="turns", iterations=1, learning_rate=1e-9)
    objective = spied["objective"]
    possible = []
    for size in range(1, 5):
        for wholes in itertools.combinations(range(4), size):
            with torch.no_grad(), attention_maps(objective.alignment.sites, size) as maps:
                VIT(spied["start"][list(wholes)])
            possible.append(100.0 * float(objective.alignment.loss(maps, torch.tensor(wholes))))
    assert min(abs(found.losses["apa"][0] - value) for value in possible) < 1e-4


def test_the_weight_of_attention_follows_the_gradients_on_the_pixels() -> None:
    objective = objective_of(apa_share=0.3, tv_weight=0.0)
    images = noise(4).requires_grad_(True)
    (terms,) = objective(images, 0)
    by_labels, by_maps = (
        torch.autograd.grad(terms[name], images, retain_graph=True)[0].double().square().sum().sqrt()
        for name in ("sl", "apa")
    )
    assert float(by_maps / by_labels) == pytest.approx(0.3, rel=1e-4)
    weight = objective.alpha1
    for step in range(1, 10):
        list(objective(2 * images, step))
    assert objective.alpha1 == weight
    list(objective(2 * images, 10))
    assert objective.alpha1 != weight


@pytest.mark.parametrize("model", [VIT, SWIN])
def test_priors_share_a_map_of_their_image(model: Any) -> None:
    sites, law = deep_sites(model, 0.0), PriorLaw()
    alone, half, same = (draw_priors(sites, 3, law, seeded(2), shared) for shared in (0.0, 0.5, 1.0))
    for prior in same:
        assert torch.equal(prior, prior[:, :, :1].expand_as(prior))
    if model is VIT:
        assert all(torch.equal(prior[:, :, :1], same[0][:, :, :1]) for prior in same)
        assert not torch.equal(same[0][0], same[0][1])
    for prior, common in zip(half, same, strict=True):
        assert prior.sum(-1).flatten().tolist() == pytest.approx([1.0] * prior[..., 0].numel())
        assert bool((prior >= 0.5 * common - 1e-7).all())
    assert all(not torch.equal(a, b) for a, b in zip(alone, half, strict=True))


def test_maps_and_priors_scaled_to_their_largest_value() -> None:
    site = deep_sites(VIT, 1.0)[0]  # the last block, of 2 heads and 16 cells; l/L = 1
    reached, prior = torch.full((1, 1, 2, 16), 0.02), torch.full((1, 1, 2, 16), 0.05)
    reached[..., 0], prior[..., 0] = 0.04, 0.2
    found = Alignment([site], [prior], scale="max").loss([reached], torch.tensor([0]))
    assert float(found) == pytest.approx(2 * 15 / 16 * (0.5 - 0.25) ** 2)


def test_regions_may_overlap() -> None:
    law = RegionLaw(4, math.sqrt(0.4), math.sqrt(0.7), disjoint=False)
    regions = law.draw(20, 224, 224, seeded(0))
    assert all(0.38 < (region.side / 224) ** 2 < 0.72 for region in regions)
    assert {sum(region.image == image for region in regions) for image in range(20)} == {1, 2, 3, 4}
    assert any(a.overlaps(b) for a, b in itertools.combinations(regions, 2) if a.image == b.image)
    with pytest.raises(UsageError, match="cannot be disjoint"):
        RegionLaw(4, math.sqrt(0.4), math.sqrt(0.7))


def test_jitter_grows_with_the_rounds() -> None:
    context = SynthesisContext(HALF, 10, seeded(0))
    two = SPDFQConfig(jitter=28, rounds=2).views(context)
    one = SPDFQConfig(jitter=28).views(context)
    assert two is not None
    assert one is not None
    assert (two.limits, one.limits) == ((2, 4), (2,))
    assert [SPDFQConfig(rounds=2, iterations=4).loop().round_of(step) for step in range(4)] == [0, 0, 1, 1]


def test_the_target_of_variation_is_scaled() -> None:
    assert objective_of(tv_scale=1.5).variation_target == pytest.approx(1.5 * objective_of().variation_target)


def test_natural_noise_has_the_spectrum_and_the_spread_of_photographs() -> None:
    space = type(IMAGENET)(64, 64, IMAGENET.mean, IMAGENET.std)
    images = natural_noise(40, space, seeded(0))
    low, high = space.bounds()
    assert bool((images >= low).all() and (images <= high).all())
    assert 0.85 < float((images.std(dim=(2, 3)) / ((high - low).flatten() / math.sqrt(12))).mean()) < 1.1
    power = torch.fft.fft2(images.double()).abs().square().mean((0, 1))
    axis = torch.arange(2, 20)
    slope = torch.stack([axis.double().log(), torch.ones(18, dtype=torch.float64)], dim=1)
    fitted = torch.linalg.lstsq(slope, power[0, 2:20].log()[:, None]).solution[0].item()
    assert fitted == pytest.approx(-2, abs=0.25)  # clipping at the box adds a little above
    grey = images - images.mean((2, 3), keepdim=True)
    assert float(torch.nn.functional.cosine_similarity(grey[:, 0].flatten(1), grey[:, 1].flatten(1)).mean()) > 0.8


def test_smoothing_divides_amplitudes_by_their_frequency() -> None:
    place = torch.arange(16, dtype=torch.float64) / 16

    def wave(times: int) -> Tensor:
        return torch.cos(2 * torch.pi * times * place).expand(1, 1, 16, 16)

    found = smoothed(wave(1) + wave(4), 1.5)
    shape = wave(1) + wave(4) / 4**1.5
    assert torch.allclose(found, shape * ((wave(1) + wave(4)).norm() / shape.norm()))
    assert torch.allclose(
        smoothed(wave(3) + 2, 1.0), (2 + wave(3) / 3) * ((wave(3) + 2).norm() / (2 + wave(3) / 3).norm())
    )
    assert torch.allclose(smoothed(noise(2), 0.0), noise(2), atol=1e-6)


@pytest.mark.parametrize("micro_batch", [1 << 20, 3])
def test_patch_entropy_is_that_of_psaq_vit_on_the_whole_images(micro_batch: int, spied: dict[str, Any]) -> None:  # noqa: F811
    made = synthesize(iterations=1, pse_weight=0.5, micro_batch=micro_batch)
    terms = list(PatchEntropy(VIT, DensityLaw(), 0.5, 1 << 20).terms(spied["start"], lambda logits, rows: {}))
    assert made.losses["pse"][0] == pytest.approx(float(terms[0]["pse"]), rel=1e-4)


@pytest.mark.parametrize(
    "bad", [{"start": "grey"}, {"relevant": "some"}, {"label_mean": "regions"}, {"attention_scale": "mean"}]
)
def test_unknown_choices_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="Unknown"):
        SPDFQConfig(**bad)


def test_settings_reach_the_images() -> None:
    """No option that does nothing."""
    plain = synthesize(iterations=12).images
    for change in (
        {"rounds": 2}, {"smoothing": 0.5}, {"start": "natural"}, {"tv_scale": 50.0}, {"pse_weight": 1.0},
        {"apa_share": 1.0}, {"attention_scale": "max"}, {"shared_prior": 0.5}, {"region_schedule": "turns"},
        {"relevant": "own"}, {"dominant": True}, {"label_mean": "images"},
    ):  # fmt: skip
        assert not torch.equal(synthesize(iterations=12, **change).images, plain), change
