"""A small evolutionary search over factors: elitism, uniform crossover of the better half, Gaussian mutation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from methods.errors import UsageError

Fitness: TypeAlias = Callable[[Tensor], float]
_ROUNDING = 1e-5
"""What a fitness computed in single precision may gain by rounding alone."""


@dataclass(frozen=True)
class Evolution:
    """How a search by evolution goes."""

    population: int = 12
    """Individuals of a generation."""
    generations: int = 5
    """How many are evaluated."""
    mutation: float = 0.1
    """Standard deviation of a changed factor's step."""
    chance: float = 0.5
    """Probability of a factor to be changed."""
    least: float = 0.4
    """The smallest factor (the largest is 1)."""

    def __post_init__(self) -> None:
        if self.population < 4 or self.generations < 0 or self.mutation <= 0:
            raise UsageError("An evolutionary search needs population >= 4, generations >= 0 and mutation > 0.")
        if not (0 < self.chance <= 1 and 0 < self.least < 1):
            raise UsageError("An evolutionary search needs 0 < chance <= 1 and 0 < least < 1.")


def evolve(fitness: Fitness, genes: int, law: Evolution, generator: torch.Generator) -> Tensor:
    """Return the factors [genes] of the highest fitness met, all ones where none is higher by more than rounding.

    The first generation is all ones and mutations of it; the best individual of each lives on unchanged.
    """
    population = torch.ones((law.population, genes))
    population[1:] = _mutated(population[1:], law, generator)
    values = [fitness(individual) for individual in population]
    start = values[0]
    for _ in range(law.generations - 1):
        population, values = _ranked(population, values)
        population[1:] = _mutated(_crossed(population, generator), law, generator)
        values[1:] = [fitness(individual) for individual in population[1:]]
    population, values = _ranked(population, values)
    return population[0] if values[0] > start + _ROUNDING else torch.ones(genes)


def _ranked(population: Tensor, values: list[float]) -> tuple[Tensor, list[float]]:
    """Return individuals and values from the best to the worst; of equals the first comes first."""
    order = torch.tensor(values, dtype=torch.float64).argsort(descending=True, stable=True)
    return population[order], [values[index] for index in order.tolist()]


def _crossed(population: Tensor, generator: torch.Generator) -> Tensor:
    """Return one child fewer than there are individuals [n, genes], of pairs out of the better half."""
    size = len(population)
    mothers, fathers = population[torch.randint(size // 2, (2, size - 1), generator=generator)]
    return torch.where(torch.rand(mothers.shape, generator=generator) < 0.5, mothers, fathers)


def _mutated(population: Tensor, law: Evolution, generator: torch.Generator) -> Tensor:
    """Move some genes of every individual [n, genes] by a Gaussian step."""
    changed = torch.rand(population.shape, generator=generator) < law.chance
    steps = law.mutation * torch.randn(population.shape, generator=generator)
    return (population + changed * steps).clamp(law.least, 1.0)
