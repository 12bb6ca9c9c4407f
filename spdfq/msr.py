"""MSR, Multi-Semantic Reinforcement: regions of an image are learned as images of their own.

For every image 1..K_MSR non-overlapping patches, each cropped, resized to the model's input and given its own
label; the gradient of a patch flows to its region alone, through the differentiable crop and resize. How
regions are placed is not published: squares with sides U(1/4, 1/2) of the image, fixed for the run, is
inferred.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from methods.errors import UsageError

_TRIES = 200


@dataclass(frozen=True)
class Region:
    """A square of `side` pixels with its upper left corner at (top, left) of image `image`."""

    image: int
    top: int
    left: int
    side: int

    def overlaps(self, other: Region) -> bool:
        """Whether the two squares, of the same image, share a pixel."""
        apart = (
            self.top + self.side <= other.top
            or other.top + other.side <= self.top
            or self.left + self.side <= other.left
            or other.left + other.side <= self.left
        )
        return not apart


@dataclass(frozen=True)
class RegionLaw:
    """How regions are drawn."""

    most: int = 4
    """K_MSR, regions per image are drawn from 1..most."""
    side_min: float = 0.25
    """Range of the side, in image sides."""
    side_max: float = 0.5
    """Range of the side, in image sides."""
    disjoint: bool = True
    """Whether regions of an image share no pixel."""

    def __post_init__(self) -> None:
        if self.most < 1 or not 0 < self.side_min <= self.side_max <= 1:
            raise UsageError("Regions need most >= 1 and 0 < side_min <= side_max <= 1.")
        if self.disjoint and ((self.most > 1 and self.side_min > 0.5) or self.most * self.side_min**2 > 1):
            raise UsageError(f"{self.most} regions of side {self.side_min} cannot be disjoint in one image.")

    def draw(self, images: int, height: int, width: int, generator: torch.Generator) -> list[Region]:
        """Draw the regions of every image, image by image."""
        regions: list[Region] = []
        for image in range(images):
            count = _integer(1, self.most, generator)
            regions += self.place(image, count, height, width, generator)
        return regions

    def place(self, image: int, count: int, height: int, width: int, generator: torch.Generator) -> list[Region]:
        """Place `count` squares at random, disjoint ones by rejection; start afresh when the image is jammed."""
        shorter = min(height, width)
        lowest, highest = max(1, round(self.side_min * shorter)), max(1, round(self.side_max * shorter))
        for _ in range(_TRIES):
            placed: list[Region] = []
            for _ in range(_TRIES):
                side = _integer(lowest, highest, generator)
                top, left = _integer(0, height - side, generator), _integer(0, width - side, generator)
                region = Region(image, top, left, side)
                if not (self.disjoint and any(region.overlaps(other) for other in placed)):
                    placed.append(region)
                if len(placed) == count:
                    return placed
        raise UsageError(f"Found no {count} disjoint regions of side {lowest} to {highest} px in {height}x{width} px.")


def _integer(low: int, high: int, generator: torch.Generator) -> int:
    """Draw an integer from low..high."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def crops(images: Tensor, regions: Sequence[Region], interpolation: str = "bilinear") -> Tensor:
    """Cut the regions from images [n, C, H, W] and resize each to [C, H, W]; returns [len(regions), C, H, W]."""
    size = images.shape[-2:]
    exact = {} if interpolation == "nearest" else {"align_corners": False}
    cut = [
        functional.interpolate(
            images[None, r.image, :, r.top : r.top + r.side, r.left : r.left + r.side],
            size=size,
            mode=interpolation,
            **exact,
        )
        for r in regions
    ]
    return torch.cat(cut) if cut else images[:0]
