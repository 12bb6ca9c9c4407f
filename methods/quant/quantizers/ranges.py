"""How a quantizer's range is chosen: known without data, from minimum and maximum, or among percentiles by error.

The percentile search is the sibling convention of SPDFQ's unpublished initialisation (RepQ-ViT, I&S-ViT,
ERQ): clip at each percentile, quantize, keep the one with the least mean squared error.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

_LONG_ROW, _SAMPLE = 200_000, 50_000
ACTIVATION_PERCENTILES = (0.999, 0.9999, 0.99999)
FakeQuantize = Callable[[Tensor, Tensor], Tensor]
"""Returns values on the grid of a scale, both given."""
CLIPPING_PERCENTILES = (0.9, 0.94, 0.97, 0.98, 0.99, 0.995, 0.999, 1.0)
"""For weights at few bits: of normal values three bits err least at 98 %, a third less than over nearly all of them,
four bits at 99.5 %, a tenth or more less; eight bits over all."""
WEIGHT_PERCENTILES = (0.97, 0.98, 0.99, 0.995, 0.9995, 0.9997, 0.9999, 0.99995, 0.99999)


class AnyGrid(Protocol):
    """What a search needs of a grid; the shift is a zero point or an offset."""

    def over(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return (scale [r], shift [r]) of the grid over [low, high]."""

    def round(self, rows: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Return rows [r, n] on the grid of their own scale [r] and shift [r]."""


@dataclass(frozen=True)
class Grid:
    """An integer grid qmin..qmax; symmetric ones have their zero point at 0."""

    qmin: int
    qmax: int
    symmetric: bool

    def over(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return (scale, zero point) of the grid over [low, high] widened to hold zero.

        Symmetric: scale = max(|low|, |high|) / ((qmax-qmin)/2), z = 0; else s = (high-low)/(qmax-qmin),
        z = round(-low/s). An empty range (an all-zero channel) gets scale 1, which maps zero to zero.
        """
        low, high = low.clamp(max=0), high.clamp(min=0)
        span = 2 * torch.maximum(-low, high) if self.symmetric else high - low
        scale = span / (self.qmax - self.qmin)
        scale = torch.where(scale > torch.finfo(torch.float32).tiny, scale, torch.ones_like(scale))
        zero = torch.zeros_like(scale) if self.symmetric else torch.round(-low / scale) + self.qmin
        return scale, zero.clamp(self.qmin, self.qmax)

    def round(self, rows: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """Return rows [r, n] on the grid of their own scale [r] and zero point [r]."""
        low, high = (self.qmin - zero)[:, None], (self.qmax - zero)[:, None]
        return rows.div(scale[:, None]).round_().clamp_(low, high).mul_(scale[:, None])


@dataclass(frozen=True)
class OffsetGrid:
    """A grid of levels+1 steps that begins where the values do, whether or not that lets it hold zero."""

    levels: int

    def over(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return (scale, offset): (high-low)/levels and low.

        Empty ranges (constant rows) get the mean scale of the other rows, or 1 if there is none: a step
        like their neighbours', at which they lie exactly on the grid.
        """
        scale = (high - low) / self.levels
        empty = scale <= torch.finfo(torch.float32).tiny
        others = scale.masked_fill(empty, 0.0).sum() / (~empty).sum().clamp(min=1)
        return torch.where(empty, torch.where(others > 0, others, torch.ones_like(others)), scale), low

    def round(self, rows: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        """Return rows [r, n] on the grid of their own scale [r] and offset [r]."""
        scale, offset = scale[:, None], offset[:, None]
        return rows.sub(offset).div_(scale).round_().clamp_(0, self.levels).mul_(scale).add_(offset)


def symmetric_grid(bits: int) -> Grid:
    """Return the grid -2^(b-1)..2^(b-1)-1."""
    return Grid(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, symmetric=True)


def asymmetric_grid(bits: int) -> Grid:
    """Return the grid 0..2^b-1."""
    return Grid(0, 2**bits - 1, symmetric=False)


class RangeSearch(ABC):
    """Chooses ranges for rows of values; one row is one scale. Only finite values count."""

    known: ClassVar[bool] = False
    """Whether the range is right whatever is seen, so that nothing may move it later."""

    def __call__(self, rows: Tensor, grid: AnyGrid) -> tuple[Tensor, Tensor]:
        """Return (scale [r], zero point or offset [r]) for rows [r, n]."""
        return self._range(finite(rows), grid)

    def upper(self, values: Tensor, fake: FakeQuantize) -> Tensor:
        """Return the scale (0-dim), the largest value of a grid for non-negative values [n] that `fake` rounds to."""
        return self._upper(finite(values[None]).squeeze(0), fake)

    @abstractmethod
    def _range(self, rows: Tensor, grid: AnyGrid) -> tuple[Tensor, Tensor]: ...

    @abstractmethod
    def _upper(self, values: Tensor, fake: FakeQuantize) -> Tensor: ...

    @abstractmethod
    def describe(self) -> str:
        """Name the search in a word or two."""


class MinMaxRange(RangeSearch):
    """The full range of the values seen."""

    def _range(self, rows: Tensor, grid: AnyGrid) -> tuple[Tensor, Tensor]:
        low, high = rows.aminmax(dim=1)
        return grid.over(low, high)

    def _upper(self, values: Tensor, fake: FakeQuantize) -> Tensor:
        return _positive(values.amax())

    def describe(self) -> str:
        """Name it."""
        return "min-max"


@dataclass(frozen=True)
class KnownRange(RangeSearch):
    """A range known without data, the same whatever values are seen."""

    known: ClassVar[bool] = True
    low: float
    high: float

    def _range(self, rows: Tensor, grid: AnyGrid) -> tuple[Tensor, Tensor]:
        ends = torch.tensor([[self.low], [self.high]], dtype=rows.dtype, device=rows.device)
        low, high = ends.expand(2, len(rows))
        return grid.over(low, high)

    def _upper(self, values: Tensor, fake: FakeQuantize) -> Tensor:
        return torch.tensor(self.high, dtype=values.dtype, device=values.device)

    def describe(self) -> str:
        """Name it, with its ends."""
        return f"known range {self.low:.4g} to {self.high:.4g}"


class PercentileRange(RangeSearch):
    """The percentile clip [quantile(1-p), quantile(p)], p among `percentiles`, of least squared error."""

    def __init__(self, percentiles: tuple[float, ...]) -> None:
        self.percentiles = percentiles

    def _range(self, rows: Tensor, grid: AnyGrid) -> tuple[Tensor, Tensor]:
        best_error = torch.full((len(rows),), torch.inf, device=rows.device)
        best_scale = torch.ones(len(rows), device=rows.device)
        best_zero = torch.zeros(len(rows), device=rows.device)
        for low, high in _clips(rows, self.percentiles):
            scale, zero = grid.over(low, high)
            error = grid.round(rows, scale, zero).sub_(rows).square_().mean(dim=1)
            better = error < best_error
            best_error = torch.where(better, error, best_error)
            best_scale = torch.where(better, scale, best_scale)
            best_zero = torch.where(better, zero, best_zero)
        return best_scale, best_zero

    def _upper(self, values: Tensor, fake: FakeQuantize) -> Tensor:
        ranks = _ranks(len(values), self.percentiles)
        highest = _largest(values[None], max(ranks)).squeeze(0)
        candidates = [_positive(highest[rank - 1]) for rank in ranks]
        errors = [fake(values, scale).sub_(values).square_().mean() for scale in candidates]
        return candidates[int(torch.stack(errors).argmin())]

    def describe(self) -> str:
        """Name it."""
        return "percentile by MSE"


def _ranks(count: int, percentiles: tuple[float, ...]) -> list[int]:
    """Return which of `count` values, from the end (1 is the outermost), is nearest to each percentile."""
    return [max(1, round((1 - p) * (count - 1)) + 1) for p in percentiles]


def _clips(rows: Tensor, percentiles: tuple[float, ...]) -> list[tuple[Tensor, Tensor]]:
    """Return (low [r], high [r]) for every percentile: order statistics nearest to it, from both ends."""
    ranks = _ranks(rows.shape[1], percentiles)
    highest = _largest(rows, max(ranks))
    lowest = -_largest(-rows, max(ranks))
    return [(lowest[:, rank - 1], highest[:, rank - 1]) for rank in ranks]


def _largest(rows: Tensor, keep: int) -> Tensor:
    """Return the `keep` largest values of every row [r, n], in falling order.

    Searching millions of values for a few thousand is slow: in a single long row, only the values above a
    bound taken from a sample are searched. The result is exact; should too few pass, the row is searched.
    """
    if len(rows) == 1 and rows.shape[1] > _LONG_ROW:
        sample = rows[0, :: rows.shape[1] // _SAMPLE].sort(descending=True).values
        bound = sample[min(len(sample) - 1, 4 * keep * len(sample) // rows.shape[1] + 16)]
        above = rows[rows >= bound]
        if len(above) >= keep:
            return above.topk(keep).values[None]
    return rows.topk(keep, dim=1).values


def finite(rows: Tensor) -> Tensor:
    """Return rows [r, n] with infinities at the ends of each row's finite values and NaN at the one nearer zero."""
    if bool(torch.stack(rows.aminmax()).isfinite().all()):
        return rows
    known = rows.isfinite()
    low = rows.masked_fill(~known, torch.inf).amin(dim=1, keepdim=True)
    high = rows.masked_fill(~known, -torch.inf).amax(dim=1, keepdim=True)
    none = low > high
    ends = low.masked_fill(none, 0.0), high.masked_fill(none, 0.0)
    return rows.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf).clamp(*ends)


def _positive(scale: Tensor) -> Tensor:
    """Return the scale, or 1 where all values are zero."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))
