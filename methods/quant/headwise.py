"""One quantizer per attention head, where the others have one for all: the protocol of FIMA-Q, GLF-Q and their kin."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from methods.quant.quantizers.base import Quantizer


class HeadwiseQuantizer(nn.Module):
    """Quantizes the equal slices of a tensor along `dim`, one per head, each by a quantizer of its own.

    dim is that of the heads, or one that holds their channels side by side.
    """

    def __init__(self, maker: Callable[[int], Quantizer], bits: int, heads: int, dim: int) -> None:
        super().__init__()
        self.bits, self.dim = bits, dim
        self.heads = nn.ModuleList(maker(bits) for _ in range(heads))

    def forward(self, x: Tensor) -> Tensor:
        """Return x [...] with every head on its own grid, same shape."""
        slices = x.chunk(len(self.heads), dim=self.dim)
        return torch.cat([quantizer(part) for quantizer, part in zip(self.heads, slices, strict=True)], dim=self.dim)

    def describe(self) -> str:
        """Name the grid and that every head has one."""
        first = self.heads[0]
        assert isinstance(first, Quantizer)
        return f"{first.describe()}, per head"
