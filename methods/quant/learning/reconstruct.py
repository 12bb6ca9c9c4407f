"""Block-by-block reconstruction: unit by unit, the quantized network learns to reproduce the original's outputs.

One pass through the quantized network. A hook before each unit catches what comes in from the units learned so
far, learns the unit on it, and lets the pass go on through the learned unit. What is learned of a unit, and how, is
`Learning`; towards what, `Targets` and `objectives`; the steps themselves are in `methods.quant.learning.steps`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from methods.contracts import Report
from methods.models.calls import aside
from methods.models.rest import Rest
from methods.quant.learning.compensate import compensate
from methods.quant.learning.objectives import FeatureObjective, LocalObjective, Objective, SensitivityObjective
from methods.quant.learning.settings import Learning
from methods.quant.learning.steps import learn
from methods.quant.learning.targets import Targets


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
        before.append(quantized.get_submodule(name).register_forward_pre_hook(hook))
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
        if self.learning.objective == "feature":
            return FeatureObjective(target, self.rest, self.learning.local_weight)
        return SensitivityObjective(target, self.rest, self.learning.local_weight, unit.forward(inputs))


@torch.no_grad()
@aside()
def _learn_unit(
    teacher: _Teacher,
    name: str,
    kept: Tensor,
    generator: torch.Generator,
    report: Callable[[int], None],
    unit: nn.Module,
    arguments: tuple[Tensor],
) -> None:
    """Learn a unit on what comes in; then compensate what is left channel by channel."""
    inputs = arguments[0].detach()
    if teacher.learning.iterations:
        learn(unit, inputs, teacher.objective(name, unit, inputs), kept, teacher.learning, generator, report)
    if teacher.learning.affine:
        compensate(teacher.targets.units[name], unit, inputs)
