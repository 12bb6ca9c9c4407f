"""L_PSE, minus the sum over blocks of the patch-similarity entropy, as a term of a method's loss.

It is read from the forward pass that the method's other terms come from (PSAQ-ViT, its successors FDD and
PSAQ-ViT V2), a micro-batch of images at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from methods.models.architecture import patch_sites
from methods.models.attention import attention_outputs
from methods.optimisation.patch_similarity import (
    DensityLaw,
    patch_similarity_entropy,
    smallest_similarity,
    unit_tokens,
)

OfLogits: TypeAlias = Callable[[Tensor, slice], dict[str, Tensor]]
"""Returns the terms a method makes of a micro-batch's logits [b, classes]; the slice says which images they are."""


def as_it_is(batch: Tensor) -> Tensor:
    """Return the batch."""
    return batch


class PatchEntropy:
    """Passes views through a model and makes the term `pse`, at all attention sites; weight 0 leaves it out."""

    def __init__(self, model: nn.Module, law: DensityLaw, weight: float, micro_batch: int) -> None:
        """Raises UsageError for a model whose attention is not understood."""
        self.model, self.law, self.weight, self.micro_batch = model, law, weight, micro_batch
        self.sites = patch_sites(model) if weight > 0 else []

    def terms(
        self, shown: Tensor, of_logits: OfLogits, look: Callable[[Tensor], Tensor] = as_it_is
    ) -> Iterator[dict[str, Tensor]]:
        """Yield, for every micro-batch of the views [n, C, H, W], the method's terms and the weighted L_PSE.

        look: what the model sees of a micro-batch; part of the graph of each one, so that it may keep tensors.
        """
        batches = shown.split(self.micro_batch)
        smallest, first = self._smallest(batches, look), 0
        for batch in batches:
            logits, units = self._read(look(batch))
            terms = of_logits(logits, slice(first, first + len(batch)))
            first += len(batch)
            if units:
                entropies = [patch_similarity_entropy(u, self.law, s) for u, s in zip(units, smallest, strict=True)]
                terms["pse"] = -self.weight * torch.stack(entropies).sum() / len(shown)
            yield terms

    def _smallest(self, batches: Sequence[Tensor], look: Callable[[Tensor], Tensor]) -> list[float | None]:
        """Return the batch's least similarity at each site, by a pass ahead; None where one micro-batch is all."""
        if len(batches) == 1 or not self.sites:
            return [None] * len(self.sites)
        with torch.no_grad():
            found = [[smallest_similarity(unit) for unit in self._read(look(batch))[1]] for batch in batches]
        return [min(least) for least in zip(*found, strict=True)]

    def _read(self, batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the logits and the unit tokens of every site."""
        with attention_outputs(self.sites) as outputs:
            logits = self.model(batch)
        pairs = zip(self.sites, outputs, strict=True)
        return logits, [unit_tokens(output, max(1, site.prefix)) for site, output in pairs]
