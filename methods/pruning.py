"""Patches left out of a stock vision transformer: sparse model inversion (SMI, ICML 2024).

Patches are numbered row by row; `kept` [n, k] holds those that every image of a batch still has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from methods.optimisation.views import View


@contextmanager
def only_patches(model: VisionTransformer, kept: Tensor) -> Iterator[None]:
    """Let, inside the `with`, only the prefix tokens and the kept patches of every image into the blocks.

    The others are removed after the positional embedding, where timm has its patch dropout: all that follows works
    on fewer tokens, and no gradient reaches their pixels.
    """

    def select(_module: nn.Module, _arguments: Any, tokens: Tensor) -> Tensor:
        prefix = model.num_prefix_tokens
        patches = tokens[:, prefix:].gather(1, kept[..., None].expand(-1, -1, tokens.shape[2]))
        return torch.cat([tokens[:, :prefix], patches], dim=1)

    hook = model.patch_drop.register_forward_hook(select)
    try:
        yield
    finally:
        hook.remove()


def followed(kept: Tensor, view: View, grid: tuple[int, int], patch: tuple[int, int]) -> Tensor:
    """Return where the kept patches are in a view of the image, each at the nearest patch of the grid.

    grid: rows and columns of patches; patch: height and width of one, in pixels.
    """
    rows, columns = grid
    row = (kept // columns + round(view.down / patch[0])) % rows
    column = (kept % columns + round(view.right / patch[1])) % columns
    return row * columns + (columns - 1 - column if view.flipped else column)


def strongest(kept: Tensor, attention: Tensor, ratio: float) -> Tensor:
    """Return what is left of the kept patches without the share `ratio` that gets the least `attention` [n, k]."""
    count = max(1, round((1 - ratio) * kept.shape[1]))
    return kept.gather(1, attention.topk(count, dim=1).indices.sort(dim=1).values)


def erased(images: Tensor, kept: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return images [n, C, H, W] with zeros in place of the patches that are not kept."""
    rows, columns = grid
    mask = torch.zeros((len(images), rows * columns), dtype=torch.bool, device=images.device).scatter_(1, kept, True)
    mask = mask.unflatten(1, (1, rows, columns)).repeat_interleave(images.shape[2] // rows, dim=2)
    return images.masked_fill(~mask.repeat_interleave(images.shape[3] // columns, dim=3), 0.0)
