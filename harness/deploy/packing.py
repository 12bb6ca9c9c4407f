"""Integer codes as bytes: one code a byte, or two where sixteen codes are all there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_NIBBLE = 16


def pack(codes: Tensor, grid: range) -> Tensor:
    """Return int32 codes of a grid as uint8 bytes [n]; with at most 16 codes the even places are the low halves."""
    import torch

    flat = (codes.flatten() - grid[0]).to(torch.uint8)
    if len(grid) > _NIBBLE:
        return flat
    flat = torch.nn.functional.pad(flat, (0, len(flat) % 2))
    return flat[::2] | flat[1::2] << 4


def unpack(octets: Tensor, grid: range, shape: list[int]) -> Tensor:
    """Return the int32 codes [*shape] of packed bytes; raises ValueError when these are of another number."""
    import math

    import torch

    count = math.prod(shape)
    if len(grid) <= _NIBBLE:
        octets = torch.stack([octets & (_NIBBLE - 1), octets >> 4], dim=1).flatten()[: count + count % 2]
        octets = octets[:count]
    if len(octets) != count:
        raise ValueError(f"{len(octets)} codes are stored where {count} belong.")
    return octets.to(torch.int32).reshape(shape) + grid[0]
