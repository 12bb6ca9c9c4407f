"""Exact disks and rings of an image's spectrum, as filters of normalized images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.contracts import ImageSpace


@dataclass(frozen=True)
class Ring:
    """Frequencies whose distance to the centre of the shifted spectrum is from `inner` to `outer`, both included,
    in units of half the shorter side; a disk where `inner` is 0."""

    inner: float
    outer: float

    def mask(self, height: int, width: int, device: torch.device) -> Tensor:
        """Return, for the half spectrum [height, width // 2 + 1] of real images, where it passes, as bool."""
        rows = torch.fft.ifftshift(torch.arange(height, dtype=torch.float64, device=device) - height // 2)
        columns = torch.arange(width // 2 + 1, dtype=torch.float64, device=device)
        distance: Tensor = torch.hypot(rows[:, None], columns[None]) / (min(height, width) / 2)
        return (distance >= self.inner) & (distance <= self.outer)


def filtered(images: Tensor, ring: Ring, space: ImageSpace) -> Tensor:
    """Return normalized images [n, C, H, W] of whose pixels only the ring is left: |F^-1 M F x|, differentiable.

    The mask is the same on both sides of the centre, so that the inverse is real and half the spectrum is enough.
    """
    height, width = images.shape[-2:]
    mean = torch.tensor(space.mean, device=images.device)[:, None, None]
    std = torch.tensor(space.std, device=images.device)[:, None, None]
    spectrum = torch.fft.rfft2(images * std + mean) * ring.mask(height, width, images.device)
    pixels: Tensor = torch.fft.irfft2(spectrum, s=(height, width)).abs()
    return (pixels - mean) / std
