"""Which settings of a search mattered: permutation importance in a random forest, and rank correlation.

The same estimate whatever made the samples, so that a table does not depend on whether optuna is installed.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness.search.search import Sample, Search, figures

_FEWEST, _TREES, _SHUFFLES = 4, 50, 5
Importance: TypeAlias = tuple[float | None, float | None]


def importances(search: Search, samples: list[Sample]) -> dict[str, Importance]:
    """Return, by setting, its share of the importance for the first metric (shares add up to 1) and Spearman's rank
    correlation with it; None where there are fewer than four samples, nothing varies, or choices have no order.

    Only samples measured on all images count.
    """
    full = [sample for sample in samples if sample.n == search.images[-1]["n"]]
    values = np.array([figures(search, sample)[0] for sample in full])
    if len(full) < _FEWEST or np.ptp(values) == 0:
        return dict.fromkeys(search.space, (None, None))
    columns = np.array([[_place(search, name, sample) for name in search.space] for sample in full])
    shares = _shares(columns, values)
    return {
        name: (float(shares[place]), _correlation(search, name, columns[:, place], values))
        for place, name in enumerate(search.space)
    }


def _place(search: Search, name: str, sample: Sample) -> float:
    """Return a setting's value as a number: itself, or the place of a choice that is none."""
    value = sample.settings[name]
    choices = search.space[name].choices
    return float(choices.index(value)) if choices and not _ordered(choices) else float(value)


def _ordered(choices: tuple[object, ...]) -> bool:
    return all(isinstance(choice, int | float) for choice in choices)


def _shares(columns: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each column's permutation importance [d] for values [n], negative ones as 0, scaled to a sum of 1."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    forest = RandomForestRegressor(_TREES, random_state=0).fit(columns, values)
    raw = permutation_importance(forest, columns, values, n_repeats=_SHUFFLES, random_state=0).importances_mean
    kept = np.maximum(raw, 0)
    return np.asarray(kept / kept.sum() if kept.sum() else kept)


def _correlation(search: Search, name: str, column: NDArray[np.float64], values: NDArray[np.float64]) -> float | None:
    from scipy.stats import spearmanr

    choices = search.space[name].choices
    if np.ptp(column) == 0 or (choices and not _ordered(choices)):
        return None
    return float(spearmanr(column, values).statistic)
