"""Block-by-block reconstruction: unit by unit, the quantized network learns to reproduce the original's outputs.

One pass through the quantized network. A hook before each unit catches what comes in from the units learned so
far, learns the unit on it, and lets the pass go on through the learned unit. What is learned of a unit, and how, is
`Learning`; towards what, `Targets` and `objectives`; the steps themselves are in `methods.quant.learning.steps`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from methods.contracts import Report
from methods.models.architecture import completed, reconstruction_units
from methods.models.calls import aside
from methods.models.rest import Rest
from methods.quant.learning.compensate import compensate
from methods.quant.learning.curvature import FisherObjective, PerturbationObjective, SensitivityObjective
from methods.quant.learning.objectives import FeatureObjective, LocalObjective, Objective
from methods.quant.learning.settings import Learning
from methods.quant.learning.steps import learn


def reconstruct(
    model: nn.Module,
    quantized: nn.Module,
    images: Tensor,
    learning: Learning,
    generator: torch.Generator,
    report: Report,
    originals: int | None = None,
) -> None:
    """Learn every unit of `quantized` in place, so that it puts out what its counterpart in `model` does (`target`).

    images: [n, C, H, W], of which inputs and targets are made, the first `originals` (None: all), then crops of these,
    in the same order; generator: draws batches and drops; report: is called after every step of every unit.
    """
    teacher = _Teacher(Targets(model, images, learning), learning, _rest(model, images, learning))
    kept = kept_back(len(images), originals or len(images), learning.held_out, images.device)
    total = len(teacher.targets.units) * learning.iterations
    before = []
    for index, name in enumerate(teacher.targets.units):
        step_done = partial(_report_from, report, index * learning.iterations, total)
        hook = partial(_learn_unit, teacher, name, kept, generator, step_done)
        before.append(quantized.get_submodule(name).register_forward_pre_hook(hook, with_kwargs=True))
    try:
        with torch.no_grad():
            quantized(images)
    finally:
        for handle in before:
            handle.remove()


def kept_back(count: int, originals: int, share: float, device: torch.device) -> Tensor:
    """Return which of `count` images are kept back [count] (boolean): the same of every `originals`."""
    place = torch.arange(count, device=device) % originals
    return place >= originals - round(share * originals)


def _rest(model: nn.Module, images: Tensor, learning: Learning) -> Rest | None:
    return None if learning.objective == "local" else Rest(model, images[:1])


def _report_from(report: Report, offset: int, total: int, step: int) -> None:
    report(offset + step, total)


@dataclass(frozen=True)
class _Teacher:
    """What units learn, and how."""

    targets: Targets
    learning: Learning
    rest: Rest | None

    def objective(self, name: str, unit: nn.Module, inputs: Tensor) -> Objective:
        """Return the objective of a unit for what comes in; units are to be asked for in their order."""
        target = self.targets.of(name, inputs)
        if self.rest is None or not self.rest.move_behind(name):
            return LocalObjective(target)
        weight = self.learning.local_weight
        match self.learning.objective:
            case "feature":
                return FeatureObjective(target, self.rest, weight)
            case "sensitivity":
                return SensitivityObjective(target, self.rest, weight, unit.forward(inputs))
            case "fisher":
                return FisherObjective(target, self.rest, self.learning.rank)
            case _:
                return PerturbationObjective(target, self.rest)


@torch.no_grad()
@aside()
def _learn_unit(
    teacher: _Teacher,
    name: str,
    kept: Tensor,
    generator: torch.Generator,
    report: Callable[[int], None],
    unit: nn.Module,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> None:
    """Learn a unit on what comes in; then compensate what is left channel by channel."""
    inputs, plain = arguments[0].detach(), teacher.targets.units[name]
    with completed(unit, arguments[1:], options), completed(plain, arguments[1:], options):
        if teacher.learning.iterations:
            learn(unit, inputs, teacher.objective(name, unit, inputs), kept, teacher.learning, generator, report)
        if teacher.learning.affine:
            compensate(plain, unit, inputs)


class Targets:
    """Gives a unit's target, (1 - a) f(x^) + a f(x): f the unit in floating point, x what comes in there, x^ here.

    a is 1 for `network`, 0 for `unit` and `Learning.damping` for `damped` (GPTAQ's damping of its asymmetric target,
    arXiv 2504.02692; for units it is inferred).
    """

    def __init__(self, model: nn.Module, images: Tensor, learning: Learning) -> None:
        """images: [n, C, H, W], those that learning sees."""
        self.units = dict(reconstruction_units(model))
        self._share = {"network": 1.0, "unit": 0.0, "damped": learning.damping}[learning.target]
        self._network = unit_outputs(model, images) if self._share else {}

    def of(self, name: str, inputs: Tensor) -> Tensor:
        """Return the target [n, ...] of a unit for what comes in there; to be asked for once."""
        network = self._network.pop(name, None)
        if network is not None and self._share == 1:
            return network
        own: Tensor = self.units[name](inputs)
        return own if network is None else own.lerp(network, self._share)


@torch.no_grad()
def unit_outputs(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return what every unit puts out in the floating-point network for images [n, C, H, W]."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str, _module: nn.Module, _arguments: Any, output: Tensor) -> None:
        outputs[name] = output

    after = [unit.register_forward_hook(partial(keep, name)) for name, unit in reconstruction_units(model)]
    try:
        model(images)
    finally:
        for hook in after:
            hook.remove()
    return outputs
