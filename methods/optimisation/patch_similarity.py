"""Patch-similarity entropy of PSAQ-ViT: how varied the cosine similarities between the patches of an image are.

Li et al., "Patch Similarity Aware Data-Free Quantization for Vision Transformers", ECCV 2022, section 3.2;
where the paper is silent, the values of the authors' public code (marked "code"). At every attention site the
outputs A.V are averaged over heads, token 0 is dropped (code: in Swin's windows too), and all pairs of tokens
of a window are compared. A Gaussian kernel density of an image's similarities, over all its windows, is read at
equidistant points between the smallest and the largest similarity of the whole batch, which are constants for
the gradient (code), and integrated to the differential entropy by the trapezoidal rule.

The same mathematics for less than the naive graph of pairs x points: every pair is visited once for both
orders; a token's similarity with itself, always 1 and the largest, is a constant; images are visited in chunks
that fit the processor's caches; and the gradient is formed with the value, so that only one tensor of the size
of the tokens is kept for the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from methods.errors import UsageError
from methods.models.architecture import patch_sites
from methods.models.attention import attention_outputs

_FLOOR = 1e-4  # added to densities before their logarithm (code)
_NEAREST_ZERO = 1e-8  # shortest token, as in torch's cosine similarity
_FAR = 8.0  # in sqrt(2) bandwidths; exp(-64) is lost beside the floor, beyond it denormal numbers are slow
_CHUNK = {"cpu": 1 << 20}  # pairs x points at once, a processor's cache; elsewhere:
_LARGE_CHUNK = 1 << 24


@dataclass(frozen=True)
class DensityLaw:
    """How the density of similarities is estimated."""

    bandwidth: float = 0.01
    """Standard deviation of the Gaussian kernel, in units of cosine similarity."""
    points: int = 10
    """How many equidistant points the density is read at (code: 0.01 and 10)."""

    def __post_init__(self) -> None:
        if self.bandwidth <= 0 or self.points < 2:
            raise UsageError("A kernel density needs bandwidth > 0 and points >= 2.")


def unit_tokens(outputs: Tensor, prefix: int = 1) -> Tensor:
    """Return what is compared, from attention outputs [n, windows, tokens, heads, d]: the mean over heads
    without the first `prefix` tokens, at length one, in float32 [n, windows, tokens - prefix, d]."""
    return functional.normalize(outputs[:, :, prefix:].float().mean(dim=3), dim=-1, eps=_NEAREST_ZERO)


def smallest_similarity(units: Tensor) -> float:
    """Return the least cosine similarity between two tokens of one window, of unit tokens [n, windows, t, d]."""
    with torch.no_grad(), _full_precision(units):
        return float((units @ units.transpose(-2, -1)).min())


def patch_similarity_entropy(units: Tensor, law: DensityLaw, smallest: float | None = None) -> Tensor:
    """Return the differential entropy of every image's patch similarities, [n], from `unit_tokens`.

    smallest: the least similarity of the whole batch, needed where `units` holds a part of it, so that the
    entropies do not depend on how a batch is divided.
    """
    entropies: Tensor = _Entropy.apply(units, law, smallest)
    return entropies


def _full_precision(units: Tensor) -> torch.autocast:
    """Return a context without autocast, whose 8 bits of mantissa are too few for a narrow kernel."""
    return torch.autocast(units.device.type, enabled=False)


class _Entropy(torch.autograd.Function):
    """Entropies of images and, in the same pass, their gradient with respect to the unit tokens."""

    @staticmethod
    def forward(ctx: Any, units: Tensor, law: DensityLaw, smallest: float | None) -> Tensor:
        with _full_precision(units):
            entropies, gradient = _with_gradient(units, law, smallest)
        ctx.save_for_backward(gradient)
        return entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return outer[:, None, None, None] * gradient, None, None


def _with_gradient(units: Tensor, law: DensityLaw, smallest: float | None) -> tuple[Tensor, Tensor]:
    """Return entropies [n] and their gradient in the shape of `units`."""
    similarities = units @ units.transpose(-2, -1)
    least = similarities.min() if smallest is None else similarities.new_tensor(smallest)
    windows, tokens = units.shape[1:3]
    rows, columns = torch.triu_indices(tokens, tokens, 1, device=units.device)
    upper = rows * tokens + columns
    pairs = similarities.flatten(2).index_select(2, upper).flatten(1)
    entropies, slopes = _entropies(pairs, windows * tokens, least.clamp(max=1), law)
    gradient = torch.zeros_like(similarities)
    gradient.flatten(2).index_copy_(2, upper, slopes.unflatten(1, (windows, -1)))
    return entropies, (gradient + gradient.transpose(-2, -1)) @ units


def _entropies(pairs: Tensor, selves: int, low: Tensor, law: DensityLaw) -> tuple[Tensor, Tensor]:
    """Return entropies [n] and their slopes [n, pairs] with respect to the similarity of each pair.

    pairs: similarities of the pairs i < j, each standing for (i, j) and (j, i); selves: how many similarities
    of a token with itself, all 1, belong to an image; low: the least similarity, 0-dim, which stays on its device, so
    that a GPU never waits.
    """
    scale = 1 / (law.bandwidth * math.sqrt(2))
    peak = 1 / ((2 * pairs.shape[1] + selves) * law.bandwidth * math.sqrt(2 * math.pi))
    half = (1 - low) / 2  # counted from the middle, so that little is lost in differences
    points = scale * half * torch.linspace(-1, 1, law.points, device=pairs.device)
    pairs = scale * (pairs - (low + half))
    weights = (2 * half / (law.points - 1)).repeat(law.points)
    weights[[0, -1]] /= 2
    constant = peak * selves * torch.exp(-(points - points[-1]).square()) + _FLOOR
    entropies, slopes = pairs.new_empty(len(pairs)), torch.empty_like(pairs)
    group = max(1, _CHUNK.get(pairs.device.type, _LARGE_CHUNK) // max(1, law.points * pairs.shape[1]))
    buffer = pairs.new_empty(min(group, len(pairs)), law.points, pairs.shape[1])
    for start in range(0, len(pairs), group):
        part = pairs[start : start + group]
        kernels = _kernels(points, part, buffer[: len(part)])
        density = 2 * peak * kernels.sum(dim=2) + constant
        entropies[start : start + group] = (-density * density.log()) @ weights
        steepness = -4 * peak * scale * weights * (density.log() + 1)
        # the sum over points of steepness * (point - pair) * kernel, without an array of the differences
        moments = torch.bmm(torch.stack([steepness * points, steepness], dim=1), kernels)
        torch.addcmul(moments[:, 0], part, moments[:, 1], value=-1, out=slopes[start : start + group])
    return entropies, slopes


def _kernels(points: Tensor, pairs: Tensor, out: Tensor) -> Tensor:
    """Write exp(-(x - s)^2) of every point x and pair s [n, pairs] to `out` [n, points, pairs] and return it."""
    torch.sub(points[:, None], pairs[:, None], out=out).clamp_(-_FAR, _FAR)
    return out.mul_(out).neg_().exp_()


OfLogits: TypeAlias = Callable[[Tensor, slice], dict[str, Tensor]]
"""Returns the terms a method makes of a micro-batch's logits [b, classes]; the slice says which images they are."""


def as_it_is(batch: Tensor) -> Tensor:
    """Return the batch."""
    return batch


class PatchEntropy:
    """Passes views through a model and makes the term `pse`, at all attention sites; weight 0 leaves it out.

    L_PSE is minus the sum over blocks of the entropy. It is read from the forward pass that a method's other terms
    come from (PSAQ-ViT, its successors FDD and PSAQ-ViT V2), a micro-batch of images at a time.
    """

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
