"""Where attention can be read in a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn


@dataclass(frozen=True)
class AttentionSite:
    """One attention map of a module: block `depth` (1-based) of `depths`, and the grid its keys lie on.

    grid: rows and columns of the map one head attends over - all patches for a ViT, one window for Swin;
    windows: maps per image; prefix: tokens before the patches; class_token: whether token 0 is the class
    token, whose row stands for the head (otherwise the mean over all queries does); scores, mixed: the module's
    products Q K^T and A V by number (one and the same for fused attention), None where its operands are read at its
    projection; side: which operand of A V the softmax output is; heads_first: whether heads come before windows;
    queries: tokens that attend, None for as many as there are keys.
    """

    module: nn.Module
    depth: int
    depths: int
    heads: int
    grid: tuple[int, int]
    windows: int
    prefix: int
    class_token: bool
    scores: int | None = None
    mixed: int | None = None
    side: str = "left"
    heads_first: bool = False
    scale: float | None = None
    queries: int | None = None

    @property
    def factor(self) -> float:
        """What the products of query and key are multiplied with."""
        scale: float = self.module.scale if self.scale is None else self.scale  # type: ignore[assignment]
        return scale


_MOST_PATCHES = 1024


def between_patches(sites: Sequence[AttentionSite]) -> list[AttentionSite]:
    """Return the sites at which every patch of a grid attends to the same grid.

    Left out are those of a class token alone, of pooled keys or queries, and grids of more than 1024 patches outside
    ViT and Swin, whose pairs would fill the memory (inferred).
    """
    return [site for site in sites if site.queries is None or _between_patches(site, site.grid[0] * site.grid[1])]


def _between_patches(site: AttentionSite, patches: int) -> bool:
    return site.queries == site.prefix + patches and patches <= _MOST_PATCHES


def counterparts(sites: Sequence[AttentionSite], model: nn.Module, quantized: nn.Module) -> list[AttentionSite]:
    """Return the sites of a quantized copy of a model that stand where those of the model do."""
    names = {module: name for name, module in model.named_modules()}
    return [replace(site, module=quantized.get_submodule(names[site.module])) for site in sites]
