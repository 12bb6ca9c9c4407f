"""Patch-similarity entropy against the naive formula in float64, pair by pair and point by point."""

from __future__ import annotations

import itertools
import math

import pytest
import tiny_models  # noqa: F401  (one thread)
import torch
from torch import Tensor
from torch.nn import functional

from methods.errors import UsageError
from methods.optimisation import patch_similarity
from methods.optimisation.patch_similarity import (
    DensityLaw,
    patch_similarity_entropy,
    smallest_similarity,
    unit_tokens,
)

LAW = DensityLaw()


def tokens(spread: float, images: int = 3, windows: int = 2, count: int = 7, seed: int = 0) -> Tensor:
    """Attention outputs [images, windows, count, 2 heads, 5]; a small spread makes tokens alike."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn((images, 1, 1, 2, 5), generator=generator)
    return common + spread * torch.randn((images, windows, count, 2, 5), generator=generator)


def slow_entropies(outputs: Tensor, bandwidth: float = 0.01, points: int = 10) -> list[Tensor]:
    """Return the entropy of every image of one batch, in the precision of `outputs` and differentiable."""
    similarities: list[Tensor] = []
    for image in outputs:
        means = [window.mean(1)[1:] for window in image]
        pairs = [functional.cosine_similarity(mean[:, None], mean[None], dim=-1).flatten() for mean in means]
        similarities.append(torch.cat(pairs))
    low = min(image.min().item() for image in similarities)
    high = max(image.max().item() for image in similarities)
    step = (high - low) / (points - 1)
    entropies = []
    for image in similarities:
        values = []
        for index in range(points):
            point = low + index * step
            kernels = torch.exp(-(((point - image) / bandwidth) ** 2) / 2)
            density = kernels.mean() / (bandwidth * math.sqrt(2 * math.pi)) + 1e-4
            values.append(-density * density.log())
        entropies.append(torch.stack([(a + b) / 2 * step for a, b in itertools.pairwise(values)]).sum())
    return entropies


def gradient(entropies: list[Tensor] | Tensor, outputs: Tensor) -> Tensor:
    """Return the gradient of the entropies weighted 1, 2, 3, ..."""
    return torch.autograd.grad(sum((i + 1) * value for i, value in enumerate(entropies)), outputs)[0]


@pytest.mark.parametrize("chunk", [1 << 20, 1])
@pytest.mark.parametrize(
    ("spread", "law"), [(2.0, LAW), (0.5, LAW), (0.1, LAW), (0.03, LAW), (0.5, DensityLaw(0.03, 4))]
)
def test_value_and_gradient_equal_the_slow_reference(
    spread: float, law: DensityLaw, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patch_similarity, "_CHUNK", {"cpu": chunk})
    outputs = tokens(spread).requires_grad_(True)
    exact = outputs.detach().double().requires_grad_(True)
    slow = slow_entropies(exact, law.bandwidth, law.points)
    fast = patch_similarity_entropy(unit_tokens(outputs), law)
    assert fast.tolist() == pytest.approx([value.item() for value in slow], abs=1e-4, rel=1e-4)
    found, expected = gradient(fast, outputs).double(), gradient(slow, exact)
    size = expected.abs().max().item()
    assert size > 1e-2
    assert (found - expected).abs().max().item() < 1e-4 * size


def test_parts_of_a_batch_share_its_smallest_similarity() -> None:
    units = unit_tokens(tokens(1.0))
    whole = patch_similarity_entropy(units, LAW)
    parts = [patch_similarity_entropy(unit[None], LAW, smallest_similarity(units)) for unit in units]
    assert torch.cat(parts).tolist() == pytest.approx(whole.tolist(), rel=1e-5)
    alone = [patch_similarity_entropy(unit[None], LAW).item() for unit in units]
    assert max(abs(a - b) for a, b in zip(alone, whole.tolist(), strict=True)) > 1e-2


def test_smallest_similarity_lies_within_a_window() -> None:
    units = torch.tensor([[[1.0, 0.0], [0.6, 0.8]], [[-1.0, 0.0], [0.0, -1.0]]])[None]
    assert smallest_similarity(units) == pytest.approx(0.0)
    assert smallest_similarity(units[:, :1]) == pytest.approx(0.6)


def test_tokens_all_alike_or_alone_have_no_entropy_and_no_gradient() -> None:
    for outputs in (torch.ones(2, 1, 5, 2, 3), torch.ones(2, 3, 2, 2, 3), torch.zeros(2, 1, 5, 2, 3)):
        outputs.requires_grad_(True)
        entropies = patch_similarity_entropy(unit_tokens(outputs), LAW, 1.0)
        assert entropies.tolist() == [0.0, 0.0]
        assert gradient(entropies, outputs).abs().max().item() == 0.0


def test_precision_is_full_under_autocast() -> None:
    outputs = tokens(1.0).requires_grad_(True)
    plain = patch_similarity_entropy(unit_tokens(outputs), LAW)
    slope = gradient(plain, outputs)
    with torch.autocast("cpu", torch.bfloat16):
        units = unit_tokens(outputs)
        assert smallest_similarity(units) == smallest_similarity(units.detach().float())
        mixed = patch_similarity_entropy(units, LAW)
        assert torch.equal(gradient(mixed, outputs), slope)
    assert torch.equal(mixed, plain)


def test_only_a_tensor_of_the_size_of_the_tokens_is_kept_for_the_backward_pass() -> None:
    kept: list[int] = []
    units = unit_tokens(tokens(1.0, count=40)).requires_grad_(True)

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        patch_similarity_entropy(units, LAW)
    assert kept == [units.numel()]


@pytest.mark.parametrize("bad", [{"bandwidth": 0.0}, {"bandwidth": -0.01}, {"points": 1}])
def test_laws_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="bandwidth > 0 and points >= 2"):
        DensityLaw(**bad)  # type: ignore[arg-type]
