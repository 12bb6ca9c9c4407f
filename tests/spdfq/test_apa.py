"""APA: which layers, the loss against slow loops in float64, and its gradient down to the pixels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from spdfq_kit import noise, seeded, tiny_swin, tiny_vit
from torch import Tensor

from methods.models.architecture import attention_sites
from methods.models.attention import attention_maps
from methods.optimisation.views import View
from spdfq.apa import Alignment, deep_sites, draw_priors, moved_prior
from spdfq.priors import PriorLaw

MODELS = {
    "vit": tiny_vit(),
    "pooled": tiny_vit(class_token=False, global_pool="avg"),
    "registers": tiny_vit(reg_tokens=2),
    "swin": tiny_swin(),
}


@pytest.mark.parametrize(
    ("depth", "first", "expected"),
    [(4, 0.5, [2, 3, 4]), (5, 0.5, [3, 4, 5]), (4, 0.0, [1, 2, 3, 4]), (4, 1.0, [4]), (4, 0.75, [3, 4])],
)
def test_deep_sites_begin_at_s_inclusive(depth: int, first: float, expected: list[int]) -> None:
    sites = deep_sites(tiny_vit(depth=depth), first)
    assert [site.depth for site in sites] == expected
    assert {site.depths for site in sites} == {depth}


def test_swin_counts_blocks_over_all_stages() -> None:
    sites = deep_sites(tiny_swin(), 0.5)
    assert [(site.depth, site.heads, site.windows) for site in sites] == [(2, 2, 4), (3, 4, 1), (4, 4, 1)]


def read(model: Any, images: Tensor, first: float) -> list[Tensor]:
    with attention_maps(deep_sites(model, first), len(images)) as maps:
        model(images)
    return maps


def loss_slow(
    model: Any, maps: list[Tensor], priors: list[Tensor], first: float, weighted: bool, share: bool
) -> float:
    """Sum over l >= first * L and heads of (l/L) times the mean squared error over images, windows, cells."""
    sites = [site for site in attention_sites(model) if site.depth >= first * len(attention_sites(model))]
    total = 0.0
    for site, reached, prior in zip(sites, maps, priors, strict=True):
        for head in range(site.heads):
            errors = []
            for n in range(reached.shape[0]):
                for window in range(reached.shape[1]):
                    row, target = reached[n, window, head].double(), prior[n, window, head].double()
                    mass = float(sum(row)) if share else 1.0
                    errors += [(float(a) - mass * float(b)) ** 2 for a, b in zip(row, target, strict=True)]
            weight = site.depth / site.depths if weighted else 1.0
            total += weight * sum(errors) / len(errors)
    return total


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("first", "weighted", "share"), [(0.5, True, False), (0.0, False, False), (0.5, True, True)])
def test_loss_equals_a_slow_loop(name: str, first: float, weighted: bool, share: bool) -> None:
    model = MODELS[name]
    sites = deep_sites(model, first)
    priors = draw_priors(sites, 3, PriorLaw(), seeded(2))
    maps = read(model, noise(3), first)
    expected = loss_slow(model, maps, priors, first, weighted, share)
    found = Alignment(sites, priors, weighted, share).loss(maps, torch.arange(len(maps[0]))).item()
    assert found == pytest.approx(expected, rel=1e-5)
    assert expected > 1e-3


def test_depth_weight_and_class_token_share_each_change_the_loss() -> None:
    model = MODELS["vit"]
    sites, maps = deep_sites(model, 0.5), read(model, noise(3), 0.5)
    priors = draw_priors(sites, 3, PriorLaw(), seeded(2))
    losses = [
        Alignment(sites, priors, weighted, share).loss(maps, torch.arange(len(maps[0]))).item()
        for weighted, share in ((True, False), (False, False), (True, True))
    ]
    assert losses[0] < losses[1]
    assert losses[2] != pytest.approx(losses[0], rel=1e-3)


def test_priors_scaled_to_the_class_tokens_share_are_reached_exactly() -> None:
    model = MODELS["vit"]
    sites, maps = deep_sites(model, 0.5), read(model, noise(2), 0.5)
    own = [m / m.sum(-1, keepdim=True) for m in maps]
    assert Alignment(sites, own, class_token_share=True).loss(maps, torch.arange(len(maps[0]))).item() < 1e-12
    assert Alignment(sites, own, class_token_share=False).loss(maps, torch.arange(len(maps[0]))).item() > 1e-6


def test_the_share_is_taken_as_a_constant() -> None:
    """The gradient by the maps is (l/L) H 2 (A - mass * prior) / count, without a part through the mass."""
    sites = deep_sites(MODELS["vit"], 0.5)
    maps = [m.clone().requires_grad_(True) for m in read(MODELS["vit"], noise(2), 0.5)]
    priors = draw_priors(sites, 2, PriorLaw(), seeded(2))
    Alignment(sites, priors, class_token_share=True).loss(maps, torch.arange(len(maps[0]))).backward()
    for site, reached, prior in zip(sites, maps, priors, strict=True):
        mass = sum(reached.detach().unbind(-1))
        error = reached.detach() - prior * torch.as_tensor(mass)[..., None]
        expected = site.depth / site.depths * site.heads * 2 * error / error.numel()
        assert reached.grad is not None
        assert torch.allclose(reached.grad, expected, rtol=1e-4, atol=1e-8)


def test_start_picks_the_priors_of_those_images() -> None:
    model = MODELS["vit"]
    sites = deep_sites(model, 0.5)
    priors = draw_priors(sites, 5, PriorLaw(), seeded(2))
    maps = read(model, noise(2), 0.5)
    expected = loss_slow(model, maps, [prior[3:5] for prior in priors], 0.5, True, False)
    assert Alignment(sites, priors).loss(maps, torch.arange(3, 3 + len(maps[0]))).item() == pytest.approx(
        expected, rel=1e-5
    )


def test_every_image_window_and_head_has_a_prior_of_its_own() -> None:
    sites = deep_sites(MODELS["swin"], 0.5)
    priors = draw_priors(sites, 3, PriorLaw(), seeded(0))
    assert [tuple(prior.shape) for prior in priors] == [(3, 4, 2, 16), (3, 1, 4, 16), (3, 1, 4, 16)]
    every = torch.cat([prior.reshape(-1, 16) for prior in priors])
    assert every.double().sum(1).tolist() == pytest.approx([1.0] * len(every), abs=1e-5)
    distance = torch.cdist(every, every) + torch.eye(len(every))
    assert distance.min().item() > 1e-4


@pytest.mark.parametrize("kind", ["vit", "pooled", "swin"])
def test_gradient_reaches_the_pixels_as_finite_differences_say(kind: str) -> None:
    if kind == "swin":
        model, images = tiny_swin().double(), noise(2).double()
    else:
        options: dict[str, Any] = {"class_token": False, "global_pool": "avg"} if kind == "pooled" else {}
        model = tiny_vit(img_size=8, embed_dim=8, depth=2, **options).double()
        images = noise(2, size=8).double()
    sites = deep_sites(model, 0.5)
    priors = [prior.double() for prior in draw_priors(sites, 2, PriorLaw(), seeded(1))]
    alignment = Alignment(sites, priors)

    def loss(x: Tensor) -> Tensor:
        with attention_maps(sites, 2) as maps:
            model(x)
        return alignment.loss(maps, torch.arange(len(maps[0])))

    leaf = images.clone().requires_grad_(True)
    loss(leaf).backward()
    assert leaf.grad is not None
    for index in [(0, 0, 0, 0), (0, 2, 5, 3), (1, 1, 7, 7), (1, 0, 2, 6)]:
        step = torch.zeros_like(images)
        step[index] = 1e-5
        numeric = (loss(images + step) - loss(images - step)).item() / 2e-5
        assert abs(numeric) > 1e-7
        assert leaf.grad[index].item() == pytest.approx(numeric, rel=1e-4)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("offset", [0.0, 1.0, -2.0, 0.25, -1.75, 5.5])
def test_a_prior_moves_as_a_slow_loop_says_and_keeps_its_sum(offset: float, flipped: bool) -> None:
    rows, columns = 3, 4
    prior = torch.rand((2, rows * columns), generator=seeded(0), dtype=torch.float64)
    found = moved_prior(prior, (rows, columns), (offset, 0.5 - offset), flipped)
    expected = torch.zeros(2, rows, columns, dtype=torch.float64)
    for row in range(rows):
        for column in range(columns):
            for down in range(-9, 10):
                for right in range(-9, 10):
                    share = max(0.0, 1 - abs(down - offset)) * max(0.0, 1 - abs(right - 0.5 + offset))
                    expected[:, (row + down) % rows, (column + right) % columns] += (
                        share * prior[:, row * columns + column]
                    )
    if flipped:
        expected = expected[..., range(columns - 1, -1, -1)]
    assert torch.allclose(found, expected.flatten(1), atol=1e-12)
    assert torch.allclose(found.sum(1), prior.sum(1), atol=1e-12)


def test_priors_move_by_whole_patches_as_the_image_does() -> None:
    sites = deep_sites(MODELS["vit"], 0.5)
    priors = draw_priors(sites, 2, PriorLaw(), seeded(0))
    view = View(down=8, right=4, flipped=True)  # two patches of 4 px, and one
    moved = Alignment(sites, priors).seen(view, (16, 16))
    for before, after in zip(priors, moved.priors, strict=True):
        pictures = before.reshape(2, -1, 4, 4).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
        assert torch.equal(view.show(pictures)[..., ::4, ::4].flatten(2), after.reshape(2, -1, 16))
