"""`clamp_search`: CLAMP-ViT's second stage (ECCV 2024), an evolutionary search of the scales, layer by layer.

Ramachandran, Kundu, Krishna, "CLAMP-ViT: Contrastive Data-Free Learning for Adaptive Post-Training Quantization of
ViTs": scales evolve under a local contrastive fitness between outputs of the floating-point and the quantized layer.
Its public code has no search: all but the idea is inferred. The network starts as `minmax` makes it. Unit by unit
(patch embedding, block, Swin's merging, classifier), fed by the quantized network so far, every quantizer of the unit
gets a clipping factor f, its scale becoming f times that of minimum and maximum; factors of a unit are one individual.
The quantized output of a token is the anchor, the floating-point output of the same token its positive, those of the
image's other tokens the negatives (of the other images, where an output has no tokens):

    fitness = - mean over tokens of -log(e^(s_ii / t) / sum_j e^(s_ij / t)),   s cosine similarity, t = 0.1

The first generation is the start, all factors 1, and mutations of it; the
best one of each lives on, so that no unit ends less fit than it began. Weights are not learned; bit-widths are given,
not searched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.bits import Bits
from methods.contracts import Backend, QuantizationContext
from methods.errors import UsageError
from methods.models.architecture import completed, reconstruction_units
from methods.models.calls import aside
from methods.quant.calibrate import calibrate
from methods.quant.insert import fold_weights, insert_quantizers
from methods.quant.quantizers.uniform import UniformQuantizer
from methods.quant.recipe import MIN_MAX

Fitness: TypeAlias = Callable[[Tensor], float]
_MOST_TOKENS = 256
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


@dataclass(frozen=True)
class ClampSearchConfig(Evolution):
    """Settings of the search beside those of any evolution; all are inferred."""

    temperature: float = 0.1
    """The t of the loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0:
            raise UsageError("clamp_search needs temperature > 0.")


class ClampSearch(Backend):
    """Min-max quantizers whose clipping evolves."""

    name = "clamp_search"
    version = 2
    paper = "CLAMP-ViT (ECCV 2024), its search"
    config_class = ClampSearchConfig
    inferred = "everything but the idea: genes, units, fitness, operators, sizes; fixed bit-widths"
    space: ClassVar = {
        "population": {"min": 4, "max": 40},
        "generations": {"min": 0, "max": 20},
        "mutation": {"min": 0.01, "max": 0.3, "scaling": "log"},
        "least": {"choices": [0.2, 0.4, 0.6]},
    }

    def image_passes(self, config: Any, images: int) -> float:
        """Count calibration, targets, the pass of the search and one pass for every individual but the elite."""
        searched = (1 + (config.population - 1) * config.generations + 2) if config.generations else 0
        return images * (1 + searched) / 3

    def quantize(
        self, model: nn.Module, images: Tensor, bits: Bits, config: Any, context: QuantizationContext
    ) -> nn.Module:
        """Calibrate on the images, search unit by unit, fold the weights."""
        quantized = insert_quantizers(model, bits, MIN_MAX, context.space)
        calibrate(quantized, images)
        if config.generations and not bits.float:
            with torch.no_grad():
                _search(model, quantized, images, config, context)
        fold_weights(quantized)
        return quantized


def contrastive_fitness(output: Tensor, target: Tensor, temperature: float) -> float:
    """Return the fitness, at most 0, of a quantized output against the floating-point one, both [n, ..., d].

    Tokens are all dimensions between the first and the last, at most 256 of them, evenly spaced; where there are
    none, images take their place.
    """
    scores = _units(output) @ _units(target).transpose(1, 2) / temperature
    return float(scores.log_softmax(dim=-1).diagonal(dim1=1, dim2=2).mean())


def _units(output: Tensor) -> Tensor:
    """Return tokens of length one, [n, tokens, d]."""
    tokens = output[None] if output.dim() == 2 else output.flatten(1, -2)
    return functional.normalize(tokens[:, :: -(-tokens.shape[1] // _MOST_TOKENS)], dim=-1)


def _search(
    model: nn.Module, quantized: nn.Module, images: Tensor, config: ClampSearchConfig, context: QuantizationContext
) -> None:
    """Search every unit before it runs, in one forward pass of the quantized network, which goes on through it."""
    targets: dict[str, Tensor] = {}
    names = [name for name, _ in reconstruction_units(model)]
    hooks = [unit.register_forward_hook(partial(_keep, targets, name)) for name, unit in reconstruction_units(model)]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()

    @aside()
    def search(name: str, unit: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        with completed(unit, arguments[1:], options):
            search_unit(unit, arguments[0], targets.pop(name), config, context.generator)
        context.report(len(names) - len(targets), len(names))

    hooks = [
        quantized.get_submodule(name).register_forward_pre_hook(partial(search, name), with_kwargs=True)
        for name in names
    ]
    try:
        quantized(images)
    finally:
        for hook in hooks:
            hook.remove()


def _keep(targets: dict[str, Tensor], name: str, _module: nn.Module, _arguments: Any, output: Tensor) -> None:
    targets[name] = output


def search_unit(
    unit: nn.Module, inputs: Tensor, target: Tensor, config: ClampSearchConfig, generator: torch.Generator
) -> None:
    """Give every quantizer of a unit, unless its range is known, the scale that the search finds best."""
    quantizers = [m for m in unit.modules() if isinstance(m, UniformQuantizer) and not m.search.known]
    scales = [quantizer.scale for quantizer in quantizers]

    def clip(factors: Tensor) -> None:
        for quantizer, scale, factor in zip(quantizers, scales, factors.tolist(), strict=True):
            quantizer.scale = scale * factor

    def fitness(factors: Tensor) -> float:
        clip(factors)
        return contrastive_fitness(unit.forward(inputs), target, config.temperature)

    clip(evolve(fitness, len(quantizers), config, generator))
