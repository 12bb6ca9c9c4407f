"""How images are shown to a model while something is learned from them; all draws come from a given generator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Look:
    """Images rolled by (down, right) pixels, all alike, then gain * x + shift per image and channel [n, C, 1, 1]."""

    offsets: tuple[int, int]
    gain: Tensor
    shift: Tensor

    @classmethod
    def draw(
        cls, channels: tuple[int, int], limit: int, colour: float, noise: float, generator: torch.Generator
    ) -> Look:
        """Draw a roll up to `limit` pixels along each axis, then (x - m) / e^s + noise * o for images and channels
        (n, C): m and s from U(-colour, colour), o standard normal."""
        down, right = torch.randint(-limit, limit + 1, (2,), generator=generator).tolist()
        shift, stretch = colour * (2 * torch.rand((2, *channels, 1, 1), generator=generator) - 1)
        offset = noise * torch.randn((*channels, 1, 1), generator=generator)
        gain = torch.exp(-stretch)
        return cls((down, right), gain, offset - gain * shift)

    def to(self, device: torch.device) -> Look:
        """Return the same look on a device."""
        return Look(self.offsets, self.gain.to(device), self.shift.to(device))

    def show(self, images: Tensor, rows: slice = slice(None)) -> Tensor:
        """Return images [n, C, H, W], which are the batch's `rows`, as shown; differentiable."""
        return images.roll(self.offsets, dims=(2, 3)) * self.gain[rows] + self.shift[rows]
