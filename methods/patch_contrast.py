"""Contrast between the patches of a map: near ones that look alike attract, all others repel (CLAMP-ViT).

The method as a whole, its paper and what is inferred in it is in `methods.clamp_vit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from methods.errors import UsageError


@dataclass(frozen=True)
class Neighbourhood:
    """grid: rows and columns of the map; radius: of the square of neighbours, in patches; positives: how many of
    them, the most similar ones, attract an anchor (fewer at the edges, where fewer are there); temperature: what
    cosine similarities are divided by."""

    grid: tuple[int, int]
    radius: int
    positives: int
    temperature: float

    def __post_init__(self) -> None:
        if self.radius < 1 or self.positives < 1 or self.temperature <= 0:
            raise UsageError("A contrast of patches needs radius >= 1, positives >= 1 and temperature > 0.")

    @cached_property
    def near(self) -> Tensor:
        """Return which patches are neighbours, not counting oneself: a mask [patches, patches]."""
        rows, columns = (torch.arange(size) for size in self.grid)
        places = torch.cartesian_prod(rows, columns)
        distance = (places[:, None] - places[None]).abs().amax(dim=-1)
        return (distance > 0) & (distance <= self.radius)

    def contrast(self, tokens: Tensor) -> Tensor:
        """Return L_PC of every image, [n], from tokens [n, windows, patches, d], at least positives + 2 patches.

        Every anchor's mean over its positives, then the mean over anchors and windows.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            units = functional.normalize(tokens.float(), dim=-1)
            scores = units @ units.transpose(-2, -1) / self.temperature
            near = self.near.to(tokens.device)
            count = min(self.positives, int(near.sum(dim=1).max()))
            neighbours = scores.detach().masked_fill(~near, -torch.inf)
            best, chosen = neighbours.topk(count, dim=-1)
            valid = best.isfinite()
            itself = torch.eye(len(near), dtype=torch.bool, device=tokens.device)
            left_out = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, chosen, valid) | itself
            negatives = scores.masked_fill(left_out, -torch.inf).logsumexp(dim=-1, keepdim=True)
            losses = functional.softplus(negatives - scores.gather(-1, chosen)) * valid
            return (losses.sum(dim=-1) / valid.sum(dim=-1)).mean(dim=(1, 2))
