"""The spectrum of images: its frequencies, and broad shapes brought to the fore."""

from __future__ import annotations

import torch
from torch import Tensor


def frequencies(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the frequencies of a half spectrum [H, W // 2 + 1] in cycles per image."""
    rows = torch.fft.fftfreq(height, 1 / height, device=device)
    columns = torch.fft.rfftfreq(width, 1 / width, device=device)
    return torch.hypot(rows[:, None], columns[None])


def smoothed(images: Tensor, power: float) -> Tensor:
    """Return images [n, C, H, W] with the amplitude at frequency f divided by max(f, 1)^power, of the same norm."""
    height, width = images.shape[-2:]
    divisor = frequencies(height, width, images.device).clamp(min=1).pow(power)
    broad = torch.fft.irfft2(torch.fft.rfft2(images) / divisor, s=(height, width))
    result: Tensor = broad * (images.norm() / broad.norm())
    return result
