"""Is a difference real? Paired tests of two rows on the same images, corrected for many comparisons.

With one seed the test is McNemar's exact test. With several, each image has one difference summed over seeds, and
its sign is what chance decides: treating image x seed as independent pairs, as pooling into one McNemar table
does, calls differences real too often, because an image that is easy for one row is easy under all its seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05
Hits: TypeAlias = NDArray[np.int8]


@dataclass(frozen=True)
class Paired:
    """Row A against row B on the same images and seeds.

    difference: mean accuracy of A minus that of B over the common seeds, in points; only_a, only_b: (image, seed)
    pairs that only A, or only B, got right; by_seed: the difference under each common seed, in points.
    """

    difference: float
    only_a: int
    only_b: int
    by_seed: dict[int, float]
    p: float


def paired(a: Mapping[int, Hits], b: Mapping[int, Hits]) -> Paired | None:
    """Compare two rows given their per-image correctness (0 or 1, [n]) by seed; None when no seed is common.

    Raises ValueError when the rows count different numbers of images.
    """
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        return None
    gaps = np.stack([a[seed].astype(np.int64) - b[seed] for seed in seeds])
    count = gaps.shape[1]
    return Paired(
        difference=100 * float(gaps.sum()) / gaps.size,
        only_a=int((gaps > 0).sum()),
        only_b=int((gaps < 0).sum()),
        by_seed={seed: 100 * float(gap.sum()) / count for seed, gap in zip(seeds, gaps, strict=True)},
        p=sign_flip_p(gaps.sum(0)),
    )


def sign_flip_p(differences: NDArray[np.int64]) -> float:
    """Return the exact two-sided p of whole-number differences [n], each sign + or - with equal chance.

    The sum of m_k independent +-k has the characteristic function prod cos(k t)^m_k; its distribution is the
    inverse Fourier transform, exact to rounding (about 1e-15). All |d| = 1 is McNemar's exact test.
    """
    sizes = np.abs(differences)
    reach, total = int(sizes.sum()), int(abs(differences.sum()))
    if total == 0:
        return 1.0
    length = 1 << (2 * reach + 1).bit_length()
    angles = 2 * np.pi * np.arange(length // 2 + 1) / length
    spectrum = np.ones(len(angles))
    for size, count in enumerate(np.bincount(sizes)[1:].tolist(), 1):
        spectrum *= _power(np.cos(size * angles), count)
    chances = np.fft.irfft(spectrum, length)[total : reach + 1]
    return float(np.clip(2 * chances.sum(), 0.0, 1.0))


def _power(base: NDArray[np.float64], exponent: int) -> NDArray[np.float64]:
    """Return base ** exponent by repeated squaring, for whole exponents many times faster than `**`."""
    result = np.ones_like(base)
    while exponent:
        if exponent & 1:
            result *= base
        base = base * base
        exponent >>= 1
    return result


def holm(values: Sequence[float], comparisons: int | None = None) -> list[float]:
    """Return p-values adjusted by Holm's step-down rule, in the order given.

    comparisons: size of the whole family when `values` are only some of it (at least their number): the others are
    then taken to rank last, which is safe.
    """
    family = max(comparisons or 0, len(values))
    adjusted = [0.0] * len(values)
    floor = 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        floor = max(floor, min(1.0, (family - rank) * values[place]))
        adjusted[place] = floor
    return adjusted


def leaders(rows: Sequence[Mapping[int, Hits]], means: Sequence[float]) -> list[float | None]:
    """Return, for every row of a column, its adjusted p against the row of the highest mean.

    1 for the leader itself and None for a row that shares no seed with it. The family is all pairs of rows, not only
    those with the leader: the leader is picked by looking at the data.
    """
    first = max(range(len(rows)), key=means.__getitem__)
    found = {place: paired(rows[first], row) for place, row in enumerate(rows) if place != first}
    tested = [place for place, result in found.items() if result is not None]
    raw = [result.p for result in found.values() if result is not None]
    adjusted = dict(zip(tested, holm(raw, len(rows) * (len(rows) - 1) // 2), strict=True))
    return [1.0 if place == first else adjusted.get(place) for place in range(len(rows))]


def p_text(p: float) -> str:
    """Return a p-value as printed."""
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the Pareto front of (cost, value) pairs, cost ascending: no other pair costs less and is worth more."""
    found: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda pair: (pair[0], -pair[1])):
        if not found or value > found[-1][1]:
            found.append((cost, value))
    return found
