"""Attention priors: random, smooth, peaked maps that heads are asked to look like.

The paper draws a different Gaussian mixture for every head and finds a Laplace law as good. The laws of
centres, widths and rotations are not published; those here are inferred and are settings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.errors import UsageError, unknown_name

LAWS = ("gmm", "laplace", "real")
_NARROWEST = 0.02  # grid sides; narrower components underflow between the cells


@dataclass(frozen=True)
class PriorLaw:
    """A law of priors."""

    law: str = "gmm"
    """`gmm` exp(-r^2/2) or `laplace` exp(-sqrt(2) r), r the Mahalanobis distance from the centre, or `real`, the
    attention real images get, which is not drawn here but measured (`spdfq.apa`)."""
    components: int = 5
    """Most components per map, drawn from 1..components."""
    combine: str = "sum"
    """`sum` or `max`."""
    width_min: float = 0.05
    """Range of each axis' standard deviation, in grid sides."""
    width_max: float = 0.25
    """Range of each axis' standard deviation, in grid sides."""
    rotate: bool = True
    """Turn the axes at random."""

    def __post_init__(self) -> None:
        if self.law not in LAWS:
            raise unknown_name("prior law", self.law, LAWS)
        if self.combine not in ("sum", "max"):
            raise unknown_name("way to combine components", self.combine, ("sum", "max"))
        if self.components < 1 or not _NARROWEST <= self.width_min <= self.width_max:
            raise UsageError(f"Priors need components >= 1 and {_NARROWEST} <= width_min <= width_max.")

    def draw(self, maps: int, grid: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Return `maps` priors [maps, rows*columns], each non-negative with sum 1; the law `real` draws none."""
        if self.law == "real":
            raise UsageError("Priors of the law 'real' are measured on real images, not drawn.")
        shape = (maps, self.components)
        count = torch.randint(1, self.components + 1, (maps, 1), generator=generator)
        used = torch.arange(self.components) < count
        size = torch.tensor(grid)
        centres = torch.rand((*shape, 2), generator=generator) * (size - 1)
        span = self.width_max - self.width_min
        widths = (self.width_min + span * torch.rand((*shape, 2), generator=generator)) * size
        angles = math.pi * torch.rand(shape, generator=generator) * self.rotate
        squared = _mahalanobis(grid, centres, widths, angles)
        heights = torch.exp(-squared / 2) if self.law == "gmm" else torch.exp(-(2 * squared).sqrt())
        heights = heights * used[..., None]
        merged = heights.sum(1) if self.combine == "sum" else heights.amax(1)
        return merged / merged.sum(dim=1, keepdim=True)


def _mahalanobis(grid: tuple[int, int], centres: Tensor, widths: Tensor, angles: Tensor) -> Tensor:
    """Return squared Mahalanobis distances [maps, components, cells] of the grid's cells."""
    rows, columns = grid
    cells = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
    offset = cells - centres[:, :, None]
    cosine, sine = angles.cos()[..., None], angles.sin()[..., None]
    along = cosine * offset[..., 0] + sine * offset[..., 1]
    across = cosine * offset[..., 1] - sine * offset[..., 0]
    return (along / widths[..., :1]).square() + (across / widths[..., 1:]).square()
