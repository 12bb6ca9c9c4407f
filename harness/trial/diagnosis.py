"""What images look like to a model and to a spectrum: a diagnosis for people; no method may be trained by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

CROPS = 8
"""How many crops of every image, 70 to 100 % of its area and half of them flipped, are shown to the model."""
LOW = 1 / 32
"""Below so many cycles a pixel a frequency counts as low."""


@dataclass(frozen=True)
class Diagnosis:
    """One number per image, [n] each.

    own: probability of the image's own class; under_crops: its mean over crops; low: share of the spectrum's energy
    at low frequencies, the constant part left out; contrast: standard deviation of the normalized values.
    """

    own: Tensor
    under_crops: Tensor
    low: Tensor
    contrast: Tensor


def diagnosed(model: nn.Module, images: Tensor, labels: Tensor, seed: int = 0) -> Diagnosis:
    """Look at normalized images [n, C, H, W] of classes `labels` [n]; seed: of the crops."""
    import torch

    from harness.inputs.seeds import generator
    from methods.optimisation.views import with_views

    device = next(model.parameters()).device
    views = with_views(images, CROPS, generator(seed, "diagnosis")).split(len(images))
    with torch.inference_mode():
        chances = torch.stack([model(view.to(device)).float().softmax(1).cpu() for view in views])
    own = chances[:, torch.arange(len(images)), labels]
    return Diagnosis(own[0], own[1:].mean(0), low_share(images), images.std(dim=(1, 2, 3)))


def low_share(images: Tensor) -> Tensor:
    """Return the share [n] of the spectral energy of images [n, C, H, W] below `LOW`, without the constant part."""
    import torch

    energy = torch.fft.fft2(images.double()).abs().square().sum(1)
    rows, columns = (torch.fft.fftfreq(size, dtype=torch.float64) for size in energy.shape[1:])
    frequency = (rows[:, None].square() + columns.square()).sqrt()
    varying = energy * (frequency > 0)
    low: Tensor = (varying * (frequency < LOW)).sum((1, 2)) / varying.sum((1, 2)).clamp(min=1e-300)
    return low.float()
