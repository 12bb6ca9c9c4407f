"""`clamp_search`: its fitness against a loop over tokens, elitism, and the scales it leaves."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import WIDE, noise, tiny_swin, tiny_vit
from torch import Tensor, nn

from methods.backends import clamp_search
from methods.backends.clamp_search import (
    ClampSearch,
    ClampSearchConfig,
    Evolution,
    contrastive_fitness,
    evolve,
    search_unit,
)
from methods.backends.minmax import MinMax, MinMaxConfig
from methods.bits import Bits
from methods.contracts import QuantizationContext
from methods.errors import UsageError
from methods.models.architecture import reconstruction_units
from methods.quant.calibrate import calibrate
from methods.quant.insert import insert_quantizers
from methods.quant.quantizers.uniform import UniformQuantizer
from methods.quant.recipe import MIN_MAX

W4A4 = Bits(4, 4)
CONFIG = ClampSearchConfig(population=6, generations=3)


def context(seed: int = 0) -> QuantizationContext:
    return QuantizationContext(torch.Generator().manual_seed(seed), WIDE)


def search(model: Any, seed: int = 0, bits: Bits = W4A4, **changes: Any) -> Any:
    return ClampSearch().quantize(model, noise(4), bits, dataclasses.replace(CONFIG, **changes), context(seed))


def slow_fitness(output: Tensor, target: Tensor, temperature: float) -> float:
    """The fitness of outputs [n, tokens, d], anchor by anchor, in float64."""
    terms = []
    for rough, exact in zip(output.double(), target.double(), strict=True):
        for i, anchor in enumerate(rough):
            scores = torch.stack([anchor @ other / anchor.norm() / other.norm() / temperature for other in exact])
            terms.append(scores[i] - scores.exp().sum().log())
    return float(torch.stack(terms).mean())


def test_fitness_equals_a_loop_over_tokens() -> None:
    target, output = noise(2, 5, seed=1).flatten(2), noise(2, 5, seed=2).flatten(2)
    target, output = target.transpose(1, 2), (target + 0.3 * output).transpose(1, 2)
    expected = slow_fitness(output, target, 0.3)
    assert contrastive_fitness(output, target, 0.3) == pytest.approx(expected, rel=1e-5)
    maps = [x.unflatten(1, (5, 5)) for x in (output, target)]
    assert contrastive_fitness(maps[0], maps[1], 0.3) == pytest.approx(expected, rel=1e-5)
    rows = slow_fitness(output[:1], target[:1], 0.3)
    assert contrastive_fitness(output[0], target[0], 0.3) == pytest.approx(rows, rel=1e-5)
    assert contrastive_fitness(target, target, 0.3) > expected


def test_fitness_takes_every_other_token_of_a_large_map() -> None:
    generator = torch.Generator().manual_seed(0)
    target, output = (torch.randn((1, 300, 8), generator=generator) for _ in range(2))
    expected = slow_fitness(output[:, ::2], target[:, ::2], 0.5)
    assert contrastive_fitness(output, target, 0.5) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_ever_met_is_returned_and_is_never_worse_than_the_start(seed: int) -> None:
    met: list[tuple[float, list[float]]] = []

    def fitness(factors: Tensor) -> float:
        value = -float((factors - torch.tensor([0.7, 0.5, 1.0])).square().sum())
        met.append((value, factors.tolist()))
        return value

    config = Evolution(population=8, generations=6)
    best = evolve(fitness, 3, config, torch.Generator().manual_seed(seed))
    assert met[0][1] == [1.0, 1.0, 1.0]
    assert best.tolist() == max(met)[1]
    assert max(met)[0] > 0.5 * met[0][0]
    assert len(met) == 1 + 7 * 6
    every = torch.tensor([factors for _, factors in met])
    assert config.least <= every.min().item()
    assert every.max().item() <= 1.0


def test_where_nothing_is_better_the_start_stays() -> None:
    """Rounding alone, as where all tokens of an image are the same, does not make anything better."""
    for fitness in (
        lambda factors: float(factors.sum()),
        lambda factors: 0.0,
        lambda f: 1e-6 * math.sin(99 * f.sum()),
    ):
        assert evolve(fitness, 4, CONFIG, torch.Generator().manual_seed(0)).tolist() == [1.0] * 4


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
def test_no_unit_ends_less_fit_than_it_began(build: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, float, float]] = []

    def spy(unit: Any, inputs: Tensor, target: Tensor, config: Any, generator: Any) -> None:
        before = contrastive_fitness(unit.forward(inputs), target, config.temperature)
        search_unit(unit, inputs, target, config, generator)
        after = contrastive_fitness(unit.forward(inputs), target, config.temperature)
        seen.append((before, after, float(inputs.sum())))

    monkeypatch.setattr(clamp_search, "search_unit", spy)
    model = build()
    search(model)
    assert len(seen) == len(reconstruction_units(model))
    assert all(after >= before for before, after, _ in seen)
    assert sum(after > before for before, after, _ in seen) > len(seen) / 2


def test_scales_are_those_of_minmax_times_a_factor_and_zero_points_stay() -> None:
    model, images = tiny_vit(), noise(4)
    start = insert_quantizers(model, W4A4, MIN_MAX, WIDE)
    calibrate(start, images)
    found = search(model)
    factors = set()
    for name, module in found.named_modules():
        if isinstance(module, UniformQuantizer):
            before: Any = start.get_submodule(name)
            ratio = (module.scale / before.scale).flatten()
            assert (ratio - ratio[0]).abs().max().item() < 1e-5
            assert 0.4 - 1e-5 <= ratio[0].item() <= 1.0
            assert torch.equal(module.zero_point, before.zero_point)
            factors.add(round(ratio[0].item(), 4))
    assert len(factors) > 5
    layer = found.blocks[0].mlp.fc1
    steps = layer.layer.weight / layer.weights.scale
    assert (steps - steps.round()).abs().max().item() < 1e-4


def test_no_generations_is_minmax_and_no_bits_the_plain_model() -> None:
    model, images = tiny_vit(), noise(4)
    expected = MinMax().quantize(model, images, W4A4, MinMaxConfig(), context())
    assert torch.equal(search(model, generations=0)(images), expected(images))
    assert not torch.equal(search(model)(images), expected(images))
    assert torch.equal(search(model, bits=Bits(32, 32))(images), model(images))


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
def test_the_generator_alone_decides_and_the_model_is_left_alone(build: Callable[[], Any]) -> None:
    model = build()
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(1)
    first = search(model, seed=3)(noise(2))
    torch.manual_seed(2)
    assert torch.equal(search(model, seed=3)(noise(2)), first)
    assert not torch.equal(search(model, seed=4)(noise(2)), first)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_settings_estimates_and_refusals() -> None:
    assert ClampSearch().image_passes(ClampSearchConfig(population=12, generations=5), 3) == 1 + 1 + 55 + 2
    assert ClampSearch().image_passes(ClampSearchConfig(generations=0), 3) == 1
    with pytest.raises(UsageError, match="Identity is not supported"):
        search(nn.Identity())
    bad: dict[str, Any]
    for bad, message in (
        ({"population": 3}, "population >= 4"),
        ({"mutation": 0.0}, "mutation > 0"),
        ({"temperature": 0.0}, "temperature > 0"),
        ({"least": 1.0}, "least < 1"),
        ({"chance": 0.0}, "chance <= 1"),
    ):
        with pytest.raises(UsageError, match=message):
            ClampSearchConfig(**bad)
