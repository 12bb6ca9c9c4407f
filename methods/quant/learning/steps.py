"""The steps that one unit learns by: Adam on its weights, roundings and scales, and what it is in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from methods.quant.insert import activation_quantizers, quantized_layers
from methods.quant.layers import QuantizedLayer
from methods.quant.learning.learned_parts import dropping, learnable, learned_rounding, learned_scales
from methods.quant.learning.objectives import Objective
from methods.quant.learning.settings import Learning
from methods.quant.quantizers.adaround import AdaRoundQuantizer, beta

_TRIALS = 10
"""How often a unit is tried on images kept back."""


def learn(
    unit: nn.Module,
    inputs: Tensor,
    objective: Objective,
    kept: Tensor,
    learning: Learning,
    generator: torch.Generator,
    report: Callable[[int], None],
) -> None:
    """Adam on what is learned of a unit, against its objective for what comes in [n, ...].

    kept: [n] (boolean), the images that no step sees and that what is kept in the end is chosen on, if there are any.
    """
    layers = [layer for _, layer in quantized_layers(unit)]
    seen = None if not bool(kept.any()) else (~kept).nonzero().flatten()
    with (
        learned_rounding(layers if learning.rounding == "adaround" else []) as roundings,
        learned_scales(unit if learning.scales == "learned" else nn.Identity()) as scales,
        dropping(activation_quantizers(unit), learning.drop, generator),
        learnable(plain_parameters(layers)) as plain,
        torch.enable_grad(),
    ):
        groups = [
            {"params": plain, "lr": learning.learning_rate},
            {"params": [rounding.up for rounding in roundings], "lr": learning.rounding_rate},
            *({"params": [q.scale], "lr": learning.scale_rate * q.scale.detach().abs().mean().item()} for q in scales),
        ]
        optimizer = torch.optim.Adam([group for group in groups if group["params"]], fused=inputs.is_cuda)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=learning.iterations)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        best = Best(unit, inputs, objective, kept, parameters)
        if seen is not None:
            best.look()  # where no step helps, the start stays
        for step in range(learning.iterations):
            objective.look(step / learning.iterations, lambda: unit.forward(inputs))
            chosen = batch_of(len(inputs), learning.batch, generator, inputs.device, seen)
            loss = objective(unit.forward(inputs[chosen]), chosen)
            loss = loss + learning.rounding_weight * rounding_penalty(roundings, step / learning.iterations)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            report(step + 1)
            if seen is not None and (step + 1) % max(1, learning.iterations // _TRIALS) == 0:
                best.look()
        best.restore()


class Best:
    """The state of what is learned with the least loss on images kept back."""

    def __init__(
        self, unit: nn.Module, inputs: Tensor, objective: Objective, kept: Tensor, parameters: list[Tensor]
    ) -> None:
        self._unit, self._inputs, self._objective, self._parameters = unit, inputs, objective, parameters
        self._kept = kept.nonzero().flatten()
        self._loss, self._state = float("inf"), [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def look(self) -> None:
        """Try the unit as it would be left now; keep its state if none before did better."""
        loss = float(self._objective(self._unit.forward(self._inputs[self._kept]), self._kept))
        if loss < self._loss:
            self._loss, self._state = loss, [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def restore(self) -> None:
        """Go back to the best state seen, if any was looked at."""
        if self._loss < float("inf"):
            for parameter, value in zip(self._parameters, self._state, strict=True):
                parameter.copy_(value)


def rounding_penalty(roundings: list[AdaRoundQuantizer], progress: float) -> Tensor | float:
    """Return the sum of the regularisers after a share of the steps."""
    exponent = beta(progress)
    return 0.0 if exponent is None else sum(rounding.regulariser(exponent) for rounding in roundings)


def plain_parameters(layers: Iterable[QuantizedLayer]) -> list[Tensor]:
    """Return the weights that are learned themselves, and all biases."""
    return [
        parameter
        for layer in layers
        for parameter in (
            None if isinstance(layer.weights, AdaRoundQuantizer) else layer.layer.weight,
            layer.layer.bias,
        )
        if parameter is not None
    ]


def batch_of(
    count: int, batch: int, generator: torch.Generator, device: torch.device, seen: Tensor | None = None
) -> Tensor | slice:
    """Return which of `count` images, or of those `seen`, a step takes; nothing is drawn where all are."""
    among = count if seen is None else len(seen)
    if not 0 < batch < among:
        return slice(None) if seen is None else seen
    drawn = torch.randperm(among, generator=generator)[:batch].to(device)
    return drawn if seen is None else seen[drawn]
