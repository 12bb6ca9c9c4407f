"""The method `smi`: sparse model inversion, `dmi` on ever fewer patches.

Hu et al., "Sparse Model Inversion: Efficient Inversion of Vision Transformers for Data-Free Applications", ICML
2024. At its points the patches that get the least attention from the class token in the last block, mean over
heads, are removed for good behind the positional embedding (`methods.synthesis.smi`): later steps work on fewer
tokens. The attention is that of the step before; both steps show the images as they are, at all others the remaining
patches follow rolls and flips to the nearest patch. In the end pruned patches are zero, the mean colour. Inferred,
beside what `dmi` is: how points and counts are rounded, and that short runs draw the points together. The code
calibrates quantizers on the kept patches alone; here a backend is given whole images, zeros included.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from methods.contracts import SynthesisContext, SyntheticImages
from methods.errors import UsageError
from methods.models.architecture import attention_sites
from methods.models.attention import attention_maps
from methods.models.sites import AttentionSite
from methods.optimisation.views import View
from methods.synthesis.dmi import DMI, DMIConfig, InversionLoss
from methods.text import words

_LAST_POINT = 0.75


@dataclass(frozen=True)
class SMIConfig(DMIConfig):
    """Settings of sparse inversion: those of dense inversion, and when how much is pruned."""

    prune_at: str = "50,100,200,300"
    """Steps, counted from 0, from which on there are fewer patches; a run that is not a third longer than the last of
    them draws them together in proportion, to leave a quarter of its steps behind the last."""
    prune_ratio: float = 0.3
    """The share of the remaining patches that goes at each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (words(self.prune_at) and all(map(str.isdecimal, words(self.prune_at)))):
            raise UsageError(f"smi.prune_at is a list of steps such as 50,100, not {self.prune_at!r}.")
        if not 0 < self.prune_ratio < 1:
            raise UsageError("smi needs prune_ratio between 0 and 1.")

    def points(self) -> list[int]:
        """Return the first steps with fewer patches."""
        written = [max(1, int(word)) for word in words(self.prune_at)]
        scale = min(1.0, _LAST_POINT * self.iterations / max(written))
        drawn = {max(1, round(scale * step)) for step in written}
        return sorted(step for step in drawn if step < self.iterations)


class _SparseLoss(InversionLoss):
    """The loss on the patches that are left, which it prunes between steps."""

    config: SMIConfig

    def __init__(self, model: nn.Module, config: SMIConfig, context: SynthesisContext) -> None:
        """Raises UsageError for models without a class token, whose attention ranks the patches."""
        self.site = ranking_site(model)
        super().__init__(model, config, context)
        rows, columns = self.site.grid
        self.patch = context.space.height // rows, context.space.width // columns
        self.kept = torch.arange(rows * columns, device=context.device).expand(config.images, -1)
        self.points, self.attention = set(config.points()), list[Tensor]()

    def state(self) -> dict[str, Tensor]:
        """Return the patches that are left, [n, k]."""
        return {"kept": self.kept}

    def resume(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` returned."""
        self.kept = state["kept"].to(self.kept.device)

    def view(self, step: int) -> View:
        """Show the images as they are around a point."""
        return View() if {step, step + 1} & self.points else super().view(step)

    def logits(self, batch: Tensor, rows: slice, view: View, step: int) -> Tensor:
        """Pass the patches that are left through the model, and prune behind the last batch before a point."""
        ranked = [self.site] if step + 1 in self.points else []
        kept = followed(self.kept[rows], view, self.site.grid, self.patch)
        with only_patches(self.model, kept), attention_maps(ranked, len(batch)) as maps:
            logits = super().logits(batch, rows, view, step)
        self.attention += [found.detach()[:, 0].mean(dim=1) for found in maps]
        if ranked and rows.stop == self.config.images:
            self.kept = strongest(self.kept, torch.cat(self.attention), self.config.prune_ratio)
            self.attention.clear()
        return logits


def ranking_site(model: nn.Module) -> AttentionSite:
    """Return the last site of a ViT with a class token; raises UsageError for another model."""
    site = attention_sites(model)[-1]
    if not site.class_token:
        raise UsageError("smi ranks patches by the attention of the class token, and this model has none.")
    if not isinstance(model, VisionTransformer):
        raise UsageError(f"smi leaves patches out of a ViT, and {type(model).__name__} is none.")
    return site


class SMI(DMI):
    """Sparse model inversion: pixels of those patches alone that the class token attends to."""

    name = "smi"
    paper = "SMI (ICML 2024)"
    config_class = SMIConfig
    inferred = "calibration on pruned patches too, as zeros; rolls for other sizes; clamping; points of short runs"
    space: ClassVar = {**DMI.space, "prune_ratio": {"min": 0.1, "max": 0.5}}

    def check(self, model: nn.Module, config: SMIConfig) -> None:
        """Refuse models whose patches cannot be left out by the attention of a class token."""
        ranking_site(model)

    def image_passes(self, config: SMIConfig) -> float:
        """Count an image at a step as the share of its patches that is left."""
        ends = [*config.points(), config.iterations]
        spans = [end - start for start, end in itertools.pairwise([0, *ends])]
        return config.images * sum(span * (1 - config.prune_ratio) ** done for done, span in enumerate(spans))

    def synthesize(self, model: nn.Module, config: SMIConfig, context: SynthesisContext) -> SyntheticImages:
        """Invert and prune; refuses models without a class token."""
        loss = _SparseLoss(model, config, context)
        made = loss.minimised()
        kept = loss.kept.cpu()
        made.images = erased(made.images, kept, loss.site.grid)
        made.extras["kept"] = kept
        return made


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
