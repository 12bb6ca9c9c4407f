"""Where a search looks next: `random`, `grid`, or `optuna` (its tree-structured Parzen estimator).

A proposal depends on its number, the history and the search's seed alone, so a search that goes on from its records
takes the path it would have taken undisturbed. Random and grid need no optuna.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from harness.inputs.seeds import derived_seed
from harness.search.space import Dimension, Settings, Space
from methods.errors import UsageError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.study import Study

History: TypeAlias = Sequence[tuple[Settings, tuple[float, ...] | None]]
"""The points tried and what they gave, more being better; None for one that failed."""
_OPTUNA_SEEDS = 2**32


def check_search(kind: str, space: Space, samples: int) -> None:
    """Raise UsageError when optuna is asked for and missing, or a grid has more points than samples."""
    if kind == "optuna" and importlib.util.find_spec("optuna") is None:
        raise UsageError("--search optuna needs optuna: pip install -e '.[search]' (random and grid do not).")
    size = math.prod(len(dimension.grid()) for dimension in space.values())
    if kind == "grid" and size > samples:
        raise UsageError(f"The grid has {size} points, more than --samples {samples}; --space can narrow it.")


def grid_points(space: Space, start: Settings) -> list[Settings]:
    """Return the first point and then all others of the grid, the last setting changing fastest."""
    rows = itertools.product(*(dimension.grid() for dimension in space.values()))
    points = [dict(zip(space, row, strict=True)) for row in rows]
    return [start, *(point for point in points if point != start)]


def propose(kind: str, space: Space, start: Settings, history: History, seed: int, metrics: int) -> Settings | None:
    """Return the next point after those of the history, None when a grid is exhausted."""
    number = len(history)
    if number == 0:
        return start
    if kind == "grid":
        points = grid_points(space, start)
        tried = [settings for settings, _ in history]
        return next((point for point in points if point not in tried), None)
    own = derived_seed(seed, "search", str(number))
    if kind == "random":
        random = np.random.default_rng(own)
        return {name: dimension.draw(random) for name, dimension in space.items()}
    return _by_optuna(space, history, own, metrics)


def _by_optuna(space: Space, history: History, seed: int, metrics: int) -> Settings:
    import optuna

    known = distributions(space)
    study = new_study(seed, metrics)
    for settings, values in history:
        state = optuna.trial.TrialState.FAIL if values is None else optuna.trial.TrialState.COMPLETE
        study.add_trial(optuna.create_trial(state=state, params=settings, distributions=known, values=values))
    return dict(study.ask(fixed_distributions=known).params)


def new_study(seed: int, metrics: int) -> Study:
    """Return an empty study that maximizes."""
    import optuna

    return optuna.create_study(sampler=sampler(seed), directions=["maximize"] * metrics)


def sampler(seed: int) -> BaseSampler:
    """Return the sampler of both executors; optuna's own log is silent from then on."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.samplers.TPESampler(seed=seed % _OPTUNA_SEEDS)


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return a space in optuna's words."""
    return {name: _distribution(dimension) for name, dimension in space.items()}


def _distribution(dimension: Dimension) -> BaseDistribution:
    import optuna

    if dimension.choices:
        return optuna.distributions.CategoricalDistribution(dimension.choices)
    if dimension.whole:
        return optuna.distributions.IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return optuna.distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log)


class Halving:
    """The rule of asynchronous successive halving (ASHA, Li et al., MLSys 2020), as Ray Tune has it, factor 2.

    On a rung a sample goes on when it is not below the median of those that came there before it.
    """

    def __init__(self) -> None:
        self._rungs: dict[int, list[float]] = {}

    def keep(self, images: int, value: float) -> bool:
        """Note a sample's value (more is better) on a rung of so many images; returns whether it goes on."""
        before = self._rungs.setdefault(images, [])
        goes_on = not before or value >= float(np.median(before))
        before.append(value)
        return goes_on
