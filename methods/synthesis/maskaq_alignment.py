"""What MaskAQ adds to MimiQ: varied rows of attention, and attention that quantization leaves where it was.

"MaskAQ", ICML 2026; the method as a whole, and what is inferred in it, is in `methods.synthesis.maskaq`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from methods.models.attention import Operands
from methods.models.sites import AttentionSite

_LEAST_VARIANCE = 1e-8


@dataclass(frozen=True)
class RowSample:
    """Rows of a site's attention that are compared: those of some windows' queries, in every head."""

    site: AttentionSite
    windows: Tensor
    queries: Tensor

    @classmethod
    def draw(cls, site: AttentionSite, most: int, generator: torch.Generator) -> RowSample:
        """Draw at most `most` rows, as many from every head; one query per head where there are more heads."""
        patches = math.prod(site.grid)
        windows = max(1, min(site.windows, most // site.heads))
        queries = max(1, min(patches, most // (site.heads * windows)))
        drawn = [torch.randperm(n, generator=generator)[:k] for n, k in ((site.windows, windows), (patches, queries))]
        return cls(site, drawn[0], site.prefix + drawn[1])

    def loss(self, query: Tensor, key: Tensor) -> Tensor:
        """Return L_fb of every image, [n]: minus the entropy of a Gaussian with the variance of the rows' cosine
        similarities, from query and key [n, windows, heads, tokens, d]."""
        windows, queries = self.windows.to(query.device), self.queries.to(query.device)
        with torch.autocast(query.device.type, enabled=False):
            query, key = query[:, windows].float(), key[:, windows].float()
            rows = _logits(self.site, query[:, :, :, queries], key).softmax(dim=-1)
            units = functional.normalize(rows.flatten(1, 3), dim=-1)
            first, second = torch.triu_indices(units.shape[1], units.shape[1], 1, device=units.device)
            similarities = (units @ units.transpose(1, 2))[:, first, second]
            variance = similarities.var(dim=1, correction=0) + _LEAST_VARIANCE
            return -0.5 * torch.log(2 * math.pi * math.e * variance)


def masked_difference(site: AttentionSite, exact: Operands, rough: Operands, kept: Tensor, share: float) -> Tensor:
    """Return L_align of every image, [n]: the mean absolute difference of two models' logits of attention.

    exact, rough: query and key of the floating-point and the quantized model; kept: mask [n, windows, heads,
    patches] of what is not dropped; share: of the patches of a row, those with the largest exact logits.
    """
    target, found = _class_logits(site, *exact), _class_logits(site, *rough)
    count = max(1, round(share * target.shape[-1]))
    chosen = target.detach().topk(count, dim=-1).indices
    mask = torch.zeros_like(kept).scatter_(-1, chosen, True).logical_and_(kept)
    total = ((found - target).abs() * mask).sum(dim=(1, 2, 3))
    return total / mask.sum(dim=(1, 2, 3)).clamp(min=1)


def _class_logits(site: AttentionSite, query: Tensor, key: Tensor) -> Tensor:
    """Return logits over the patches [n, windows, heads, patches]: of the class token, or the mean over queries."""
    first, last = (0, 1) if site.class_token else (site.prefix, query.shape[-2])
    with torch.autocast(query.device.type, enabled=False):
        query = query[..., first:last, :].float().mean(dim=-2, keepdim=True)
        return _logits(site, query, key[..., site.prefix :, :].float()).squeeze(-2)


def _logits(site: AttentionSite, query: Tensor, key: Tensor) -> Tensor:
    return (query * site.factor) @ key.transpose(-2, -1)
