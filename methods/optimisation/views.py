"""How images are shown to a model while something is learned from them; all draws come from a given generator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from methods.errors import UsageError

_LEAST_AREA, _MILD_AREA, _RATIO = 0.08, 0.7, 4 / 3
_COLOUR, _GREY, _BLUR = 0.8, 0.2, 0.5  # probabilities
_STRENGTH = 0.4  # of contrast, saturation (relative) and brightness (normalized pixel values)
_WIDEST_BLUR = 2.0  # standard deviation in pixels of a 224 px image


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


def random_views(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images [n, C, H, W], each cropped and resized, flipped, recoloured, turned grey or blurred at random.

    The usual recipe of contrastive learning in normalized values: crops of 8 to 100 % of the area, flips and blur
    with probability 1/2, brightness, contrast and saturation changed by up to 0.4 with 0.8, grey with 0.2.
    """
    return _blurred(_recoloured(_cropped(images, generator, _LEAST_AREA), generator), generator)


def with_views(images: Tensor, views: int, generator: torch.Generator) -> Tensor:
    """Return images [n, C, H, W] followed by `views` crops of each, 70 to 100 % of the area, half flipped."""
    return torch.cat([images, *(_cropped(images, generator, _MILD_AREA) for _ in range(views))])


def _draw(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` times one number per image from U(0, 1), [count, n], on the images' device."""
    return torch.rand((count, len(images)), generator=generator).to(images.device)


def _cropped(images: Tensor, generator: torch.Generator, least_area: float) -> Tensor:
    """Resize a box of every image, at least that share of its area, to the whole, half of them flipped."""
    area, ratio, down, right, flip = _draw(images, 5, generator)
    area, ratio = least_area + (1 - least_area) * area, _RATIO ** (2 * ratio - 1)
    height, width = (area / ratio).sqrt().clamp(max=1), (area * ratio).sqrt().clamp(max=1)
    zero, sign = torch.zeros_like(area), 1 - 2 * (flip < 0.5).float()
    rows = [sign * width, zero, (2 * right - 1) * (1 - width), zero, height, (2 * down - 1) * (1 - height)]
    grid = functional.affine_grid(
        torch.stack(rows, dim=1).unflatten(1, (2, 3)), list(images.shape), align_corners=False
    )
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _recoloured(images: Tensor, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast and saturation of most images and turn some grey."""
    chosen, grey, *amounts = _draw(images, 5, generator)[:, :, None, None, None]
    brightness, contrast, saturation = ((chosen < _COLOUR) * _STRENGTH * (2 * amount - 1) for amount in amounts)
    saturation = torch.where(grey < _GREY, -1.0, saturation)
    plain = images.mean(dim=1, keepdim=True)
    images = plain + (1 + saturation) * (images - plain)
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    recoloured: Tensor = middle + (1 + contrast) * (images - middle) + brightness
    return recoloured


def _blurred(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blur half of the images by a Gaussian."""
    chosen, width = _draw(images, 2, generator)
    n, channels, *sides = images.shape
    widest = _WIDEST_BLUR * min(sides) / 224
    reach = math.ceil(2 * widest)
    deviation = ((0.05 + 0.95 * width) * widest).clamp(min=1e-3)
    deviation = torch.where(chosen < _BLUR, deviation, 1e-3)  # as good as none
    taps = torch.arange(-reach, reach + 1, device=images.device)
    kernel = torch.softmax(-0.5 * (taps / deviation[:, None]).square(), dim=1).repeat_interleave(channels, dim=0)
    padded = functional.pad(images, (reach,) * 4, mode="replicate").flatten(0, 1)[None]
    across = functional.conv2d(padded, kernel[:, None, None], groups=n * channels)
    blurred: Tensor = functional.conv2d(across, kernel[:, None, :, None], groups=n * channels)[0]
    return blurred.reshape(images.shape)


@dataclass(frozen=True)
class View:
    """One way to look at images: rolled by `down` rows and `right` columns, in pixels, then perhaps flipped."""

    down: int = 0
    right: int = 0
    flipped: bool = False

    def show(self, images: Tensor) -> Tensor:
        """Return the images [n, C, H, W] as seen, differentiable."""
        shown = images.roll((self.down, self.right), dims=(2, 3))
        return shown.flip(3) if self.flipped else shown


@dataclass(frozen=True)
class Jitter:
    """How the images are shown at a step: all rolled by one offset, the same along both axes, and perhaps flipped."""

    limits: tuple[int, ...]
    """Largest offset in pixels, one per round."""
    flip: float
    """Probability of a horizontal flip."""
    generator: torch.Generator
    """What offset and flip are drawn from, in this order, at every step."""
    independent: bool = False
    """Whether the columns get an offset of their own, drawn after that of the rows."""

    def __post_init__(self) -> None:
        if any(limit < 0 for limit in self.limits) or not 0 <= self.flip <= 1:
            raise UsageError("Jitter needs limits >= 0 and a probability of flips, 0 to 1.")

    def show(self, images: Tensor, index: int) -> Tensor:
        """Return the images [n, C, H, W] as shown at a step of round `index`, differentiable."""
        return self.draw(index).show(images)

    @classmethod
    def growing(cls, first: float, rounds: int, flip: float, generator: torch.Generator) -> Jitter:
        """Return PSAQ-ViT's jitter: up to `first` pixels in the first round, twice as far in the second, and so on."""
        return cls(tuple(round(first * (index + 1)) for index in range(rounds)), flip, generator)

    def draw(self, index: int) -> View:
        """Draw how the images are shown at a step of round `index`."""
        down = self._offset(index)
        right = self._offset(index) if self.independent else down
        return View(down, right, torch.rand((), generator=self.generator).item() < self.flip)

    def _offset(self, index: int) -> int:
        limit = self.limits[index]
        return int(torch.randint(-limit, limit + 1, (), generator=self.generator))
