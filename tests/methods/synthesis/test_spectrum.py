"""Filters of the spectrum against an explicit centred DFT with a mask drawn cell by cell, in complex128."""

from __future__ import annotations

import math

import pytest
import tiny_models  # noqa: F401  (one thread)
import torch
from torch import Tensor

from methods.contracts import ImageSpace
from methods.synthesis.fdd import Ring, filtered

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
