"""What images begin as: white noise, as the paper says, or noise with the spectrum that all photographs share."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.contracts import ImageSpace
from methods.optimisation.spectrum import frequencies

_COLOUR = 0.3  # standard deviation of a channel's own noise, that of the common one being 1


def white_noise(count: int, space: ImageSpace, generator: torch.Generator) -> Tensor:
    """Return standard normal values [count, C, H, W]."""
    return torch.randn((count, *space.shape), generator=generator)


def natural_noise(count: int, space: ImageSpace, generator: torch.Generator) -> Tensor:
    """Return noise [count, C, H, W] whose amplitude falls as 1/f, around the middle of the box of pixels.

    The law is that of natural images (Field 1987), known without any. Channels are mostly alike; the standard
    deviation of every image is that of pixels spread evenly over the box; what lies outside is clipped. Inferred.
    """
    channels, height, width = space.shape
    noise = torch.randn((count, 1, height, width), generator=generator)
    noise = noise + _COLOUR * torch.randn((count, channels, height, width), generator=generator)
    slope = frequencies(height, width).reciprocal()
    slope[0, 0] = 0
    images = torch.fft.irfft2(torch.fft.rfft2(noise) * slope, s=(height, width))
    images = images / images.std(dim=(1, 2, 3), keepdim=True)
    low, high = space.bounds()
    images = (low + high) / 2 + images * (high - low) / 12**0.5
    return torch.minimum(torch.maximum(images, low), high)


STARTS = {"noise": white_noise, "natural": natural_noise}
