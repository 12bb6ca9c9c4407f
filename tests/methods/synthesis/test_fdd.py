"""FDD as a whole and its filters: in every half of a round against slow float64, an explicit centred DFT."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import pytest
import tiny_models  # noqa: F401  (one thread)
import torch
from test_psaq_vit import HALF, SWIN, VIT, context, slow_loss
from tiny_models import noise
from torch import Tensor, nn
from torch.nn import functional

from methods.contracts import ImageSpace, SyntheticImages
from methods.errors import UsageError
from methods.synthesis.fdd import FDD, ROUNDS, FDDConfig, Ring, _Objective, filtered

CONFIG = FDDConfig(images=3, iterations=20, jitter=3.0)


def synthesize(model: Any = VIT, seed: int = 0, micro_batch: int = 1 << 20, **changes: Any) -> SyntheticImages:
    return FDD().synthesize(model, dataclasses.replace(CONFIG, **changes), context(seed, micro_batch))


def slow_terms(
    model: Any, images: Tensor, targets: Tensor, windows: list[int], place: tuple[int, int]
) -> list[Tensor]:
    """Return L_OH, KL and L_PSE of float64 images in one half of a round, by the definition."""
    disk, _ = rings = ROUNDS[place[0]]
    labels = targets.argmax(1)
    seen = slow_loss(model, slowly_filtered(images, rings[place[1]], HALF), labels, windows)
    if place[1] == 0:
        return [seen["oh"], torch.zeros(()), seen["pse"]]
    plain = copy.deepcopy(model).double()
    wanted = plain(slowly_filtered(images.detach(), disk, HALF)).softmax(1)
    found = plain(slowly_filtered(images, rings[1], HALF)).softmax(1)
    divergence = sum(p * (p.log() - q.log()) for p, q in zip(wanted.flatten(), found.flatten(), strict=True)) / 3
    return [0.5 * seen["oh"], 0.5 * torch.as_tensor(divergence), seen["pse"]]


@pytest.mark.parametrize(("model", "windows"), [(VIT, [1, 1]), (SWIN, [4, 4, 1, 1])])
@pytest.mark.parametrize(
    ("step", "place", "micro_batch"),
    [(1, (0, 0), 1 << 20), (2, (0, 1), 2), (13, (3, 0), 2), (14, (3, 1), 1 << 20), (18, (4, 1), 2)],
)
def test_loss_and_gradient_are_those_of_the_filtered_images(
    step: int, place: tuple[int, int], model: Any, windows: list[int], micro_batch: int
) -> None:
    """Both in float64 (the density, an entropy, excepted): a kernel as narrow as 0.01 amplifies the rounding of what
    is left of an image within a ring."""
    exactly = copy.deepcopy(model).double()
    objective = _Objective(exactly, dataclasses.replace(CONFIG, tv_weight=0.0), context(micro_batch=micro_batch))
    images = noise(3).double().requires_grad_(True)
    terms = {"oh": 0.0, "kl": 0.0, "pse": 0.0}
    for group in objective(images, step):
        torch.stack(list(group.values())).sum().backward()
        terms = {name: terms[name] + group[name].item() for name in terms}
    exact = images.detach().double().requires_grad_(True)
    expected = slow_terms(model, exact, objective.targets, windows, place)
    torch.stack(expected).sum().backward()
    assert list(terms.values()) == pytest.approx([value.item() for value in expected], abs=1e-5, rel=1e-5)
    assert images.grad is not None
    assert exact.grad is not None
    assert (images.grad - exact.grad).abs().max().item() < 1e-3 * exact.grad.abs().max().item()


def test_variation_is_that_of_the_filtered_images() -> None:
    objective = _Objective(VIT, dataclasses.replace(CONFIG, pse_weight=0.0, tv_weight=0.1), context(micro_batch=2))
    images = noise(3)
    *_, last = list(objective(images, 2))
    x = slowly_filtered(images.double(), ROUNDS[0][1], HALF)
    shifts = (
        x[..., 1:] - x[..., :-1],
        x[..., 1:, :] - x[..., :-1, :],
        x[..., 1:, 1:] - x[..., :-1, :-1],
        x[..., 1:, :-1] - x[..., :-1, 1:],
    )
    variation = sum(shift.square().sum().sqrt().item() for shift in shifts)
    assert last["tv"].item() == pytest.approx(0.1 * abs(variation - objective.variation_target), rel=1e-5)


def test_without_distillation_the_disk_is_not_looked_at_in_the_second_half() -> None:
    seen: list[int] = []
    hook = VIT.register_forward_pre_hook(lambda *a: seen.append(1))
    for share in (0.5, 0.0):
        list(_Objective(VIT, dataclasses.replace(CONFIG, distilled=share), context())(noise(3), 2))
        seen.append(0)
    hook.remove()
    assert seen == [1, 1, 0, 1, 0]


def test_the_generator_alone_decides_and_micro_batches_change_nothing() -> None:
    torch.manual_seed(1)
    first = synthesize(SWIN, seed=7, iterations=6)
    torch.manual_seed(2)
    again, other = (synthesize(SWIN, seed=seed, iterations=6) for seed in (7, 8))
    assert torch.equal(first.images, again.images)
    assert first.losses == again.losses
    assert (first.images - other.images).abs().mean().item() > 0.1
    few: dict[str, Any] = {"iterations": 5, "learning_rate": 1e-3}
    whole, parts = synthesize(VIT, **few), synthesize(VIT, micro_batch=2, **few)
    assert (whole.images - parts.images).abs().mean().item() < 1e-5


def test_a_synthesis_lowers_the_loss_of_its_classes_and_logs_every_step() -> None:
    made = synthesize(pse_weight=0.0, tv_weight=0.0, iterations=100, jitter=0.0, flip=0.0)
    labels = made.extras["labels"]
    assert made.targets is not None
    assert torch.equal(made.targets, functional.one_hot(labels, 10).float())
    assert {name: len(values) for name, values in made.losses.items()} == {"oh": 100, "kl": 100}
    assert made.losses["kl"][80:90] == [0.0] * 10
    assert min(made.losses["kl"][90:]) > 0.0
    start, end = made.losses["oh"][0], made.losses["oh"][89]
    assert end < 0.2 * start
    seen = VIT(slowly_filtered(made.images.double(), ROUNDS[4][0], HALF).float())
    assert seen.argmax(1).tolist() == labels.tolist()


def test_defaults_are_the_codes() -> None:
    method, space = FDD(), ImageSpace(224, 224, (0.5,) * 3, (0.5,) * 3)
    deit, swin = method.default_config("deit_t"), method.default_config("swin_t")
    assert (deit.images, deit.iterations, deit.learning_rate, swin.learning_rate) == (32, 1000, 0.2, 0.25)
    assert deit.limits(space) == (0, 6, 13, 20, 26)
    rates = [deit.loop().rate(step) for step in (0, 39, 40, 120, 200, 240)]
    assert rates == pytest.approx([0.025, 1.0, 1.0, 0.5, 0.025, 1.0])
    assert method.image_passes(deit) == pytest.approx(32 * (1000 + 500 / 3))
    assert method.short == {"iterations": 100}


def test_models_without_known_attention_are_refused() -> None:
    with pytest.raises(UsageError, match="Identity is not supported"):
        synthesize(nn.Identity())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"images": 0}, "images >= 1"),
        ({"jitter": -0.1}, "jitter >= 0"),
        ({"beta1": 1.0}, "beta1 and beta2"),
        ({"distilled": 1.5}, "distilled and flip"),
        ({"points": 1}, "points >= 2"),
        ({"iterations": 4}, "rounds <= iterations"),
    ],
)
def test_settings_out_of_range_are_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FDDConfig(**bad)


SPACES = {
    (16, 16): ImageSpace(16, 16, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    (9, 12): ImageSpace(9, 12, (0.5,) * 3, (0.5,) * 3),
}


def centred_mask(height: int, width: int, ring: Ring) -> Tensor:
    """Return the mask of the shifted spectrum, whose centre is the cell (height // 2, width // 2)."""
    half = min(height, width) / 2
    mask = torch.zeros(height, width, dtype=torch.float64)
    for i in range(height):
        for j in range(width):
            distance = math.sqrt((i - height // 2) ** 2 + (j - width // 2) ** 2) / half
            mask[i, j] = float(ring.inner <= distance <= ring.outer)
    return mask


def centred_dft(size: int) -> Tensor:
    """Return the matrix of the DFT whose rows are frequencies from -(size // 2) on."""
    rows = [[-2 * math.pi * (k - size // 2) * n / size for n in range(size)] for k in range(size)]
    angles = torch.tensor(rows, dtype=torch.float64)
    return torch.complex(angles.cos(), angles.sin())


def slowly_filtered(images: Tensor, ring: Ring, space: ImageSpace) -> Tensor:
    """Return float64 images [n, C, H, W] filtered by the definition, differentiable."""
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (space.mean, space.std))
    height, width = images.shape[-2:]
    rows, columns = centred_dft(height), centred_dft(width)
    spectrum = rows @ (images * std + mean).to(torch.complex128) @ columns.T
    spectrum = spectrum * centred_mask(height, width, ring)
    pixels = (rows.conj().T @ spectrum @ columns.conj()).abs() / (height * width)
    return (pixels - mean) / std


@pytest.mark.parametrize("size", list(SPACES))
@pytest.mark.parametrize("ring", [Ring(0.0, 0.5), Ring(0.25, 0.7), Ring(0.0, 1.0), Ring(0.0, 2.0)])
def test_value_and_gradient_equal_the_explicit_transform(size: tuple[int, int], ring: Ring) -> None:
    generator = torch.Generator().manual_seed(0)
    images, weights = (torch.randn((2, 3, *size), generator=generator) for _ in range(2))
    images.requires_grad_(True)
    exact = images.detach().double().requires_grad_(True)
    fast, slow = filtered(images, ring, SPACES[size]), slowly_filtered(exact, ring, SPACES[size])
    assert (fast - slow).abs().max().item() < 1e-5
    (found,) = torch.autograd.grad((fast * weights).sum(), images)
    (expected,) = torch.autograd.grad((slow * weights).sum(), exact)
    assert expected.abs().max().item() > 0.1
    assert (found - expected).abs().max().item() < 1e-5


def test_a_ring_holds_both_its_edges_and_nothing_beyond() -> None:
    space = ImageSpace(20, 20, (0.0,) * 3, (1.0,) * 3)
    for frequency, inside in ((1, False), (2, True), (4, True), (6, True), (7, False)):
        wave = torch.cos(2 * math.pi * frequency * torch.arange(20) / 20).expand(1, 3, 20, 20)
        expected = wave.abs() if inside else torch.zeros_like(wave)
        assert torch.allclose(filtered(wave, Ring(0.2, 0.6), space), expected, atol=1e-6)
